"""Batches end to end: layout, the same for any number of workers and processes, labels that stay where they belong."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mlt.config import CfgNode, get_cfg
from mlt.data.augment import BatchTransform
from mlt.data.build import build_test_loader, build_train_loader, iters_per_epoch, keep_test_images
from mlt.data.eval_loader import TestLoader
from mlt.data.image_dataset import ImageDataset
from mlt.data.image_store import GREY, ImageStore
from mlt.data.samplers import BatchPlan
from mlt.data.train_loader import OnDevice, TrainLoader, substitutes
from mlt.data.transforms import build_train_transform, second_seed
from mlt.structures import SOURCE, TARGET, UNKNOWN, Batch, ReidRecord, ReidSet

SIZE = (16, 8)
CHANGE = build_train_transform(SIZE, padding=3, erase=0.5)
ON_DEVICE = OnDevice(BatchTransform(SIZE, padding=3, erase=0.5), torch.device("cpu"))
PLAN = BatchPlan(ims_per_batch=8, num_batches=5, num_instances=2, seed=1)
TENSORS = ("images", "targets", "camids", "domains", "indices")
Records = tuple[ReidRecord, ...]


def images_of(records: Records, on_bad_image: str = "error", kept: bool = False) -> ImageDataset:
    store = ImageStore([record.path for record in records], SIZE) if kept else None
    return ImageDataset(records, size=SIZE, transform=CHANGE, on_bad_image=on_bad_image, store=store)


def pids(records: Records) -> Tensor:
    return torch.tensor([record.pid for record in records])


def joint(
    records: Records,
    plan: BatchPlan = PLAN,
    num_workers: int = 0,
    kept: bool = False,
    on_device: OnDevice | None = None,
) -> TrainLoader:
    source, target = (images_of(part, kept=kept) for part in (records[:20], records[20:]))
    if on_device is not None:
        source, target = source.untransformed(), target.untransformed()
    return TrainLoader(
        source,
        target,
        source_targets=pids(records[:20]),
        plan=plan,
        num_workers=num_workers,
        on_device=on_device,
    )


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a["img_paths"] == b["img_paths"] and all(torch.equal(a[key], b[key]) for key in TENSORS)
        for a, b in zip(one, other)
    )


# --- the train loader


def test_joint_batches(records: Records) -> None:
    loader = joint(records)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader) == 5
    for batch in batches:
        assert sorted(batch) == sorted([*TENSORS, "img_paths"])
        assert batch["images"].shape == (16, 3, *SIZE)
        assert batch["images"].dtype == torch.uint8
        assert all(batch[key].dtype == torch.int64 and batch[key].shape == (16,) for key in TENSORS[1:])
        assert batch["domains"].tolist() == [SOURCE] * 8 + [TARGET] * 8
        for row, index in enumerate(batch["indices"].tolist()):
            record = records[index if row < 8 else 20 + index]
            assert batch["img_paths"][row] == record.path
            assert batch["camids"][row] == record.camid
            assert batch["targets"][row] == (record.pid if row < 8 else UNKNOWN)
        assert (batch["targets"][0:8:2] == batch["targets"][1:8:2]).all()


def test_pixels_are_those_of_the_index(records: Records) -> None:
    plain = ImageDataset(records, size=SIZE)
    loader = TrainLoader(plain, None, source_targets=pids(records), plan=PLAN)
    for batch in loader.epoch(0):
        assert len(batch["images"]) == 8
        assert torch.equal(batch["images"], torch.stack([plain[int(i)] for i in batch["indices"]]))


def test_target_labels_serve_from_the_next_epoch_on(records: Records) -> None:
    loader = joint(records)
    num_target = len(records) - 20
    running = loader.epoch(0)
    next(running)
    labels = torch.arange(num_target) % 5
    labels[:3] = -1
    loader.set_target_labels(labels)
    assert all((batch["targets"][8:] == UNKNOWN).all() for batch in running)
    first = list(loader.epoch(1))
    labels_given = labels.clone()
    labels[:] = 0  # the caller's tensor is the caller's
    for batch in [*first, *loader.epoch(2)]:
        assert torch.equal(batch["targets"][8:], labels_given[batch["indices"][8:]])
        assert (batch["targets"][8:] >= 0).all()
        assert (batch["targets"][8::2] == batch["targets"][9::2]).all()
        assert len(batch["targets"][8:].unique()) == 4


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("on_device", [None, ON_DEVICE, replace(ON_DEVICE, keep_pixels=True)])
def test_same_batches_for_any_number_of_workers_over_epochs(
    records: Records, kept: bool, on_device: OnDevice | None
) -> None:
    here = joint(records, on_device=on_device)
    there = joint(records, num_workers=2, kept=kept, on_device=on_device)
    labels = torch.arange(len(records) - 20) // 3
    for epoch in range(3):
        if epoch == 1:
            here.set_target_labels(labels)
            there.set_target_labels(labels)
        wanted = list(here.epoch(epoch))
        assert same(list(there.epoch(epoch)), wanted)
        assert same(list(there.epoch(epoch, start=3)), wanted[3:])
    abandoned = there.epoch(0)
    next(abandoned)
    assert same(list(there.epoch(2)), wanted)


def test_forked_workers_fill_the_store_for_all(records: Records) -> None:
    loader = joint(records, replace(PLAN, num_batches=20), num_workers=2, kept=True)
    list(loader.epoch(0))
    assert loader.target is not None
    assert len(loader.target.missing()) < len(loader.target)


def test_augmentation_on_a_device_decodes_all_images_first(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = joint(records, num_workers=2, kept=True, on_device=ON_DEVICE)
    batches = loader.epoch(0)
    decode: Callable[..., None] = lambda path, size: pytest.fail("decoded twice")  # noqa: E731
    monkeypatch.setattr("mlt.data.image_dataset.decode_image", decode)
    assert all(images is not None and images.in_store for images in (loader.source, loader.target))
    assert len(list(batches)) == 5


def test_rows_changed_on_a_device_are_their_own_draws(records: Records) -> None:
    two_views = replace(ON_DEVICE, num_views=2)
    loader, plain = joint(records, on_device=two_views), ImageDataset(records, size=SIZE)
    chosen = [domain.sampler.batches(1) for domain in loader._domains.values()]
    for batch, source, target in zip(loader.epoch(1), *chosen):
        assert sorted(batch) == sorted([*TENSORS, "views", "img_paths"])
        images = torch.stack([plain[d.image] for d in source] + [plain[20 + d.image] for d in target])
        seeds = torch.tensor([d.seed for d in [*source, *target]])
        assert torch.equal(batch["images"], ON_DEVICE.transform(images, seeds))
        assert torch.equal(batch["views"], ON_DEVICE.transform(images, second_seed(seeds)))
        assert not torch.equal(batch["images"], batch["views"])


@pytest.mark.parametrize("on_device", [None, ON_DEVICE])
def test_ranks_share_each_global_batch(records: Records, on_device: OnDevice | None) -> None:
    plans = [replace(PLAN, rank=rank, world_size=2) for rank in range(2)]
    whole = list(joint(records, on_device=on_device).epoch(4))
    parts = [list(joint(records, plan, on_device=on_device).epoch(4)) for plan in plans]
    for batch, one, other in zip(whole, *parts):
        for key in TENSORS:
            source, target = ((a, b) for a, b in zip(one[key].chunk(2), other[key].chunk(2)))
            assert torch.equal(batch[key], torch.cat([*source, *target]))


def test_target_identities_reach_no_batch(records: Records) -> None:
    """The whole point of unsupervised adaptation: shuffle the truth and nothing may change."""
    cfg = small_config()
    truth = [record.pid for record in records[20:]]
    random.Random(0).shuffle(truth)
    shuffled = tuple(replace(record, pid=pid) for record, pid in zip(records[20:], truth))
    blind = tuple(replace(record, pid=UNKNOWN) for record in records[20:])
    runs = []
    for target in (records[20:], shuffled, blind):
        loader = build_train_loader(cfg, records[:20], target)
        first = list(loader.epoch(0))
        loader.set_target_labels(torch.arange(len(target)) // 3)
        runs.append(first + list(loader.epoch(1)))
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])


def test_global_random_numbers_are_not_disturbed(records: Records) -> None:
    loader = joint(records)
    before = torch.get_rng_state()
    for _ in loader.epoch(0):
        assert torch.equal(torch.get_rng_state(), before)


def test_source_and_target_do_not_draw_in_step(records: Records) -> None:
    loader = TrainLoader(images_of(records), images_of(records), plan=PLAN)
    batch = next(loader.epoch(0))
    assert batch["indices"][:8].tolist() != batch["indices"][8:].tolist()


def test_errors_of_the_train_loader(records: Records) -> None:
    with pytest.raises(ValueError, match="neither source nor target images"):
        TrainLoader(None, None, plan=PLAN)
    with pytest.raises(
        ValueError, match=r"source labels must be int64 \[3\], one for each image; got torch.int64 \[2\]"
    ):
        TrainLoader(images_of(records[:3]), None, source_targets=torch.tensor([0, 1]), plan=PLAN)
    with pytest.raises(ValueError, match="1 identities with images, but a batch needs 4"):
        TrainLoader(images_of(records[:2]), None, source_targets=pids(records[:2]), plan=PLAN)
    loader = joint(records)
    with pytest.raises(ValueError, match=r"target labels must be int64 .*got torch.float32"):
        loader.set_target_labels(torch.zeros(len(records) - 20))
    with pytest.raises(ValueError, match="3 identities with images, but a batch needs 4"):
        loader.set_target_labels(torch.arange(len(records) - 20) % 3)
    list(loader.epoch(0))  # the labels before are still in force
    with pytest.raises(ValueError, match="no target images to label"):
        TrainLoader(images_of(records), None, plan=PLAN).set_target_labels(torch.zeros(3))


# --- broken images


@pytest.fixture
def damaged(records: Records, tmp_path: Path) -> Records:
    """Identity 1 lacks one of its pictures, identity 2 all."""
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    lost = [i for i, r in enumerate(records) if r.pid == 2] + [next(i for i, r in enumerate(records) if r.pid == 1)]
    return tuple(
        replace(r, path=f"{bad}{i}" if i not in lost[:1] else str(bad)) if i in lost else r
        for i, r in enumerate(records)
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_stops_training_with_its_name(damaged: Records, num_workers: int) -> None:
    loader = TrainLoader(
        images_of(damaged),
        None,
        source_targets=pids(damaged),
        plan=replace(PLAN, num_batches=30),
        num_workers=num_workers,
    )
    with pytest.raises(OSError, match=r"Cannot read image '.*bad.jpg.*ON_BAD_IMAGE skip"):
        list(loader.epoch(0))


@pytest.mark.parametrize("on_device", [None, ON_DEVICE])
def test_a_skipped_image_is_replaced_within_its_batch(
    damaged: Records, caplog: pytest.LogCaptureFixture, on_device: OnDevice | None
) -> None:
    plan = replace(PLAN, num_batches=20)
    images = images_of(damaged, "skip", kept=on_device is not None)
    images = images.untransformed() if on_device else images
    loader = TrainLoader(images, None, source_targets=pids(damaged), plan=plan, on_device=on_device)
    clean = TrainLoader(images_of(damaged, "skip"), None, source_targets=pids(damaged), plan=plan)
    with caplog.at_level(logging.WARNING):
        batches = list(loader.epoch(0))
    asked = [[draw.image for draw in chosen] for chosen in clean._domains[SOURCE].sampler.batches(0)]
    replaced = 0
    for batch, wanted in zip(batches, asked):
        assert "valid" not in batch
        assert not any("bad" in path for path in batch["img_paths"])
        assert torch.equal(batch["targets"], pids(damaged)[batch["indices"]])
        assert 2 not in batch["targets"]
        assert not (batch["images"] == GREY).flatten(1).all(1).any()
        for row, (index, old) in enumerate(zip(batch["indices"].tolist(), wanted)):
            if index != old:
                replaced += 1
                if damaged[old].pid == 1:
                    assert damaged[index].pid == 1
                other = wanted.index(index)
                assert torch.equal(batch["images"][row], batch["images"][other])
    assert replaced > 10
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == len(set(told)) == sum("bad" in r.path for r in damaged)
    assert "ON_BAD_IMAGE error tells why" in told[0]


@pytest.mark.parametrize(
    ("valid", "rows"),
    [
        ([1, 1, 1, 1], [0, 1, 2, 3]),
        ([0, 1, 1, 1], [1, 1, 2, 3]),
        ([1, 0, 1, 1], [0, 0, 2, 3]),
        ([0, 0, 1, 1], [2, 2, 2, 3]),
        ([1, 1, 0, 0], [0, 1, 0, 0]),
        ([0, 0, 0, 1], [3, 3, 3, 3]),
    ],
)
def test_substitutes(valid: list[int], rows: list[int]) -> None:
    assert substitutes(torch.tensor(valid).bool(), 2).tolist() == rows


def test_a_batch_without_any_image() -> None:
    with pytest.raises(OSError, match="No image of a whole batch can be read"):
        substitutes(torch.zeros(4).bool(), 2)


# --- the test loader


def gather(loaders: list[TestLoader]) -> Iterator[tuple[int, str, Tensor]]:
    for loader in loaders:
        for batch in loader:
            yield from zip(batch["indices"].tolist(), batch["img_paths"], batch["images"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_image_once_in_order(records: Records, num_workers: int) -> None:
    images = ImageDataset(records, size=SIZE)
    loader = TestLoader(images, ims_per_batch=12, num_workers=num_workers)
    rows = list(gather([loader]))
    assert [index for index, _, _ in rows] == list(range(len(records)))
    assert [path for _, path, _ in rows] == [r.path for r in records]
    assert torch.equal(
        torch.stack([image for _, _, image in rows]), torch.stack([images[i] for i in range(len(images))])
    )
    batch = next(iter(loader))
    assert len(batch["images"]) == 12
    assert batch["camids"].tolist() == [r.camid for r in records[:12]]
    assert len(loader) == sum(1 for _ in loader)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one_process(records: Records, world: int) -> None:
    images = ImageDataset(records, size=SIZE)
    alone = [batch["indices"].tolist() for batch in TestLoader(images, ims_per_batch=5)]
    shares = [
        [batch["indices"].tolist() for batch in TestLoader(images, ims_per_batch=5, rank=rank, world_size=world)]
        for rank in range(world)
    ]
    assert sorted(batch for share in shares for batch in share) == alone
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_images(records: Records) -> None:
    images = ImageDataset(records[:2], size=SIZE)
    loaders = [TestLoader(images, ims_per_batch=1, rank=rank, world_size=4) for rank in range(4)]
    assert [index for index, _, _ in gather(loaders)] == [0, 1]
    assert list(TestLoader(ImageDataset((), size=SIZE), ims_per_batch=4, num_workers=2)) == []


def test_a_skipped_image_keeps_its_row(damaged: Records, caplog: pytest.LogCaptureFixture) -> None:
    loader = TestLoader(ImageDataset(damaged, size=SIZE, on_bad_image="skip"), ims_per_batch=16)
    with caplog.at_level(logging.WARNING):
        batches = [*loader, *loader]
    valid = torch.cat([batch["valid"] for batch in batches[: len(loader)]])
    assert valid.tolist() == ["bad" not in r.path for r in damaged]
    assert len(caplog.records) == int((~valid).sum())


# --- from a config


def small_config() -> CfgNode:
    cfg = get_cfg()
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = list(SIZE)
    cfg.INPUT.REA.ENABLED = True
    cfg.SOLVER.IMS_PER_BATCH, cfg.TEST.IMS_PER_BATCH = 8, 16
    cfg.DATALOADER.NUM_INSTANCE, cfg.DATALOADER.NUM_WORKERS = 2, 0
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_iterations_of_an_epoch() -> None:
    cfg = small_config()
    assert [iters_per_epoch(cfg, *n) for n in ((80, 7), (7, 81), (0, 3))] == [10, 11, 1]
    cfg.SOLVER.ITERS_PER_EPOCH = 4
    assert iters_per_epoch(cfg, 80, 7) == 4


def test_build_train_loader(records: Records) -> None:
    cfg = small_config()
    loader = build_train_loader(cfg, records, ())
    assert len(loader) == -(-len(records) // 8)
    assert loader.target is None
    batch = next(loader.epoch(0))
    assert batch["targets"].tolist() == [records[i].pid for i in batch["indices"]]
    cfg.SEED = 5
    assert not torch.equal(next(build_train_loader(cfg, records, ()).epoch(0))["indices"], batch["indices"])
    only_target = build_train_loader(cfg, (), records)
    assert (next(only_target.epoch(0))["domains"] == TARGET).all()
    with pytest.raises(ValueError, match=r"0 identities with images, but a batch needs 4"):
        build_train_loader(cfg, [replace(r, pid=UNKNOWN) for r in records], ())


def test_the_store_serves_extraction_too(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small_config()
    cfg.DATALOADER.CACHE_GB = 1.0
    loader = build_train_loader(cfg, (), records)
    plain = list(gather([build_test_loader(cfg, records)]))
    list(gather([build_test_loader(cfg, records, shared=loader.target)]))
    decode: Callable[..., None] = lambda path, size: pytest.fail("decoded twice")  # noqa: E731
    monkeypatch.setattr("mlt.data.image_dataset.decode_image", decode)
    cached = list(gather([build_test_loader(cfg, records, shared=loader.target)]))
    assert all(torch.equal(a[2], b[2]) for a, b in zip(plain, cached, strict=True))


def test_a_store_of_another_size_is_not_used(records: Records) -> None:
    cfg = small_config()
    loader = build_train_loader(cfg, (), records)
    cfg.INPUT.SIZE_TEST = [20, 10]
    assert next(iter(build_test_loader(cfg, records, shared=loader.target)))["images"].shape == (16, 3, 20, 10)


def test_images_beyond_the_budget_are_not_kept(
    records: Records, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both domains count together; one message says so."""
    monkeypatch.setattr("mlt.utils.log._said", set())
    cfg = small_config()
    cfg.DATALOADER.CACHE_GB = 20 * (3 * 16 * 8 + 1) / 1e9
    assert build_train_loader(cfg, records[:20], ()).source.store is not None  # type: ignore[union-attr]
    with caplog.at_level(logging.INFO):
        loader = build_train_loader(cfg, records[:20], records[20:])
    assert all(images is not None and images.store is None for images in (loader.source, loader.target))
    assert len(caplog.records) == 1
    assert f"{len(records)} images of 16x8 take" in caplog.text
    assert "each is decoded whenever it is needed" in caplog.text


