"""How each toolbox names the parts of a net, and how its files are told apart: one table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]
WRAPPERS = ("model", "state_dict", "state_dict_1")  # ours and FastReID's; the UDA toolboxes'; OpenUnReID's first of two
OWN_KEYS = ("config", "hooks")  # of a checkpoint that our trainer wrote
STEM_RELU, STEM_CEIL_POOL = "MODEL.BACKBONE.STEM_RELU", "MODEL.BACKBONE.STEM_CEIL_POOL"
USUAL_STEM = {STEM_RELU: True, STEM_CEIL_POOL: False}
BARE_STEM = {STEM_RELU: False, STEM_CEIL_POOL: False}

_DROPPED = re.compile(r"fc\.|pixel_(mean|std)$")  # ImageNet's classifier; constants that the config holds
_DOMAIN = re.compile(r"\.dsbn\.(\d+)\.")


@dataclass(frozen=True)
class Peer:
    """The names of one toolbox.

    Args:
        name: the toolbox, or the kinds of net that share the names.
        marks: patterns, each of which matches the start of some tensor's name in its files.
        rules: (pattern, replacement) that lead to our names, applied in turn.
        stem: config keys of a stem that no tensor shows; empty where the files do not decide.
    """

    name: str
    marks: tuple[str, ...]
    rules: Rules
    stem: dict[str, bool] = field(default_factory=dict)


def _sequential(first_layer: int) -> Rules:
    """`base` is a Sequential: conv1, bn1, layers without parameters, then layer1 from `first_layer` on."""
    layers = ((rf"^base\.{first_layer + i}\.", f"backbone.layer{i + 1}.") for i in range(4))
    return ((r"^base\.0\.", "backbone.conv1."), (r"^base\.1\.", "backbone.bn1."), *layers)


_HEAD: Rules = (
    (r"^gap\.p$", "heads.pool_layer.p"),
    (r"^feat_bn\.", "heads.bottleneck.0."),
    (r"^classifier\.weight$", "heads.weight"),
)
OWN = Peer("MLT", (), ())
IMAGENET = Peer("torchvision or IBN-a", (r"conv1\.|layer1\.",), ((r"^(?=(conv1|bn1|layer\d|NL_\d)\.)", "backbone."),))
FASTREID = Peer(
    "FastReID",
    (r"backbone\.", r"heads\."),
    ((r"^heads\.bnneck\.", "heads.bottleneck.0."), (r"^heads\.classifier\.weight$", "heads.weight")),
    {STEM_RELU: True, STEM_CEIL_POOL: True},
)
# The first one whose marks are all there counts. Read off the public code of each toolbox.
PEERS = (
    Peer(
        "OpenUnReID",
        (r"((mean_)?net\.)?head\.feat_bn\.",),
        (
            (r"^mean_net\.", "teacher."),
            (r"^net\.", ""),
            (r"\bglobal_pooling\.p$", "heads.pool_layer.p"),
            (r"\bhead\.feat_bn\.", "heads.bottleneck.0."),
            (r"\bclassifier\.weight$", "heads.weight"),
        ),
        USUAL_STEM,
    ),
    Peer("SpCL, ClusterContrast or MMT's IBN nets", (r"base\.7\.",), (*_sequential(4), *_HEAD), USUAL_STEM),
    Peer("MMT", (r"base\.6\.",), (*_sequential(3), *_HEAD), BARE_STEM),
    Peer(
        "UDAStrongBaseline",
        (r"base\.0\.", r"layer1\."),
        (
            *_sequential(3)[:2],
            (r"^(?=(layer|NL_)\d\.)", "backbone."),
            *_HEAD,
            (r"^memorybank_fc\.", "heads.projection.0."),
            (r"^mbn\.", "heads.projection.1."),
            (r"^classifier(\d+)_\d+\.weight$", r"heads.classifiers.\1"),
            (r"^feat_bn_3\.", "heads.shallow.bottleneck.0."),
            (r"^classifier3_(\d+)_\d+\.weight$", r"heads.shallow.classifiers.\1"),
        ),
        BARE_STEM,
    ),
    IMAGENET,
)


def unwrap(content: object, where: str) -> State:
    """The tensors of a checkpoint under the file's own names.

    Args:
        content: of the file.
        where: what to call it in the message.

    Raises:
        ValueError: not a state dict.
    """
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} holds a {type(content).__name__}, wanted a state dict, or one under 'model'")
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def identify(content: Mapping[str, object]) -> Peer:
    """The toolbox that wrote a checkpoint.

    A file in FastReID's form, "model" with "backbone." and "heads." in it, is FastReID's unless it has what only our
    trainer writes.

    Args:
        content: of the file.

    Raises:
        ValueError: not a state dict.
    """
    names = [name.removeprefix("module.") for name in unwrap(content, "the checkpoint")]
    known = (*PEERS, FASTREID) if isinstance(content.get("model"), Mapping) else PEERS
    if any(key in content for key in OWN_KEYS) or any(
        name.startswith(("teacher.", "heads.classifiers.")) for name in names
    ):
        return OWN
    return next((p for p in known if all(any(re.match(m, n) for n in names) for m in p.marks)), OWN)


def stem_of(content: Mapping[str, object]) -> dict[str, bool]:
    """The stem that a checkpoint's net was trained with, as config keys; empty if the file does not tell.

    Args:
        content: of the file.

    Raises:
        ValueError: not a state dict.
    """
    config = content.get("config")
    stored = config if isinstance(config, Mapping) else {}
    return {**identify(content).stem, **{key: bool(stored[key]) for key in USUAL_STEM if key in stored}}


def has_numbered_norms(content: Mapping[str, object]) -> bool:
    """Whether nothing but the order of its batch norms tells the domains of a checkpoint apart; see `own_names`.

    Args:
        content: of the file.

    Raises:
        ValueError: not a state dict.
    """
    return any(_DOMAIN.search(name) for name in unwrap(content, "the checkpoint"))


def own_names(content: Mapping[str, object], where: str) -> dict[str, str]:
    """Our name of each tensor in a checkpoint -> the file's name. A teacher's names start with "teacher.".

    OpenUnReID's batch norms are numbered by the place of a set in TRAIN.datasets, which no file tells: the first is
    taken for the target's and the last for the source's, as in its own configs (market1501, then dukemtmcreid).

    Args:
        content: of the file.
        where: what to call it in the message.

    Raises:
        ValueError: not a state dict.
    """
    state, rules = unwrap(content, where), identify(content).rules
    last = max((int(match[1]) for match in map(_DOMAIN.search, state) if match), default=0)
    halves = {last: ".BN_S.", 0: ".BN_T."}
    names = {}
    for key in state:
        name = key.removeprefix("module.")
        if _DROPPED.match(name):
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        names[_DOMAIN.sub(lambda match: halves.get(int(match[1]), match[0]), name)] = key
    return names
