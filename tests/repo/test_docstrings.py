"""Every public name says what it is, and an "Args:" section names exactly the parameters there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "projects/MLT/mlt").rglob("*.py"), *(ROOT / "mlt_ops").rglob("*.py")])
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Functions and classes of a module, and the methods of its classes, with dotted names."""
    for node in body:
        if isinstance(node, Definition):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{prefix}{node.name}.")


def documented_args(docstring: str) -> list[str] | None:
    """Names in the section "Args:"; None without one."""
    lines = docstring.expandtabs().splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip() == "Args:"), None)
    if start is None:
        return None
    names: list[str] = []
    indent: int | None = None
    for line in lines[start + 1 :]:
        here = len(line) - len(line.lstrip())
        if line.strip() and indent is None:
            indent = here
        if line.strip() and here < (indent or 0):
            break
        entry = re.match(r"\s*(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \(.*?\))?:", line)
        if entry and here == indent:
            names += [name.lstrip("*") for name in entry.group(1).split(", ")]
    return names


def parameters(node: Definition) -> list[str]:
    """Names of a function's parameters, of a class's constructor, or of a dataclass's fields."""
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init is not None:
            return parameters(init)
        return [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    args = node.args
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return [arg.arg for arg in every if arg is not None and arg.arg not in ("self", "cls")]


def faults(source: str) -> list[str]:
    """What is wrong with the docstrings of one file, with line numbers."""
    found = []
    for name, node in definitions(ast.parse(source).body):
        docstring = ast.get_docstring(node)
        is_public = not any(part.startswith("_") for part in name.split("."))
        if docstring is None:
            if is_public and "." not in name:
                found.append(f"line {node.lineno}: {name} has no docstring")
            continue
        documented, actual = documented_args(docstring), parameters(node)
        if documented is not None and documented != actual:
            found.append(f'line {node.lineno}: {name} documents "Args:" {documented}, the signature has {actual}')
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings(path: Path) -> None:
    found = faults(path.read_text())
    assert not found, "\n".join(f"{path.relative_to(ROOT)}, {fault}" for fault in found)


GOOD = '''
def f(a, *, b=1, **kwargs):
    """Do.

    Args:
        a: one,
            more: of it
        b (optional): two
        **kwargs: rest
    Returns:
        c: nothing
    """
class C:
    """A thing.

    Args:
        x, y: fields
    """
    x: int
    y: int
    def method(self): ...
def _private(): ...
'''


def test_the_rule_itself() -> None:
    assert faults(GOOD) == []
    assert faults(GOOD.replace("b (optional)", "c"))[0].startswith("line 2: f documents")
    assert faults(GOOD.replace("x, y: fields", "x: field"))[0].startswith("line 13: C documents")
    assert faults("def f(): ...") == ["line 1: f has no docstring"]
    assert faults("class C: ...") == ["line 1: C has no docstring"]
