from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mlt.modeling.losses import CircleLoss
from mlt.modeling.memory import MemoryBank

GOLDEN = Path(__file__).parents[2] / "golden" / "memory_bank.npz"
LABELS = torch.tensor([0, 0, 1, 1, 2, -1])  # of six target images
NOTHING = torch.empty(0, 4), torch.empty(0, dtype=torch.int64)


def enqueue(bank: MemoryBank, rows: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor | None = None) -> None:
    """An update with target rows alone."""
    bank.update(*NOTHING, target=rows, target_indices=indices, labels=LABELS, weights=weights)


def move(bank: MemoryBank, rows: torch.Tensor, identities: torch.Tensor) -> None:
    """An update with source rows alone."""
    nothing, none = NOTHING
    bank.update(source=rows, source_targets=identities, target=nothing, target_indices=none, labels=LABELS)


@pytest.fixture
def bank() -> MemoryBank:
    """Queue of 5 slots, of which 3 are filled with images 0, 2 and 5 (an outlier), and 2 prototypes."""
    bank = MemoryBank(num_features=4, num_prototypes=2, queue_size=5, circle=CircleLoss(gamma=8.0))
    bank.set_prototypes(torch.randn(2, 4))
    enqueue(bank, torch.randn(3, 4), torch.tensor([0, 2, 5]))
    return bank


class LinearLoss(nn.Module):
    def forward(self, similarity, positives, negatives, weights=None):
        terms = (similarity * (negatives.to(similarity) - positives.to(similarity))).square()
        return terms.sum() if weights is None else (weights * terms).sum()


def snapshot(bank: MemoryBank) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in bank.state_dict().items()}


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    """Output of UDAStrongBaseline's code."""
    with np.load(GOLDEN) as file:
        return {key: torch.from_numpy(file[key]) if file[key].shape else file[key].item() for key in file.files}


class TestGolden:
    """The published memory is one row for each source class, then the queue; its target indices are shifted by S."""

    @pytest.fixture
    def full_bank(self, case):
        num_source = case["source_classes"]
        circle = CircleLoss(case["m"], case["gamma"], 1 / case["scale"])
        bank = MemoryBank(case["memory"].shape[1], num_source, case["queue_size"], circle, case["momentum"])
        bank.set_prototypes(case["memory"][:num_source])
        bank.queue.copy_(case["memory"][num_source:])
        bank.queue_index.copy_(case["memory_index"][num_source:] - num_source)
        bank.queue_ptr.fill_(case["queue_pointer"])
        return bank

    def test_losses(self, case, full_bank):
        table = case["target_labels"][case["group"]]
        instance = full_bank.instance_loss(case["target_features"], table[case["target_index"]], table)
        prototype = full_bank.prototype_loss(case["source_features"], case["source_labels"])
        assert instance.item() == pytest.approx(case["loss_instance"], rel=1e-5)
        assert prototype.item() == pytest.approx(case["loss_center"], rel=1e-5)

    def test_update(self, case, full_bank):
        full_bank.update(
            source=case["source_features"],
            source_targets=case["source_labels"],
            target=case["target_features"],
            target_indices=case["target_index"],
            labels=case["target_labels"][case["group"]],
        )
        num_source = case["source_classes"]
        torch.testing.assert_close(full_bank.prototypes, case["memory_after"][:num_source])
        torch.testing.assert_close(full_bank.queue, case["memory_after"][num_source:])
        assert torch.equal(full_bank.queue_index, case["memory_index_after"][num_source:] - num_source)
        assert int(full_bank.queue_ptr) == 48


