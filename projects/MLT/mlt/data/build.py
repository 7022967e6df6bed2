"""Loaders from a config."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from yacs.config import CfgNode

from mlt.data.eval_loader import TestLoader
from mlt.data.image_dataset import ImageDataset
from mlt.data.samplers import BatchPlan
from mlt.data.train_loader import TrainLoader
from mlt.data.transforms import train_transform
from mlt.structures import ReidRecord
from mlt.utils import comm


def iters_per_epoch(cfg: CfgNode, num_source: int, num_target: int) -> int:
    """SOLVER.ITERS_PER_EPOCH, or as many iterations as the larger set fills, at least 1.

    Args:
        cfg: a tree with SOLVER.
        num_source: source training images.
        num_target: target training images.
    """
    return cfg.SOLVER.ITERS_PER_EPOCH or max(1, math.ceil(max(num_source, num_target) / cfg.SOLVER.IMS_PER_BATCH))


def build_train_loader(
    cfg: CfgNode, source_records: Sequence[ReidRecord], target_records: Sequence[ReidRecord], *, num_views: int = 1
) -> TrainLoader:
    """The train loader of a config, for this process.

    Args:
        cfg: a tree with INPUT, DATALOADER, SOLVER, SEED.
        source_records: labelled images with pids 0 .. S-1 (`merge_train`); may be empty. Left out of the batches
            without PSEUDO_LABELS.WITH_SOURCE.
        target_records: unlabelled images, whose pids are not looked at; may be empty.
        num_views: augmentations of each image.

    Raises:
        ValueError: no images, or fewer source identities than a batch needs.
    """
    if not cfg.PSEUDO_LABELS.WITH_SOURCE:
        source_records = ()
    source, target = (
        _train_images(cfg, r, len(source_records) + len(target_records), num_views)
        for r in (source_records, target_records)
    )
    plan = BatchPlan(
        ims_per_batch=cfg.SOLVER.IMS_PER_BATCH,
        num_batches=iters_per_epoch(cfg, len(source_records), len(target_records)),
        num_instances=cfg.DATALOADER.NUM_INSTANCE,
        seed=cfg.SEED,
        rank=comm.rank(),
        world_size=comm.world_size(),
        pad_singletons=cfg.DATALOADER.PAD_SINGLETONS,
    )
    return TrainLoader(
        source,
        target,
        source_targets=torch.tensor([record.pid for record in source_records], dtype=torch.int64),
        plan=plan,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        pin_memory=_pins(cfg),
    )


def shuffled(records: Sequence[ReidRecord]) -> list[ReidRecord]:
    """The records in a random order that is always the same, for statistics over batches: files of a folder are
    sorted by identity, and a batch of few identities varies less than the set.

    Args:
        records: in any order.
    """
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0)).tolist()
    return [records[i] for i in order]


def build_test_loader(cfg: CfgNode, records: Sequence[ReidRecord], *, shared: ImageDataset | None = None) -> TestLoader:
    """A loader of every record once, for this process.

    Args:
        cfg: a tree with INPUT, DATALOADER, TEST.
        records: images to load.
        shared: a dataset of the same records whose cache serves here too, if its image size is INPUT.SIZE_TEST.
    """
    if shared is not None and shared.size == tuple(cfg.INPUT.SIZE_TEST) and len(shared) == len(records):
        images = shared.untransformed()
    else:
        images = ImageDataset(records, size=cfg.INPUT.SIZE_TEST, on_bad_image=cfg.DATALOADER.ON_BAD_IMAGE)
    return TestLoader(
        images,
        ims_per_batch=cfg.TEST.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        rank=comm.rank(),
        world_size=comm.world_size(),
        pin_memory=_pins(cfg),
    )


def _pins(cfg: CfgNode) -> bool:
    return cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available()


def _train_images(cfg: CfgNode, records: Sequence[ReidRecord], total: int, num_views: int) -> ImageDataset | None:
    if not records:
        return None
    return ImageDataset(
        records,
        size=cfg.INPUT.SIZE_TRAIN,
        transform=train_transform(cfg),
        on_bad_image=cfg.DATALOADER.ON_BAD_IMAGE,
        cache_gb=cfg.DATALOADER.CACHE_GB * len(records) / total,
        num_views=num_views,
    )
