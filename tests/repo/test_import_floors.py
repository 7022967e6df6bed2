"""Imports go down the floors only: what lies lower never knows what is built on it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MLT = ROOT / "projects/MLT/mlt"
FLOORS = {
    "mlt_ops": 0,
    **dict.fromkeys(["mlt.registry", "mlt.structures", "mlt.config", "mlt.utils"], 1),
    **dict.fromkeys(["mlt.data", "mlt.modeling", "mlt.clustering", "mlt.evaluation", "mlt.solver"], 2),
    "mlt.engine": 3,
    **dict.fromkeys(["mlt.adapters", "mlt.components", "mlt.api", "mlt"], 4),
}
MAY_USE_OPS = {"mlt.modeling", "mlt.clustering", "mlt.evaluation", "mlt.engine", "mlt.adapters", "mlt.api"}
# And the standard library. Only inside functions: scipy in SparseRows.to_scipy(), faiss where backend="faiss" asks.
OPS_MAY_USE = {"torch", "numpy", "scipy", "faiss"}
FASTREID_DOOR = MLT / "adapters/fastreid"


def module_name(path: Path, root: Path = ROOT) -> str:
    """Dotted name of a source file."""
    base = root / "projects/MLT" if "projects" in path.relative_to(root).parts else root
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str | None:
    """The entry of FLOORS that a module belongs to; None for other libraries."""
    words = module.split(".")
    if words[0] == "mlt_ops":
        return "mlt_ops"
    if words[0] != "mlt":
        return None
    return ".".join(words[:2]) if len(words) > 1 and ".".join(words[:2]) in FLOORS else "mlt"


def imported_modules(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything imported anywhere in a file, within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: None if is_package else -1]
            package = package[: len(package) - max(node.level - 1, 0)] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def complaint(module: str, imported: str) -> str | None:
    """Why a module must not import another; None if it may."""
    here, there = part_of(module), part_of(imported)
    if here is None or there is None or here == there:
        return None
    if FLOORS[there] > FLOORS[here]:
        return "imports go down only"
    if FLOORS[there] == FLOORS[here] == 2:
        return "the parts on floor 2 do not know each other"
    if there == "mlt_ops" and here not in MAY_USE_OPS:
        return f"only {', '.join(sorted(MAY_USE_OPS))} use mlt_ops"
    return None


def sources() -> list[Path]:
    return sorted([*MLT.rglob("*.py"), *(ROOT / "mlt_ops").rglob("*.py")])


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    module = module_name(path)
    found = []
    for line, imported in imported_modules(ast.parse(path.read_text()), module, path.name == "__init__.py"):
        reason = complaint(module, imported)
        if reason:
            here, there = part_of(module), part_of(imported)
            assert here is not None
            assert there is not None
            found.append(
                f"{path.relative_to(ROOT)}:{line} (floor {FLOORS[here]}, {here}) imports {imported} "
                f"(floor {FLOORS[there]}, {there}): {reason}"
            )
    assert not found, "\n".join(found)


def test_only_the_adapter_imports_fastreid() -> None:
    for path in sources():
        names = [name for _, name in imported_modules(ast.parse(path.read_text()), module_name(path), False)]
        assert FASTREID_DOOR in path.parents or not any(name.split(".")[0] == "fastreid" for name in names), path


def test_mlt_ops_needs_torch_only() -> None:
    allowed = OPS_MAY_USE | set(sys.stdlib_module_names) | {"mlt_ops"}
    for path in sorted((ROOT / "mlt_ops").rglob("*.py")):
        for line, name in imported_modules(ast.parse(path.read_text()), module_name(path), False):
            assert name.split(".")[0] in allowed, f"{path.relative_to(ROOT)}:{line} imports {name}"


@pytest.mark.parametrize(
    ("module", "imported", "allowed"),
    [
        ("mlt.data.build", "mlt.engine.hooks.EvalHook", False),
        ("mlt.data.build", "mlt.modeling.heads", False),
        ("mlt.data.build", "mlt.structures.Batch", True),
        ("mlt.data.build", "mlt_ops.knn", False),
        ("mlt.clustering.label_target", "mlt_ops.kmeans", True),
        ("mlt.utils.comm", "mlt.data", False),
        ("mlt.engine.trainer", "mlt.adapters.fastreid", False),
        ("mlt.components", "mlt.engine.pseudo_label_hook", True),
        ("mlt_ops.knn", "mlt.structures", False),
        ("mlt.data.build", "torch.utils", True),
    ],
)
def test_the_rule_itself(module: str, imported: str, allowed: bool) -> None:
    assert (complaint(module, imported) is None) == allowed


def test_relative_imports_are_resolved() -> None:
    tree = ast.parse("def f():\n    from ..engine import hooks\n    from . import build")
    assert [name for _, name in imported_modules(tree, "mlt.data.build", False)] == [
        "mlt.engine.hooks",
        "mlt.data.build",
    ]
