"""What fitted of a file, what did not, and how that is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

ROWS_SHOWN = 20  # of each kind in a printed report


@dataclass(frozen=True)
class LoadReport:
    """What load_weights did, by parameter and buffer name of the model.

    Args:
        origin: the toolbox whose names the file has, see peers.PEERS.
        loaded: taken from the file.
        missing: in the model, not in the file; left as they were.
        unexpected: in the file (under its own names), not in the model.
        reshaped: (name, shape in the file, shape in the model); left as they were.
        conflicts: what no tensor shows but changes the features, such as a ReLU that the file's net did not have.
    """

    origin: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    conflicts: tuple[str, ...]

    def __str__(self) -> str:
        reshaped = [f"{name} {list(a)}, here {list(b)}" for name, a, b in self.reshaped]
        rows = _listed("not in the file", self.missing) + _listed("not in the model", self.unexpected)
        rows += _listed("of another shape", reshaped)
        table = tabulate(rows, ["not loaded, because", "module", "tensors"], tablefmt="pipe")
        lines = [f"{len(self.loaded)} tensors loaded (names of {self.origin})", *([table] if rows else [])]
        return "\n".join([*lines, *(f"Careful: {conflict}" for conflict in self.conflicts)])


def _listed(reason: str, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """A table row for each module: (reason, module, its tensors)."""
    modules: dict[str, list[str]] = {}
    for name in names:
        path, _, rest = name.partition(" ")
        module, _, tensor = path.rpartition(".")
        modules.setdefault(module, []).append(f"{tensor} {rest}".rstrip())
    rows = [(reason, module, ", ".join(tensors)) for module, tensors in modules.items()]
    if len(rows) > ROWS_SHOWN:
        rows = [*rows[:ROWS_SHOWN], (reason, f"... and {len(rows) - ROWS_SHOWN} more modules", "")]
    return rows