class TestInstanceLoss:
    def test_only_filled_slots_with_a_label_and_prototypes_count(self, bank):
        """The loss against a hand-made bank of exactly the entries that may count."""
        features, targets = torch.randn(2, 4), torch.tensor([0, 1])
        vectors = torch.cat([bank.queue[:2], bank.prototypes])  # images 0 and 2, then the source
        similarity = F.normalize(features) @ vectors.t()
        positives = torch.tensor([[True, False, False, False], [False, True, False, False]])
        expected = bank.circle(similarity, positives, ~positives)
        torch.testing.assert_close(bank.instance_loss(features, targets, LABELS), expected)

    def test_empty_slots_have_no_effect(self, bank):
        features, targets = torch.randn(2, 4), torch.tensor([0, 1])
        before = bank.instance_loss(features, targets, LABELS)
        bank.queue[3:] = features  # would be the hardest entries of all
        assert torch.equal(bank.instance_loss(features, targets, LABELS), before)

    def test_prototypes_are_negatives_only_when_set(self, bank):
        features, targets = torch.randn(2, 4), torch.tensor([0, 1])
        with_source = bank.instance_loss(features, targets, LABELS)
        bank.has_prototypes.fill_(False)
        assert bank.instance_loss(features, targets, LABELS) < with_source

    def test_labels_are_looked_up_at_use(self, bank):
        features, targets = torch.randn(1, 4), torch.tensor([0])
        relabelled = LABELS.clone()
        relabelled[0] = 3
        assert bank.instance_loss(features, targets, LABELS) > 0
        assert bank.instance_loss(features, targets, relabelled) == 0  # image 0 was the only positive

    @pytest.mark.parametrize("state", ["empty queue", "no positive", "outlier anchors"])
    def test_zero_with_a_graph(self, bank, state):
        if state == "empty queue":
            bank.forget()
        targets = torch.tensor({"no positive": [2, 2], "outlier anchors": [-1, -1]}.get(state, [0, 1]))
        features = torch.randn(2, 4, requires_grad=True)
        loss = bank.instance_loss(features, targets, LABELS)
        loss.backward()
        assert loss.item() == 0
        assert not features.grad.any()

    def test_gradcheck(self, bank):
        """With a loss that numerical differences can follow: the circle's own weights carry no gradient."""
        features = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        bank.circle = LinearLoss()
        bank.double()
        targets = torch.tensor([0, 1, -1])
        assert torch.autograd.gradcheck(lambda x: bank.instance_loss(x, targets, LABELS), features)
        assert torch.autograd.gradcheck(lambda x: bank.prototype_loss(x, targets.abs()), features)


class TestPrototypeLoss:
    def test_is_the_circle_loss_against_all_prototypes(self, bank):
        features, targets = torch.randn(3, 4), torch.tensor([1, 0, 1])
        own = F.one_hot(targets, 2).bool()
        expected = bank.circle(F.normalize(features) @ bank.prototypes.t(), own, ~own)
        torch.testing.assert_close(bank.prototype_loss(features, targets), expected)

    def test_zero_until_set(self):
        bank = MemoryBank(4, 2, 5)
        features = torch.randn(3, 4, requires_grad=True)
        loss = bank.prototype_loss(features, torch.tensor([0, 1, 0]))
        loss.backward()
        assert loss.item() == 0

    def test_no_source_rows(self, bank):
        loss = bank.prototype_loss(torch.empty(0, 4, requires_grad=True), torch.empty(0, dtype=torch.int64))
        assert loss.item() == 0
        assert loss.requires_grad


class TestUpdate:
    def test_prototypes_move_row_by_row(self, bank):
        """Three rows of one identity among others, against the rule written as a loop."""
        expected = bank.prototypes.clone()
        features, targets = torch.randn(5, 4), torch.tensor([1, 0, 1, 1, 0])
        for f, y in zip(F.normalize(features), targets, strict=True):
            expected[y] = F.normalize(0.2 * expected[y] + 0.8 * f, dim=0)
        move(bank, features, targets)
        torch.testing.assert_close(bank.prototypes, expected, rtol=0, atol=1e-6)

    def test_rows_beyond_those_of_an_identity_do_not_move_its_prototype(self, bank):
        bank.rows_per_class = 2
        other = copy.deepcopy(bank)
        features, targets = torch.randn(5, 4), torch.tensor([1, 0, 1, 1, 1])
        move(bank, features, targets)
        move(other, features[:3], targets[:3])
        assert torch.equal(bank.prototypes, other.prototypes)

    def test_queue_is_first_in_first_out(self, bank):
        rows = torch.randn(4, 4)
        enqueue(bank, rows, torch.tensor([1, 2, 3, 4]))
        assert bank.queue_index.tolist() == [3, 4, 5, 1, 2]
        torch.testing.assert_close(bank.queue[[3, 4, 0, 1]], F.normalize(rows))

    def test_more_rows_than_slots(self, bank):
        enqueue(bank, torch.randn(7, 4), torch.arange(7))
        assert sorted(bank.queue_index.tolist()) == [2, 3, 4, 5, 6]

    def test_prototypes_that_are_not_set_stay(self):
        bank = MemoryBank(4, 2, 5)
        row, image = torch.randn(1, 4), torch.tensor([0])
        bank.update(source=row, source_targets=image, target=row, target_indices=image, labels=LABELS)
        assert not bank.prototypes.any()

    def test_losses_do_not_write(self, bank):
        before = snapshot(bank)
        features = torch.randn(2, 4, requires_grad=True)
        (
            bank.instance_loss(features, torch.tensor([0, 1]), LABELS) + bank.prototype_loss(features, LABELS[:2])
        ).backward()
        assert all(torch.equal(value, before[key]) for key, value in bank.state_dict().items())

    def test_state_dict_round_trip(self, bank):
        other = MemoryBank(4, 2, 5)
        other.load_state_dict(bank.state_dict())
        features, targets = torch.randn(2, 4), torch.tensor([0, 1])
        assert torch.equal(
            other.instance_loss(features, targets, LABELS) * 0 + other.queue.sum(),
            bank.instance_loss(features, targets, LABELS) * 0 + bank.queue.sum(),
        )
        assert bool(other.has_prototypes)

    def test_forget_empties_the_queue_and_takes_the_prototypes_out(self, bank):
        features, targets = torch.randn(2, 4), torch.tensor([0, 1])
        assert bank.instance_loss(features, targets, LABELS) > 0
        bank.forget()
        assert bank.queue_index.tolist() == [-1] * 5
        assert int(bank.queue_ptr) == 0
        assert not bank.queue.any()
        assert bank.prototype_loss(features, targets) == bank.instance_loss(features, targets, LABELS) == 0

    def test_set_prototypes_normalises_and_checks(self, bank):
        bank.set_prototypes(torch.full((2, 4), 3.0))
        assert torch.equal(bank.prototypes, torch.full((2, 4), 0.5))
        with pytest.raises(ValueError, match=r"prototypes must be \[2, 4\].*got \[3, 4\]"):
            bank.set_prototypes(torch.zeros(3, 4))


