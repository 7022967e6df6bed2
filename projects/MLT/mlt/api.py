"""A trained model from one file, without a config."""

from __future__ import annotations

import os
from collections.abc import Sequence

from yacs.config import CfgNode

import mlt.components  # noqa: F401  fills the registries
from mlt.config import get_cfg, with_values
from mlt.engine.start import build_bare_model
from mlt.modeling.meta_arch import ReidModel
from mlt.modeling.net_config import net_config_of
from mlt.modeling.weights import load_weights
from mlt.utils.checkpoint import load_checkpoint

CLASSIFIER = "heads.weight"  # the one tensor that features do not need


def load_model(
    path: str | os.PathLike[str], *, device: str = "cpu", domain: str = "target", options: Sequence[str] = ()
) -> ReidModel:
    """The net that a checkpoint evaluates, its teacher where it has one: `load_model(path)(images) -> features`.

    Reads what `MODEL.WEIGHTS` reads. Images are uint8 or float [B, 3, H, W], RGB in 0..255, of the size the net was
    trained with; features are float32 [B, C] with unit rows. Parameters are frozen and the model is in eval mode.

    Args:
        path: the checkpoint.
        device: "cpu" or "cuda".
        domain: "target" or "source": which of two batch norms is taken.
        options: KEY, VALUE, KEY, VALUE ... of the config, over what the checkpoint says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a re-ID checkpoint, or one with parts that this project does not have.
        RuntimeError: device "cuda" without a GPU.
    """
    return open_checkpoint(path, device=device, domain=domain, options=options)[1]


def open_checkpoint(
    path: str | os.PathLike[str], *, device: str = "cpu", domain: str = "target", options: Sequence[str] = ()
) -> tuple[CfgNode, ReidModel]:
    """As `load_model`, with the config of the model, for loaders that fit it.

    Args:
        path: the checkpoint.
        device: "cpu" or "cuda".
        domain: "target" or "source": which of two batch norms is taken.
        options: KEY, VALUE, KEY, VALUE ... of the config, over what the checkpoint says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a re-ID checkpoint, or one with parts that this project does not have.
        RuntimeError: device "cuda" without a GPU.
    """
    content = load_checkpoint(os.fspath(path))
    cfg = with_values(get_cfg(), net_config_of(content, path))
    cfg.defrost()
    cfg.merge_from_list(list(options))
    cfg.MODEL.DEVICE = device
    cfg.MODEL.HEADS.NUM_CLASSES = 1  # a classifier is built and not used
    cfg.freeze()
    model = build_bare_model(cfg)
    report = load_weights(model, content, domain=domain)
    reshaped = [name for name, _, _ in report.reshaped]
    lacking = [name for name in (*report.missing, *reshaped) if name != CLASSIFIER]
    if lacking:
        raise ValueError(f"{os.fspath(path)} gives no whole re-ID model ({len(lacking)} tensors short). {report}")
    return cfg, model.eval().requires_grad_(False)
