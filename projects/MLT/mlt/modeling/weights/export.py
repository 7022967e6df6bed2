"""The evaluated net of any known checkpoint in the format of another toolbox."""

from __future__ import annotations

from collections.abc import Mapping

from mlt.modeling.weights.load import NETS, match_nets, without_domains
from mlt.modeling.weights.peers import FASTREID, USUAL_STEM, State, own_names, stem_of, unwrap

HEAD = ("heads.pool_layer.", "heads.bottleneck.", "heads.weight")  # what FastReID's head has, too
STEMS = {"fastreid": FASTREID.stem, "torchvision": USUAL_STEM}  # of the networks that read a format


def to_fastreid(content: Mapping[str, object], *, domain: str = "target") -> dict[str, State]:
    """Backbone, pooling, BNNeck and single classifier under FastReID's names.

    Args:
        content: of a checkpoint; of several nets in it the teacher is taken.
        domain: "target" or "source": which of two batch norms is taken.

    Returns:
        {"model": state dict}, as FastReID's Checkpointer reads it.

    Raises:
        ValueError: nothing in it is a backbone.
    """
    return {"model": net_tensors(content, domain=domain)}


def to_torchvision(content: Mapping[str, object], *, domain: str = "target") -> State:
    """The backbone under torchvision's names; with instance-batch norms, under those of IBN-a. There is no "fc".

    Args:
        content: of a checkpoint; of several nets in it the teacher is taken.
        domain: "target" or "source": which of two batch norms is taken.

    Returns:
        A state dict for `load_state_dict(state, strict=False)`.

    Raises:
        ValueError: nothing in it is a backbone, or the backbone has non-local blocks.
    """
    net = net_tensors(content, domain=domain)
    state = {name.removeprefix(NETS[0]): value for name, value in net.items() if name.startswith(NETS[0])}
    if any(name.startswith("NL_") for name in state):
        raise ValueError("torchvision's ResNet has no non-local blocks, these weights do; write FastReID's format")
    return state


def stem_differences(content: Mapping[str, object], form: str) -> list[str]:
    """What the networks that read a format do otherwise than the checkpoint's net, whatever its tensors.

    Args:
        content: of a checkpoint.
        form: "fastreid" or "torchvision".

    Raises:
        ValueError: not a state dict.
    """
    stem = {**USUAL_STEM, **stem_of(content)}
    return [f"{key} {stem[key]}, there {value}" for key, value in STEMS[form].items() if stem[key] != value]


def net_tensors(content: Mapping[str, object], *, domain: str = "target") -> State:
    """Tensors of the evaluated net, backbone and head without projections, under our names with single batch norms.

    Args:
        content: of a checkpoint; of several nets in it the teacher is taken.
        domain: "target" or "source": which of two batch norms is taken.

    Raises:
        ValueError: nothing in it is a ResNet.
    """
    state = unwrap(content, "the checkpoint")
    names = without_domains(match_nets(own_names(content, "the checkpoint"), NETS), domain)
    net = {name: state[key] for name, key in names.items() if name.startswith((NETS[0], *HEAD))}
    if f"{NETS[0]}conv1.weight" not in net:
        raise ValueError(f"the checkpoint holds no ResNet: its tensors are {', '.join(list(state)[:3]) or 'none'} ...")
    return net