class TestWeights:
    """UNRN: in the queue's loss a pair counts with the mean weight of its two rows."""

    def test_against_a_loop_over_pairs(self, bank):
        weights, of_the_queue = torch.tensor([0.3, 0.9]), torch.tensor([0.5, 0.2, 0.7])
        bank.forget()
        enqueue(bank, torch.randn(3, 4), torch.tensor([0, 2, 5]), of_the_queue)
        bank.set_prototypes(torch.randn(2, 4))
        features, targets, margin, gamma = torch.randn(2, 4), [0, 1], 0.25, 8.0
        pool = [(bank.queue[0], 0, 0.5), (bank.queue[1], 1, 0.2)]  # image 5 is an outlier
        pool += [(row, None, 1.0) for row in bank.prototypes]  # always other identities, of weight 1
        total = 0.0
        for f, y, w in zip(F.normalize(features), targets, weights.tolist(), strict=True):
            sums = {True: 0.0, False: 0.0}
            for row, label, other in pool:
                s, same = float(f @ row), label == y
                power = -max(1 + margin - s, 0) * (s - 1 + margin) if same else max(s + margin, 0) * (s - margin)
                sums[same] += (w + other) / 2 * math.exp(gamma * power)
            total += math.log1p(sums[True] * sums[False])
        loss = bank.losses(
            *NOTHING, target=features, target_indices=torch.tensor([1, 3]), labels=LABELS, weights=weights
        )["loss_instance"]
        assert loss.item() == pytest.approx(total / 2, rel=1e-5)

    def test_weights_of_one_change_nothing(self, bank):
        features, targets = torch.randn(2, 4), torch.tensor([0, 1])
        weighted = bank.instance_loss(features, targets, LABELS, torch.ones(2))
        torch.testing.assert_close(weighted, bank.instance_loss(features, targets, LABELS))

    def test_they_are_kept_with_their_rows(self, bank):
        enqueue(bank, torch.randn(4, 4), torch.tensor([1, 2, 3, 4]), torch.tensor([0.1, 0.2, 0.3, 0.4]))
        torch.testing.assert_close(bank.queue_weight, torch.tensor([0.3, 0.4, 1.0, 0.1, 0.2]))
        enqueue(bank, torch.randn(7, 4), torch.arange(7), torch.arange(7) / 10)
        kept = dict(zip(bank.queue_index.tolist(), bank.queue_weight.tolist(), strict=True))
        assert kept == pytest.approx({i: i / 10 for i in (2, 3, 4, 5, 6)})


def test_weights_scale_the_losses(bank):
    features, targets = torch.randn(2, 4), torch.tensor([0, 1])
    plain = bank.instance_loss(features, targets, LABELS), bank.prototype_loss(features, targets)
    bank.instance_weight, bank.prototype_weight = 0.5, 3.0
    torch.testing.assert_close(bank.instance_loss(features, targets, LABELS), 0.5 * plain[0])
    torch.testing.assert_close(bank.prototype_loss(features, targets), 3.0 * plain[1])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"queue_size": 0}, "QUEUE_SIZE"),
        ({"prototype_momentum": 1.5}, "PROTOTYPE_MOMENTUM"),
        ({"rows_per_class": 0}, "NUM_INSTANCE"),
    ],
)
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        MemoryBank(4, 2, **options)
