"""Weights from a file into a model, with a report of what fitted and what did not."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping

from torch import nn

from mlt.modeling.weights.peers import (
    STEM_CEIL_POOL,
    STEM_RELU,
    has_numbered_norms,
    identify,
    own_names,
    stem_of,
    unwrap,
)
from mlt.modeling.weights.report import LoadReport
from mlt.utils.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)
Names = dict[str, str]  # our name -> the file's
NETS = ("backbone.", "heads.")
TEACHER = "teacher."
DOMAINS = ("target", "source")
STEM_ATTRIBUTES = {STEM_RELU: "stem_relu", STEM_CEIL_POOL: "stem_ceil_pool"}


def load_weights(
    model: nn.Module, weights: str | os.PathLike[str] | Mapping[str, object], *, domain: str = "target"
) -> LoadReport:
    """Load a checkpoint into a model as far as names and shapes agree.

    Reads our checkpoints and those of the toolboxes in peers.PEERS. Plain batch norms fill both halves of DSBN, and a
    plain model takes the half of `domain`. A file without a teacher fills student and teacher; a model without a
    teacher takes the file's teacher, which is the net that was evaluated.

    Args:
        model: changed in place.
        weights: path of the file, or its content.
        domain: "target" (BN_T) or "source" (BN_S): which of two batch norms a model with single ones takes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of tensors, nothing in it fits the model, or no such domain.
    """
    where = "the given state" if isinstance(weights, Mapping) else os.fspath(weights)
    content = weights if isinstance(weights, Mapping) else load_checkpoint(where)
    state, wanted = unwrap(content, where), model.state_dict()
    offered = match_nets(own_names(content, where), wanted)
    if has_numbered_norms(content):
        logger.warning(
            "%s numbers its batch norms: the first is taken for the target's, as in OpenUnReID's configs; where the "
            "source was named first, take the other with domain 'source' (MODEL.WEIGHTS_DOMAIN).", where
        )  # fmt: skip
    names = _match_batch_norms(offered, wanted, domain)
    fitting = {name: state[key] for name, key in names.items() if state[key].shape == wanted[name].shape}
    if not fitting:
        raise ValueError(
            f"Nothing in {where} fits the model: it has {_examples(state)}, the model has {_examples(wanted)}"
        )
    model.load_state_dict(fitting, strict=False)
    used = {plain_name(name) for name in names}
    return LoadReport(
        origin=identify(content).name,
        loaded=tuple(fitting),
        # files older than torch 0.4.1 lack the counter, and nothing but momentum=None reads it
        missing=tuple(name for name in wanted if name not in names and not name.endswith("num_batches_tracked")),
        unexpected=tuple(dict.fromkeys(key for name, key in offered.items() if plain_name(name) not in used)),
        reshaped=tuple(
            (name, tuple(state[key].shape), tuple(wanted[name].shape))
            for name, key in names.items()
            if name not in fitting
        ),
        conflicts=tuple(_conflicts(model, stem_of(content))),
    )


def is_backbone_only(content: Mapping[str, object]) -> bool:
    """Whether a checkpoint holds no re-ID head, as an ImageNet file: such weights do not replace Stage I.

    Args:
        content: of the file.

    Raises:
        ValueError: not a state dict.
    """
    names = own_names(content, "the checkpoint")
    return not any(name.removeprefix(TEACHER).startswith("heads.") for name in names)


def num_classes_of(content: Mapping[str, object]) -> int:
    """Source identities that a checkpoint was trained with, 0 when it does not tell.

    Args:
        content: of the file.

    Raises:
        ValueError: not a state dict.
    """
    state, names = unwrap(content, "the checkpoint"), own_names(content, "the checkpoint")
    return next((len(state[names[key]]) for key in ("memory.prototypes", "heads.weight") if key in names), 0)


def match_nets(offered: Names, wanted: Collection[str]) -> Names:
    """Rename nets: a teacher is added or put in the student's place; a bare backbone is one without its prefix.

    Args:
        offered: our names of a file's tensors.
        wanted: names that the model has.
    """
    in_file, in_model = (any(key.startswith(TEACHER + NETS[0]) for key in names) for names in (offered, wanted))
    if in_file and not in_model:
        teacher = {key.removeprefix(TEACHER): value for key, value in offered.items() if key.startswith(TEACHER)}
        offered = {key: value for key, value in offered.items() if not key.startswith((TEACHER, *NETS))}
        offered |= {key: value for key, value in teacher.items() if key.startswith(NETS)}
    if in_model and not in_file:
        places = {plain_name(key) for key in wanted}
        offered = offered | {TEACHER + k: v for k, v in offered.items() if plain_name(TEACHER + k) in places}
    if not any(key.startswith(NETS) for key in wanted):
        offered = {key.removeprefix(NETS[0]): value for key, value in offered.items()}
    return offered


def _match_batch_norms(offered: Names, wanted: Iterable[str], domain: str) -> Names:
    """Name in the model -> name in the file: the same, or else the same without BN_S and BN_T."""
    if domain not in DOMAINS:
        raise ValueError(f"load_weights: domain must be one of {', '.join(DOMAINS)}, got {domain!r}")
    single = without_domains(offered, domain)
    found = {name: offered.get(name, single.get(plain_name(name))) for name in wanted}
    return {name: key for name, key in found.items() if key is not None}


def without_domains(names: Names, domain: str) -> Names:
    """The names as a net with single batch norms has them.

    Args:
        names: our names, BN_S and BN_T among them.
        domain: whose batch norm stays.
    """
    # the last of equal names stays, and BN_T sorts behind BN_S
    return {plain_name(name): names[name] for name in sorted(names, reverse=domain == "source")}


def plain_name(name: str) -> str:
    """A name without the batch norm's domain.

    Args:
        name: of a tensor.
    """
    return name.replace(".BN_S.", ".").replace(".BN_T.", ".")


def _conflicts(model: nn.Module, stem: Mapping[str, bool]) -> Iterable[str]:
    backbone = getattr(model, "backbone", model)
    for key, value in stem.items():
        here = getattr(backbone, STEM_ATTRIBUTES[key], value)
        if here != value:
            yield f"the weights were trained with {key} {value}, the model has {here}: its features will differ"


def _examples(state: Collection[str]) -> str:
    return ", ".join(list(state)[:3]) + (", ..." if len(state) > 3 else "") if state else "no tensors"
