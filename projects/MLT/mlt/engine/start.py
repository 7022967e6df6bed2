"""What a run starts from: a config without blanks, and a model with its first weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from yacs.config import CfgNode

from mlt.config import with_values
from mlt.data.build import build_test_loader, iters_per_epoch, shuffled
from mlt.data.datasets import merge_train, read_datasets
from mlt.engine.extract import adapt_batch_norm
from mlt.modeling.build import build_model
from mlt.modeling.meta_arch import PseudoLabelModel, ReidModel
from mlt.modeling.net_config import follow_weights
from mlt.modeling.weights import load_weights
from mlt.structures import UNKNOWN, ReidRecord
from mlt.utils import comm
from mlt.utils.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)
AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
Records = tuple[ReidRecord, ...]


def read_train_images(cfg: CfgNode) -> tuple[Records, Records]:
    """Labelled source and unlabelled target images: what DATASETS.NAMES and DATASETS.TARGETS hold.

    Args:
        cfg: the config.

    Raises:
        FileNotFoundError: a set is not there.
        ValueError: a source set of which nobody knows the identities.
    """
    sources, targets = (read_datasets(cfg, names) for names in (cfg.DATASETS.NAMES, cfg.DATASETS.TARGETS))
    for found in sources:
        if not found.num_train_pids:
            raise ValueError(
                f"DATASETS.NAMES: {found.name} has no training images of known identity, so nothing can be learnt from "
                "it as a source. Without identities a set goes to DATASETS.TARGETS."
            )
    return merge_train(sources), merge_train(targets)


def complete_config(cfg: CfgNode, source: Sequence[ReidRecord], target: Sequence[ReidRecord]) -> CfgNode:
    """The config with what the data decide, source identities and iterations of an epoch, and what the weights do.

    Args:
        cfg: the config; not changed.
        source: labelled training images.
        target: unlabelled training images.

    Raises:
        ValueError: there are neither.
        FileNotFoundError: the weights to start from are not there.
    """
    if not source and not target:
        raise ValueError("DATASETS.NAMES and DATASETS.TARGETS are both empty: there is nothing to train on")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.HEADS.NUM_CLASSES = cfg.MODEL.HEADS.NUM_CLASSES or len({r.pid for r in source} - {UNKNOWN})
    cfg.SOLVER.ITERS_PER_EPOCH = iters_per_epoch(cfg, len(source), len(target))
    cfg.freeze()
    path = _start_weights(cfg)
    return follow_weights(cfg, load_checkpoint(path), path) if path else cfg


def _start_weights(cfg: CfgNode) -> str:
    return next(iter(cfg.PRETRAIN.WEIGHTS), cfg.MODEL.WEIGHTS)


def build_start_model(cfg: CfgNode, target: Sequence[ReidRecord]) -> ReidModel:
    """The model at step 0: PRETRAIN.WEIGHTS or MODEL.WEIGHTS in it, its BN statistics adapted if that is wanted.

    Args:
        cfg: a complete config.
        target: training images for PRETRAIN.ADAPT_BN.

    Raises:
        ValueError: the weights do not fit.
        FileNotFoundError: they are not there.
    """
    paths = list(cfg.PRETRAIN.WEIGHTS) or [cfg.MODEL.WEIGHTS] * bool(cfg.MODEL.WEIGHTS)
    model = build_bare_model(cfg) if paths else _build_downloading(cfg)
    if paths:
        load_start(model, paths, cfg.MODEL.WEIGHTS_DOMAIN)
    if cfg.PRETRAIN.ADAPT_BN and target:
        adapt_batch_norm(model, build_test_loader(cfg, shuffled(target)))
    return model


def load_start(model: ReidModel, paths: Sequence[str], domain: str = "target") -> None:
    """Start weights into a model, without what belongs to the run that they come from.

    Args:
        model: changed in place.
        paths: one file for each student; or one for all, which holds them all or becomes each.
        domain: see `load_weights`.

    Raises:
        ValueError: the weights do not fit.
        FileNotFoundError: they are not there.
    """
    _load_students(model, list(paths), domain)
    if isinstance(model, PseudoLabelModel):
        model.forget_run()


def _load_students(model: ReidModel, paths: list[str], domain: str) -> None:
    students = model.branches
    if len(students) == 1 or (len(paths) == 1 and _holds_peer(paths[0])):
        logger.info("weights from %s: %s", paths[0], load_weights(model, paths[0], domain=domain))
        return
    for student, path in zip(students, paths * (len(students) // len(paths)), strict=True):
        parts = {name: part for name, part in student.named_children() if name in ("backbone", "heads", "teacher")}
        logger.info("weights from %s: %s", path, load_weights(nn.ModuleDict(parts), path, domain=domain))


def _holds_peer(path: str) -> bool:
    content = load_checkpoint(path)
    return any(name.startswith("peer.") for name in content.get("model", content))


def _build_downloading(cfg: CfgNode) -> ReidModel:
    """The model; ImageNet weights are fetched by one process of each machine, while the others wait for the file."""
    first = not comm.active() or dist.get_node_local_rank(fallback_rank=0) == 0
    if not first:
        comm.barrier()
    model = build_model(cfg)
    if first:
        comm.barrier()
    return model


def build_bare_model(cfg: CfgNode) -> ReidModel:
    """The model without ImageNet weights, which would be fetched only to be overwritten.

    Args:
        cfg: a complete config.
    """
    return build_model(with_values(cfg, {"MODEL.BACKBONE.PRETRAIN": False}))


def parallelize(model: ReidModel, *, accumulates: bool = False) -> nn.Module:
    """The model as the training step calls it: with several processes, gradients are averaged in the backward pass.

    Every step uses the same parameters, so DDP learns in the first which have no gradient. It cannot where gradients
    are accumulated; there it looks for them in each step, if there are some.

    Buffers stay each process's own: the memory's are equal by construction, BN statistics are averaged after an epoch.

    Args:
        model: on its device.
        accumulates: some backward passes will not be averaged (`no_sync`).
    """
    if not comm.active():
        return model
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
    options: dict[str, Any] = {option: False, "gradient_as_bucket_view": True, "static_graph": not accumulates}
    if accumulates:
        options["find_unused_parameters"] = not model.trains_classifiers
    return DistributedDataParallel(model, **options)


def compile_backbones(model: ReidModel, backend: str) -> None:
    """Let torch.compile fuse what it can of the backbones. What it cannot compile runs as without it, with a warning.

    Args:
        model: changed in place; names of its tensors stay.
        backend: of torch.compile; "" = nothing is done.

    Raises:
        ValueError: no such backend.
    """
    if not backend:
        return
    if backend not in torch.compiler.list_backends(None):
        known = ", ".join(torch.compiler.list_backends())
        raise ValueError(f"MODEL.COMPILE must be '' or a backend of torch.compile ({known}), got {backend!r}")
    torch._dynamo.config.suppress_errors = True
    for branch in model.branches:
        for net in (branch, branch.teacher):
            if net is not None:
                net.backbone.compile(backend=backend)


def mixed_precision(cfg: CfgNode) -> torch.dtype | None:
    """The dtype of SOLVER.AMP, None when it is off.

    Args:
        cfg: the config.

    Raises:
        ValueError: no such dtype.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if cfg.SOLVER.AMP.DTYPE not in AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP.DTYPE must be one of {', '.join(AMP_DTYPES)}, got {cfg.SOLVER.AMP.DTYPE!r}")
    return AMP_DTYPES[cfg.SOLVER.AMP.DTYPE]