def test_a_folder_keeps_test_images_from_one_loader_to_the_next(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small_config()
    cfg.DATALOADER.CACHE_GB, cfg.DATALOADER.CACHE_DIR = 1.0, str(tmp_path)
    first = list(gather([build_test_loader(cfg, records)]))
    assert [path.suffix for path in tmp_path.iterdir() if path.name != "lock"] == [".u8"]
    decode: Callable[..., None] = lambda path, size: pytest.fail("decoded twice")  # noqa: E731
    monkeypatch.setattr("mlt.data.image_dataset.decode_image", decode)
    again = list(gather([build_test_loader(cfg, records)]))
    assert all(torch.equal(a[2], b[2]) for a, b in zip(first, again, strict=True))
    assert len(list(gather([build_test_loader(cfg, records[::-1])]))) == len(records)


def test_augmentation_on_the_device_from_a_config(records: Records) -> None:
    cfg = small_config()
    cfg.DATALOADER.AUGMENT_ON = "device"
    plain = next(build_train_loader(cfg, records[:20], records[20:], num_views=2).epoch(0))
    cfg.DATALOADER.CACHE_GB, cfg.DATALOADER.CACHE_ON = 1.0, "device"
    loader = build_train_loader(cfg, records[:20], records[20:], num_views=2)
    kept = next(loader.epoch(0))
    assert all(torch.equal(plain[key], kept[key]) for key in (*TENSORS, "views"))
    assert not torch.equal(kept["images"], kept["views"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("AUGMENT_ON", "gpu", "AUGMENT_ON must be one of worker, device, got 'gpu'"),
        ("CACHE_ON", "cuda", "CACHE_ON must be one of host, device, got 'cuda'"),
        ("CACHE_ON", "device", "CACHE_ON device needs AUGMENT_ON device"),
    ],
)
def test_keys_that_have_no_such_value(records: Records, key: str, value: str, message: str) -> None:
    cfg = small_config()
    cfg.DATALOADER.AUGMENT_ON = "worker"
    cfg.DATALOADER[key] = value
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg, records, ())


