"""What batches are made of, and that they depend on seed, epoch and number only."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlt.data.samplers import BatchPlan, Draw, IdentitySampler, ShuffleSampler
from mlt.structures import UNKNOWN

BIG = BatchPlan(ims_per_batch=16, num_batches=9, num_instances=4, seed=3)


def some_images(seed: int = 0, num_images: int = 200, num_ids: int = 13, num_cams: int = 4) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(-1, num_ids), random.integers(-1, num_ids, num_images - num_ids - 1)])
    return torch.from_numpy(random.permutation(labels)), torch.from_numpy(random.integers(0, num_cams, num_images))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, BatchPlan]:
    num_ids, num_instances, per_process, world = (draw(st.integers(1, n)) for n in (9, 5, 3, 3))
    extra = draw(st.lists(st.integers(-1, num_ids - 1), max_size=40))
    labels = torch.tensor([*range(num_ids), *extra])
    camids = torch.tensor(draw(st.lists(st.integers(-1, 3), min_size=len(labels), max_size=len(labels))))
    ids_per_batch = min(per_process * world, num_ids // world * world)
    if ids_per_batch == 0:
        world, ids_per_batch = 1, 1
    plan = BatchPlan(ids_per_batch * num_instances, 7, num_instances, draw(st.integers(0, 99)), 0, world)
    return labels, camids, plan


@settings(max_examples=60, deadline=None)
@given(cases())
def test_layout_of_identity_batches(case: tuple[Tensor, Tensor, BatchPlan]) -> None:
    labels, camids, plan = case
    everyone = replace(plan, world_size=1)
    for batch in IdentitySampler(labels, camids, everyone).batches(0):
        blocks = torch.tensor([d.image for d in batch]).view(-1, plan.num_instances)
        assert len(batch) == plan.ims_per_batch
        assert (labels[blocks] == labels[blocks[:, :1]]).all()  # K of one identity, side by side
        assert (labels[blocks] >= 0).all()
        assert len(labels[blocks[:, 0]].unique()) == len(blocks)  # no identity twice
        for block in blocks:
            check_block(block, labels, camids)


def check_block(block: Tensor, labels: Tensor, camids: Tensor) -> None:
    """The rule of METHODS read slowly: others from other cameras if any, else other images, else the same."""
    anchor, others = int(block[0]), block[1:].tolist()
    own = [i for i in range(len(labels)) if labels[i] == labels[anchor]]
    allowed = [i for i in own if camids[i] != camids[anchor]] or [i for i in own if i != anchor] or own
    assert set(others) <= set(allowed)
    counts = [others.count(i) for i in allowed]
    assert max(counts) - min(counts) <= 1  # none repeated before all were shown


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 3), st.integers(0, 7))
def test_ranks_partition_the_global_batches_and_any_may_start_late(
    case: tuple[Tensor, Tensor, BatchPlan], epoch: int, start: int
) -> None:
    labels, camids, plan = case
    whole = list(IdentitySampler(labels, camids, replace(plan, world_size=1)).batches(epoch))
    shares = [
        list(IdentitySampler(labels, camids, replace(plan, rank=r)).batches(epoch)) for r in range(plan.world_size)
    ]
    assert [list(chain(*parts)) for parts in zip(*shares)] == whole
    assert list(IdentitySampler(labels, camids, plan).batches(epoch, start)) == shares[0][start:]


@pytest.mark.parametrize("num_images", [1, 7, 16, 40])
def test_shuffle_sampler(num_images: int) -> None:
    whole = list(ShuffleSampler(num_images, BIG).batches(1))
    assert [len(batch) for batch in whole] == [16] * 9
    stream = [draw.image for batch in whole for draw in batch]
    for first in range(0, len(stream) - num_images + 1, num_images):
        assert sorted(stream[first : first + num_images]) == list(range(num_images))  # pass after pass
    shares = [list(ShuffleSampler(num_images, replace(BIG, rank=r, world_size=2)).batches(1)) for r in range(2)]
    assert [list(chain(*parts)) for parts in zip(*shares)] == whole
    assert list(ShuffleSampler(num_images, BIG).batches(1, 4)) == whole[4:]
    assert num_images == 1 or stream != [d.image for b in ShuffleSampler(num_images, BIG).batches(2) for d in b]


def test_seed_and_epoch_change_images_and_augmentation() -> None:
    labels, camids = some_images()
    batches = [
        list(IdentitySampler(labels, camids, replace(BIG, seed=seed)).batches(epoch))
        for seed, epoch in ((3, 0), (3, 1), (4, 0))
    ]
    assert batches[0] == list(IdentitySampler(labels, camids, BIG).batches(0))
    for one in (1, 2):
        orders = [labels[[d.image for d in batches[run][0]]].tolist() for run in (0, one)]
        assert orders[0] != orders[1]
    seeds = [draw.seed for run in batches for batch in run for draw in batch]
    assert len(set(seeds)) > 0.99 * len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_pass_shows_each_identity_once_and_all_come_equally_often() -> None:
    labels, camids = some_images(num_ids=13)
    plan = replace(BIG, num_batches=600)
    shown = [int(labels[d.image]) for batch in IdentitySampler(labels, camids, plan).batches(0) for d in batch[::4]]
    for first in range(0, len(shown), 12):  # 13 identities fill 3 batches of 4, one is left out of each pass
        assert len(set(shown[first : first + 12])) == 12
    counts = np.bincount(shown)
    assert len(counts) == 13
    assert counts.min() > 0.85 * counts.mean()


def test_every_image_is_an_anchor_equally_often() -> None:
    labels, camids = torch.zeros(5, dtype=torch.int64), torch.tensor([0, 0, 0, 1, UNKNOWN])
    plan = BatchPlan(2, 1000, num_instances=2)
    anchors = np.bincount([batch[0].image for batch in IdentitySampler(labels, camids, plan).batches(0)])
    assert anchors.min() > 150
    assert anchors.max() < 250


def draws_of_full_identities(labels: Tensor, camids: Tensor, plan: BatchPlan, epoch: int) -> list[list[Draw]]:
    """What the sampler drew before it knew of single rows: P identities of a pass, K rows each."""
    members = [np.flatnonzero(labels.numpy() == k) for k in range(int(labels.max()) + 1)]
    members, cams = [m for m in members if len(m)], camids.numpy()
    num_ids = plan.ims_per_batch // plan.num_instances
    batches = []
    for batch in range(plan.num_batches):
        number, place = divmod(batch, len(members) // num_ids)
        order = plan.random(epoch, 0, number).permutation(len(members))
        random, rows = plan.random(epoch, 1, batch), []
        for images in (members[i] for i in order[place * num_ids : (place + 1) * num_ids]):
            anchor = random.integers(len(images))
            others = images[cams[images] != cams[images[anchor]]]
            if not len(others):
                others = np.delete(images, anchor) if len(images) > 1 else images
            rows += [images[anchor], *np.resize(random.permutation(others), plan.num_instances - 1)]
        seeds = random.integers(2**32, size=plan.ims_per_batch)
        batches.append([Draw(int(i), int(s)) for i, s in zip(rows, seeds)])
    return batches


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 3))
def test_padded_batches_are_what_they_were(case: tuple[Tensor, Tensor, BatchPlan], epoch: int) -> None:
    labels, camids, plan = case
    plan = replace(plan, world_size=1)
    drawn = list(IdentitySampler(labels, camids, plan).batches(epoch))
    assert drawn == draws_of_full_identities(labels, camids, plan, epoch)
    if (
        len(labels[labels >= 0].unique()) and (labels[labels >= 0].bincount() != 1).all()
    ):  # then there is nothing to pad
        assert drawn == list(IdentitySampler(labels, camids, replace(plan, pad_singletons=False)).batches(epoch))


class TestSingleRows:
    """SpCL: an un-clustered image is an identity of its own and has one row."""

    LABELS = torch.cat([torch.arange(30) // 6, torch.arange(5, 45), torch.full((5,), -1)])  # 5 of 6, 40 of 1
    CAMS = torch.arange(75) % 3
    PLAN = replace(BIG, pad_singletons=False, num_batches=20)

    def drawn(self, plan: BatchPlan, epoch: int = 0, start: int = 0) -> list[list[Draw]]:
        return list(IdentitySampler(self.LABELS, self.CAMS, plan).batches(epoch, start))

    def test_batches_are_full_and_single_images_come_once(self) -> None:
        for batch in self.drawn(self.PLAN):
            images = [draw.image for draw in batch]
            assert len(images) == 16
            counts = np.bincount(self.LABELS[images].numpy(), minlength=45)
            assert counts[5:].max() <= 1
            assert counts[:5].max() <= 4
            assert len({i for i in images if i >= 30}) == counts[5:].sum()

    def test_clusters_have_their_rows_in_one_piece_but_for_the_ends_of_a_batch(self) -> None:
        cut = 0
        for batch in self.drawn(self.PLAN):
            rows = self.LABELS[[draw.image for draw in batch]].tolist()
            blocks = [(k, rows.count(k)) for k in dict.fromkeys(rows) if k < 5]
            for k, size in blocks:
                place = rows.index(k)
                assert rows[place : place + size] == [k] * size
                assert size == 4 or place == 0 or place + size == 16
                cut += size < 4
        assert cut > 0

    def test_a_pass_shows_every_identity(self) -> None:
        """60 rows fill 3 batches of 16; what is over belongs to the next pass."""
        shown = [self.LABELS[[draw.image for draw in batch]].tolist() for batch in self.drawn(self.PLAN)]
        for first in range(0, 18, 3):
            rows = [k for batch in shown[first : first + 3] for k in batch]
            assert len(rows) == 48
            assert all(rows.count(k) <= (4 if k < 5 else 1) for k in set(rows))
        assert {k for batch in shown for k in batch} == set(range(45))

    def test_pure_in_epoch_and_number_and_parted_among_processes(self) -> None:
        whole = self.drawn(self.PLAN, epoch=2)
        assert self.drawn(self.PLAN, epoch=2) == whole != self.drawn(self.PLAN, epoch=3)
        assert all(self.drawn(self.PLAN, epoch=2, start=n) == whole[n:] for n in (1, 3, 7, 19))
        shares = [self.drawn(replace(self.PLAN, rank=r, world_size=2), epoch=2) for r in range(2)]
        assert [list(chain(*parts)) for parts in zip(*shares)] == whole

    def test_an_identity_cut_in_two_still_has_other_cameras(self) -> None:
        for batch in self.drawn(self.PLAN):
            rows = [draw.image for draw in batch]
            for k in range(5):
                images = [i for i in rows if self.LABELS[i] == k]
                if len(images) == 4:
                    check_block(torch.tensor(images), self.LABELS, self.CAMS)

    def test_rows_are_counted_not_identities(self) -> None:
        single = torch.arange(12)
        with pytest.raises(ValueError, match="12 identities with images, but a batch needs 4"):
            IdentitySampler(single, torch.zeros(12), self.PLAN)
        IdentitySampler(single, torch.zeros(12), replace(self.PLAN, pad_singletons=True))
        (batch, *_) = IdentitySampler(torch.arange(16), torch.zeros(16), self.PLAN).batches(0)
        assert sorted(draw.image for draw in batch) == list(range(16))


def test_unknown_cameras_are_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlt.utils.log._said", set())
    labels = torch.arange(8) // 2
    with caplog.at_level(logging.INFO):
        for _ in range(2):  # as after each re-labelling
            sampler = IdentitySampler(labels, torch.full((8,), UNKNOWN), BIG)
            list(sampler.batches(0))
    assert caplog.text.count("cameras are unknown") == 1
    for batch in sampler.batches(1):
        for first, second in zip(batch[::4], batch[1::4]):
            assert first.image != second.image  # still another image of the same identity


def test_too_few_identities_name_numbers_and_keys() -> None:
    with pytest.raises(
        ValueError,
        match=r"3 identities with images, but a batch needs 4 = SOLVER.IMS_PER_BATCH 16 / DATALOADER.NUM_INSTANCE 4",
    ):
        IdentitySampler(torch.tensor([0, 1, 5, -1, -1]), torch.zeros(5), BIG)
    with pytest.raises(ValueError, match="0 identities with images"):
        IdentitySampler(torch.full((4,), -1), torch.zeros(4), BIG)
    with pytest.raises(ValueError, match=r"labels \[4\] and camids \[3\] must both be \[N\]"):
        IdentitySampler(torch.zeros(4), torch.zeros(3), BIG)
    with pytest.raises(ValueError, match="no images to draw from"):
        ShuffleSampler(0, BIG)


@pytest.mark.parametrize(("batch", "world"), [(18, 1), (4, 2), (12, 2), (0, 1)])
def test_batches_that_do_not_divide(batch: int, world: int) -> None:
    with pytest.raises(
        ValueError, match=rf"IMS_PER_BATCH {batch} must be a multiple of {4 * world} = DATALOADER.NUM_INST"
    ):
        BatchPlan(batch, 1, num_instances=4, world_size=world)


@pytest.mark.parametrize("wrong", [{"num_instances": 0}, {"rank": 1}, {"seed": -1}, {"num_batches": -1}])
def test_plans_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="BatchPlan: wanted"):
        replace(BIG, **wrong)


def test_draws_are_plain_numbers() -> None:
    draw = next(ShuffleSampler(20, BIG).batches(0))[0]
    assert isinstance(draw, Draw)
    assert type(draw.image) is int
    assert type(draw.seed) is int
