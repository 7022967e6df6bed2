"""Loaders from a config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from yacs.config import CfgNode

from mlt.config import check_least
from mlt.data.augment import BatchTransform
from mlt.data.eval_loader import TestLoader
from mlt.data.image_dataset import ImageDataset
from mlt.data.image_store import ImageStore, affordable, gigabytes
from mlt.data.samplers import BatchPlan
from mlt.data.train_loader import OnDevice, TrainLoader
from mlt.data.transforms import train_transform, transform_options
from mlt.structures import ReidRecord, ReidSet
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
        ValueError: no images, fewer source identities than a batch needs, or a key that has no such value.
    """
    _check_loading(cfg)
    on_device = _on_device(cfg, num_views)
    if not cfg.PSEUDO_LABELS.WITH_SOURCE:
        source_records = ()
    keep = affordable(len(source_records) + len(target_records), cfg.INPUT.SIZE_TRAIN, cfg.DATALOADER.CACHE_GB)
    options = {} if on_device else {"transform": train_transform(cfg), "num_views": num_views}
    source, target = (
        _images(cfg, records, cfg.INPUT.SIZE_TRAIN, keep=keep, **options) if records else None
        for records in (source_records, target_records)
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
        on_device=on_device,
    )


def shuffled(records: Sequence[ReidRecord]) -> list[ReidRecord]:
    """The records in a random order that is always the same, for statistics over batches: files of a folder are
    sorted by identity, and a batch of few identities varies less than the set.

    Args:
        records: in any order.
    """
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0)).tolist()
    return [records[i] for i in order]


def keep_test_images(cfg: CfgNode, sets: Sequence[ReidSet], loader: TrainLoader) -> dict[str, ImageDataset]:
    """Images of test sets that a run looks at again and again, for `build_test_loader`: those that fit into
    DATALOADER.CACHE_GB beside the training images, one set after the other.

    Args:
        cfg: a tree with INPUT, DATALOADER, TEST.
        sets: test sets.
        loader: of the training images.

    Returns:
        Name of a set -> its query, then its gallery images.
    """
    if not cfg.TEST.EVAL_PERIOD:
        return {}
    stored = [images for images in (loader.source, loader.target) if images is not None and images.store is not None]
    used, kept = sum(gigabytes(len(images), images.size) for images in stored), dict[str, ImageDataset]()
    for data in sets:
        records = data.query + data.gallery
        if affordable(len(records), cfg.INPUT.SIZE_TEST, cfg.DATALOADER.CACHE_GB, used):
            kept[data.name] = _images(cfg, records, cfg.INPUT.SIZE_TEST, keep=True)
            used += gigabytes(len(records), cfg.INPUT.SIZE_TEST)
    return kept


def build_test_loader(cfg: CfgNode, records: Sequence[ReidRecord], *, shared: ImageDataset | None = None) -> TestLoader:
    """A loader of every record once, for this process.

    Args:
        cfg: a tree with INPUT, DATALOADER, TEST.
        records: images to load.
        shared: a dataset of the same records whose store serves here too, if its image size is INPUT.SIZE_TEST. Without
            it, images are kept only where DATALOADER.CACHE_DIR keeps them from one loader to the next.

    Raises:
        ValueError: a key that has no such value.
    """
    _check_loading(cfg)
    if shared is not None and shared.size == tuple(cfg.INPUT.SIZE_TEST) and len(shared) == len(records):
        images = shared.untransformed()
    else:
        size, folder = cfg.INPUT.SIZE_TEST, cfg.DATALOADER.CACHE_DIR
        keep = bool(folder) and affordable(len(records), size, cfg.DATALOADER.CACHE_GB)
        images = _images(cfg, records, size, keep=keep)
    return TestLoader(
        images,
        ims_per_batch=cfg.TEST.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        rank=comm.rank(),
        world_size=comm.world_size(),
        pin_memory=_pins(cfg),
    )


def _check_loading(cfg: CfgNode) -> None:
    for key in ("SIZE_TRAIN", "SIZE_TEST"):
        if len(cfg.INPUT[key]) != 2 or min(cfg.INPUT[key]) < 1:
            raise ValueError(f"INPUT.{key} must be a height and a width in pixels, got {cfg.INPUT[key]}")
    check_least(cfg, {"DATALOADER.NUM_WORKERS": 0, "TEST.IMS_PER_BATCH": 1})


def _pins(cfg: CfgNode) -> bool:
    return cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available()


def _images(
    cfg: CfgNode, records: Sequence[ReidRecord], size: Sequence[int], *, keep: bool, **options: Any
) -> ImageDataset:
    paths = [record.path for record in records]
    store = ImageStore(paths, size, folder=cfg.DATALOADER.CACHE_DIR) if keep else None
    return ImageDataset(records, size=size, on_bad_image=cfg.DATALOADER.ON_BAD_IMAGE, store=store, **options)


def _on_device(cfg: CfgNode, num_views: int) -> OnDevice | None:
    keys = cfg.DATALOADER
    for key, choices in (("AUGMENT_ON", ("worker", "device")), ("CACHE_ON", ("host", "device"))):
        if keys[key] not in choices:
            raise ValueError(f"DATALOADER.{key} must be one of {', '.join(choices)}, got {keys[key]!r}")
    if keys.AUGMENT_ON == "worker":
        if keys.CACHE_ON == "device":
            raise ValueError("DATALOADER.CACHE_ON device needs AUGMENT_ON device: workers cannot read a GPU's memory")
        return None
    change = BatchTransform(**transform_options(cfg))
    return OnDevice(change, torch.device(cfg.MODEL.DEVICE), num_views, keep_pixels=keys.CACHE_ON == "device")