def test_test_images_are_kept_from_one_evaluation_to_the_next(
    records: Records, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One set after the other, as long as they fit beside the training images."""
    monkeypatch.setattr("mlt.utils.log._said", set())
    first, second = (
        ReidSet(name, (), tuple(part[:4]), tuple(part[4:])) for name, part in zip("ab", (records, records))
    )
    cfg, image = small_config(), (3 * 16 * 8 + 1) / 1e9
    cfg.TEST.EVAL_PERIOD = 1
    cfg.DATALOADER.CACHE_GB = (len(records) + 20.5) * image
    with caplog.at_level(logging.INFO):
        kept = keep_test_images(cfg, (first, second), build_train_loader(cfg, records[:20], ()))
    assert list(kept) == ["a"]
    assert f"of which others take {(len(records) + 20) * image:.3g}: none are kept" in caplog.text
    list(gather([build_test_loader(cfg, records, shared=kept["a"])]))
    decode: Callable[..., None] = lambda path, size: pytest.fail("decoded twice")  # noqa: E731
    monkeypatch.setattr("mlt.data.image_dataset.decode_image", decode)
    assert len(list(gather([build_test_loader(cfg, records, shared=kept["a"])]))) == len(records)
    cfg.TEST.EVAL_PERIOD = 0
    assert not keep_test_images(cfg, (first, second), build_train_loader(cfg, records[:20], ()))
