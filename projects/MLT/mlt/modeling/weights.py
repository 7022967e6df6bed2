"""Weights from a file into a model, with a report of what fitted and what did not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate
from torch import Tensor, nn

from mlt.utils.checkpoint import load_checkpoint

State = dict[str, Tensor]
WRAPPERS = ("model", "state_dict")  # keys under which checkpoints hold the state: ours and fast-reid's; peers'
NETS = ("backbone.", "heads.")
TEACHER = "teacher."
ROWS_SHOWN = 20  # of each kind in a printed report


@dataclass(frozen=True)
class LoadReport:
    """What load_weights did, by parameter and buffer name of the model.

    Args:
        loaded: taken from the file.
        missing: in the model, not in the file; left as they were.
        unexpected: in the file (under its own names), not in the model.
        reshaped: (name, shape in the file, shape in the model); left as they were.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __str__(self) -> str:
        reshaped = [f"{name} {list(a)}, here {list(b)}" for name, a, b in self.reshaped]
        rows = _listed("not in the file", self.missing) + _listed("not in the model", self.unexpected)
        rows += _listed("of another shape", reshaped)
        table = tabulate(rows, ["not loaded, because", "module", "tensors"], tablefmt="pipe")
        return f"{len(self.loaded)} tensors loaded" + (f"\n{table}" if rows else "")


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


def load_weights(model: nn.Module, weights: str | os.PathLike[str] | Mapping[str, object]) -> LoadReport:
    """Load a checkpoint into a model as far as names and shapes agree.

    Reads our checkpoints, flat state dicts and torchvision ResNets. Plain batch norms fill both halves of DSBN, and
    a plain model takes BN_T. A file without a teacher fills student and teacher; a model without a teacher takes the
    file's teacher, which is the net that was evaluated.

    Args:
        model: changed in place.
        weights: path of the file, or its content.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of tensors, or nothing in it fits the model.
    """
    where = "the given state" if isinstance(weights, Mapping) else os.fspath(weights)
    content = weights if isinstance(weights, Mapping) else load_checkpoint(where)
    wanted = model.state_dict()
    offered = _match_nets(_unwrap(content, where), wanted)
    names = _match_batch_norms(offered, wanted)
    fitting = {name: offered[key] for name, key in names.items() if offered[key].shape == wanted[name].shape}
    if not fitting:
        raise ValueError(
            f"Nothing in {where} fits the model: it has {_examples(offered)}, the model has {_examples(wanted)}"
        )
    model.load_state_dict(fitting, strict=False)
    used = {_plain(key) for key in names.values()}
    return LoadReport(
        loaded=tuple(fitting),
        # files older than torch 0.4.1 lack the counter, and nothing but momentum=None reads it
        missing=tuple(name for name in wanted if name not in names and not name.endswith("num_batches_tracked")),
        unexpected=tuple(key for key in offered if _plain(key) not in used),
        reshaped=tuple(
            (name, tuple(offered[key].shape), tuple(wanted[name].shape))
            for name, key in names.items()
            if name not in fitting
        ),
    )


def is_backbone_only(content: Mapping[str, object]) -> bool:
    """Whether a checkpoint holds no re-ID head, as an ImageNet file: such weights do not replace Stage I.

    Args:
        content: of the file.

    Raises:
        ValueError: not a state dict.
    """
    return not any(key.removeprefix(TEACHER).startswith("heads.") for key in _unwrap(content, "the checkpoint"))


def num_classes_of(content: Mapping[str, object]) -> int:
    """Source identities that a checkpoint of ours was trained with, 0 when it does not tell.

    Args:
        content: of the file.

    Raises:
        ValueError: not a state dict.
    """
    state = _unwrap(content, "the checkpoint")
    return next((len(state[key]) for key in ("memory.prototypes", "heads.weight") if key in state), 0)


def _unwrap(content: object, where: str) -> State:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} holds a {type(content).__name__}, wanted a state dict, or one under 'model'")
    return {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}


def _match_nets(offered: State, wanted: State) -> State:
    """Rename nets: a bare backbone gets its prefix, a teacher is added or put in the student's place."""
    if any(_is_net(key) for key in wanted) and not any(_is_net(key.removeprefix(TEACHER)) for key in offered):
        offered = {f"backbone.{key}": value for key, value in offered.items() if not key.startswith("fc.")}
    in_file, in_model = (any(key.startswith(TEACHER + NETS[0]) for key in state) for state in (offered, wanted))
    if in_file and not in_model:
        teacher = {key.removeprefix(TEACHER): value for key, value in offered.items() if key.startswith(TEACHER)}
        offered = {key: value for key, value in offered.items() if not key.startswith((TEACHER, *NETS))}
        offered |= {key: value for key, value in teacher.items() if _is_net(key)}
    if in_model and not in_file:
        places = {_plain(key) for key in wanted}
        offered = offered | {TEACHER + k: v for k, v in offered.items() if _plain(TEACHER + k) in places}
    return offered


def _is_net(key: str) -> bool:
    return key.startswith(NETS)


def _match_batch_norms(offered: State, wanted: State) -> dict[str, str]:
    """Name in the model -> name in the file: the same, or else the same without BN_S and BN_T (BN_T first)."""
    plain = {_plain(key): key for key in sorted(offered)}  # BN_T sorts behind BN_S and so is the one that stays
    found = {name: name if name in offered else plain.get(_plain(name)) for name in wanted}
    return {name: key for name, key in found.items() if key is not None}


def _plain(key: str) -> str:
    return key.replace(".BN_S.", ".").replace(".BN_T.", ".")


def _examples(state: Mapping[str, object]) -> str:
    return ", ".join(list(state)[:3]) + (", ..." if len(state) > 3 else "") if state else "no tensors"
