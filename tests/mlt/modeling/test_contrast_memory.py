"""The interface of memories, and the two that contrast a row with all classes at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mlt.modeling.memory import ClusterMemory, ContrastMemory, HybridMemory, Memory, move_rows
from mlt.registry import MEMORIES

GOLDEN = Path(__file__).parents[2] / "golden" / "hybrid_memory.npz"
LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 3, -1])  # of eight target images
NO_SOURCE = torch.empty(0, 6), torch.empty(0, dtype=torch.int64)


def started(memory: ContrastMemory, num_source: int = 3) -> ContrastMemory:
    """With random vectors for LABELS, which are not all of unit norm."""
    memory.start_round(LABELS, torch.randn(len(LABELS), 6) * 3, torch.randn(num_source, 6) if num_source else None)
    return memory


def snapshot(memory: Memory) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in memory.state_dict().items()}


def naive_loss(features: Tensor, vectors: list[Tensor], classes: list[int], temperature: float, floor: float) -> float:
    """The formula, row by row; a class of -1 is no row."""
    terms = []
    for f, y in zip(features.double(), classes, strict=True):
        if y >= 0:
            powers = [math.exp(float(f @ v.double()) / float(f.norm()) / temperature) for v in vectors]
            terms.append(-math.log(powers[y] / sum(powers) + floor))
    return sum(terms) / len(terms)


def move_one_by_one(bank: Tensor, places: list[int], rows: Tensor, momentum: float) -> Tensor:
    bank = bank.clone()
    for place, row in zip(places, F.normalize(rows), strict=True):
        if place >= 0:
            bank[place] = F.normalize(momentum * bank[place] + (1 - momentum) * row, dim=0)
    return bank


class NoReading(TorchDispatchMode):
    """Fails where a tensor's content decides what Python does next: on a GPU that is a wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


class TestMoveRows:
    @given(places=st.lists(st.integers(-1, 4), max_size=9), momentum=st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    @settings(max_examples=30)
    def test_is_the_rule_row_by_row(self, places, momentum):
        bank, rows = F.normalize(torch.randn(5, 4)), torch.randn(len(places), 4)
        expected = move_one_by_one(bank, places, rows, momentum)
        where = torch.tensor(places, dtype=torch.int64)
        for repeats in (None, max([places.count(p) for p in set(places) - {-1}], default=1)):
            moved = bank.clone()
            move_rows(moved, where, rows, momentum, where >= 0, repeats)
            torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)
            untouched = [p for p in range(5) if p not in places]
            assert torch.equal(moved[untouched], bank[untouched])

    def test_rows_that_do_not_count(self):
        bank, rows = F.normalize(torch.randn(3, 4)), torch.randn(4, 4)
        expected = move_one_by_one(bank, [2, -1, 2, -1], rows, 0.2)
        move_rows(bank, torch.tensor([2, 2, 2, 0]), rows, 0.2, torch.tensor([True, False, True, False]))
        torch.testing.assert_close(bank, expected, rtol=0, atol=1e-6)

    def test_no_turn_beyond_the_repeats(self):
        bank, rows = F.normalize(torch.randn(2, 4)), torch.randn(3, 4)
        expected = move_one_by_one(bank, [1, 1], rows[:2], 0.2)
        move_rows(bank, torch.tensor([1, 1, 1]), rows, 0.2, repeats=2)
        torch.testing.assert_close(bank, expected, rtol=0, atol=1e-6)


class TestInterface:
    def test_what_a_memory_does_not_hold_is_said(self):
        with pytest.raises(ValueError, match=r"ClusterMemory does not hold a row for every.*HybridMemory"):
            ClusterMemory(6).target_features()

    @pytest.mark.parametrize("name", ["HybridMemory", "ClusterMemory"])
    def test_built_from_the_config(self, cfg_of, name):
        cfg = cfg_of("MEMORY.TEMPERATURE", 0.1, "MEMORY.PROTOTYPE_MOMENTUM", 0.3, "DATALOADER.NUM_INSTANCE", 8)
        memory = MEMORIES.get(name)(cfg, 6)
        assert (memory.temperature, memory.momentum, memory.rows_per_class) == (0.1, 0.3, 8)
        assert memory.prototypes.shape == (0, 6)

    def test_hard_from_the_config(self, cfg_of):
        assert MEMORIES.get("ClusterMemory")(cfg_of("MEMORY.HARD", True), 6).hard

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"temperature": 0.0}, r"MEMORY\.TEMPERATURE must be > 0, got 0.0"),
            ({"momentum": 1.5}, r"MEMORY\.PROTOTYPE_MOMENTUM must be in \[0, 1\], got 1.5"),
            ({"rows_per_class": 0}, r"NUM_INSTANCE\) must be >= 1, got 0"),
        ],
    )
    def test_bad_arguments(self, options, match):
        with pytest.raises(ValueError, match=match):
            HybridMemory(6, **options)


@pytest.mark.parametrize("cls", [HybridMemory, ClusterMemory])
class TestBoth:
    def test_source_rows_without_prototypes(self, cls):
        memory = started(cls(6), num_source=0)
        with pytest.raises(ValueError, match=r"no source prototypes: start_round needs source="):
            memory.losses(torch.randn(1, 6), torch.tensor([0]), torch.randn(1, 6), torch.tensor([0]), LABELS)

    def test_vectors_of_another_length(self, cls):
        with pytest.raises(ValueError, match=r"embeddings must be \[rows, 6\].*got \[8, 5\]"):
            cls(6).start_round(LABELS, torch.zeros(8, 5))
        with pytest.raises(ValueError, match=r"source must be \[rows, 6\].*got \[6\]"):
            cls(6).start_round(LABELS, torch.zeros(8, 6), torch.zeros(6))

    def test_without_source_there_is_one_loss(self, cls):
        memory = started(cls(6), num_source=0)
        assert list(memory.losses(*NO_SOURCE, torch.randn(2, 6), torch.tensor([0, 2]), LABELS)) == ["loss_target"]

    def test_nothing_to_learn_is_zero_with_a_graph(self, cls):
        memory = started(cls(6))
        source, target = torch.empty(0, 6, requires_grad=True), torch.randn(1, 6, requires_grad=True)
        losses = memory.losses(source, NO_SOURCE[1], target, torch.tensor([7]), LABELS)  # image 7 is an outlier
        sum(losses.values()).backward()
        assert [value.item() for value in losses.values()] == [0, 0]
        assert not target.grad.any()

    def test_the_loss_is_the_mean_of_its_rows_alone(self, cls):
        memory, rows, indices = started(cls(6)), torch.randn(2, 6), torch.tensor([1, 4])
        both, *alone = (
            memory.losses(*NO_SOURCE, rows[part], indices[part], LABELS)["loss_target"]
            for part in (slice(2), slice(1), slice(1, 2))
        )
        torch.testing.assert_close(both, sum(alone) / 2)

    def test_one_row_of_a_class_is_enough(self, cls):
        assert cls(6, rows_per_class=1).rows_per_class == 1

    def test_gradcheck(self, cls):
        memory = started(cls(6, temperature=0.5)).double()
        targets, indices = torch.tensor([2, 0]), torch.tensor([0, 3, 5, 7])
        rows = [torch.randn(num, 6, dtype=torch.float64, requires_grad=True) for num in (2, 4)]
        assert torch.autograd.gradcheck(
            lambda s, t: tuple(memory.losses(s, targets, t, indices, LABELS).values()), rows
        )

    def test_losses_do_not_write(self, cls):
        memory = started(cls(6))
        before = snapshot(memory)
        rows = torch.randn(2, 6, requires_grad=True)
        sum(memory.losses(rows, torch.tensor([0, 1]), rows, torch.tensor([0, 2]), LABELS).values()).backward()
        assert all(torch.equal(value, before[key]) for key, value in memory.state_dict().items())

    def test_source_prototypes_move_row_by_row(self, cls):
        memory = started(cls(6, momentum=0.3))
        rows, targets = torch.randn(4, 6), [2, 0, 2, 2]
        expected = move_one_by_one(memory.prototypes, targets, rows, 0.3)
        memory.update(rows, torch.tensor(targets), torch.randn(1, 6), torch.tensor([0]), LABELS)
        torch.testing.assert_close(memory.prototypes, expected, rtol=0, atol=1e-6)

    def test_a_checkpoint_brings_its_sizes(self, cls):
        memory, other = started(cls(6)), cls(6)
        other.load_state_dict(memory.state_dict())
        args = torch.randn(2, 6), torch.tensor([0, 1]), torch.randn(2, 6), torch.tensor([0, 2]), LABELS
        for memory_ in (memory, other):
            memory_.update(*args)
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in memory.state_dict().items())
        assert all(map(torch.equal, memory.losses(*args).values(), other.losses(*args).values()))

    def test_a_checkpoint_of_longer_vectors_is_refused(self, cls):
        with pytest.raises(RuntimeError, match="size mismatch for prototypes"):
            cls(5).load_state_dict(started(cls(6)).state_dict())

    def test_float32_inside_autocast(self, cls):
        memory = started(cls(6))
        rows = torch.randn(2, 6, dtype=torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            losses = memory.losses(rows, torch.tensor([0, 1]), rows, torch.tensor([0, 2]), LABELS)
        assert all(value.dtype == torch.float32 for value in losses.values())

    def test_a_step_reads_nothing_back(self, cls):
        memory = started(cls(6))
        args = torch.randn(2, 6), torch.tensor([0, 1]), torch.randn(3, 6), torch.tensor([0, 2, 7]), LABELS
        with NoReading():
            memory.losses(*args)
            memory.update(*args)


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    """Output of SpCL's code."""
    with np.load(GOLDEN) as file:
        return {key: torch.from_numpy(file[key]) if file[key].shape else file[key].item() for key in file.files}


class TestHybrid:
    def test_golden(self, case):
        """The published inputs have unit norm and are taken as they are: its gradient has a radial part, ours none."""
        memory = HybridMemory(32, case["temp"], case["momentum"])
        memory.start_round(case["labels"], case["features"])
        rows = case["inputs"].clone().requires_grad_()
        none = torch.empty(0, 32), torch.empty(0, dtype=torch.int64)
        loss = memory.losses(*none, rows, case["indexes"], case["labels"])["loss_target"]
        loss.backward()
        assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
        radial = (case["grad"] * case["inputs"]).sum(1, keepdim=True) * case["inputs"]
        torch.testing.assert_close(rows.grad, case["grad"] - radial, rtol=1e-5, atol=1e-6)
        memory.update(*none, rows.detach(), case["indexes"], case["labels"])
        torch.testing.assert_close(memory.instances, case["features_after"], rtol=0, atol=1e-6)

    def test_losses_are_the_formula(self):
        memory = started(HybridMemory(6, temperature=0.3))
        source, target = torch.randn(3, 6), torch.randn(4, 6)
        means = [memory.instances[k == LABELS].mean(0) for k in range(4)]  # of two, three, one and one image
        vectors = [*memory.prototypes, *means]
        losses = memory.losses(source, torch.tensor([2, 0, 2]), target, torch.tensor([1, 4, 6, 7]), LABELS)
        assert losses["loss_source"].item() == pytest.approx(naive_loss(source, vectors, [2, 0, 2], 0.3, 1e-6), 1e-5)
        expected = naive_loss(target, vectors, [3, 4, 6, -1], 0.3, 1e-6)
        assert losses["loss_target"].item() == pytest.approx(expected, 1e-5)

    def test_images_move_their_own_row(self):
        memory = started(HybridMemory(6))
        rows, indices = torch.randn(4, 6), [5, 0, 5, 7]
        expected = move_one_by_one(memory.instances, indices, rows, 0.2)
        memory.update(*NO_SOURCE, rows, torch.tensor(indices), LABELS)
        torch.testing.assert_close(memory.target_features(), expected, rtol=0, atol=1e-6)

    def test_a_new_round_keeps_the_rows(self):
        memory = started(HybridMemory(6))
        before = snapshot(memory)
        memory.start_round(LABELS.flip(0))
        assert all(torch.equal(value, before[key]) for key, value in memory.state_dict().items())

    def test_rows_are_brought_to_unit_norm(self):
        assert started(HybridMemory(6)).instances.norm(dim=1).allclose(torch.ones(8))

    def test_the_first_round_needs_rows(self):
        with pytest.raises(ValueError, match="labels of 8 images, but rows of 0: the first round needs the embeddings"):
            HybridMemory(6).start_round(LABELS)


class TestCluster:
    def test_losses_are_the_formula(self):
        memory = started(ClusterMemory(6, temperature=0.3))
        source, target = torch.randn(3, 6), torch.randn(4, 6)
        vectors = [*memory.prototypes, *memory.centroids]
        losses = memory.losses(source, torch.tensor([2, 0, 2]), target, torch.tensor([1, 4, 6, 7]), LABELS)
        assert losses["loss_source"].item() == pytest.approx(naive_loss(source, vectors, [2, 0, 2], 0.3, 0), 1e-5)
        assert losses["loss_target"].item() == pytest.approx(naive_loss(target, vectors, [3, 4, 6, -1], 0.3, 0), 1e-5)

    def test_starts_with_the_means_of_unit_rows(self):
        embeddings = torch.randn(8, 6) * torch.arange(1, 9)[:, None]
        memory = ClusterMemory(6)
        memory.start_round(LABELS, embeddings)
        expected = torch.stack([F.normalize(F.normalize(embeddings[k == LABELS]).mean(0), dim=0) for k in range(4)])
        torch.testing.assert_close(memory.centroids, expected)

    def test_images_move_their_cluster(self):
        memory = started(ClusterMemory(6))
        rows, indices = torch.randn(5, 6), [3, 0, 7, 2, 4]
        expected = move_one_by_one(memory.centroids, LABELS[indices].tolist(), rows, 0.1)
        memory.update(*NO_SOURCE, rows, torch.tensor(indices), LABELS)
        torch.testing.assert_close(memory.centroids, expected, rtol=0, atol=1e-6)

    def test_hard_moves_by_the_least_similar_row(self):
        memory = started(ClusterMemory(6, hard=True))
        rows, indices = torch.randn(7, 6), [3, 0, 7, 2, 4, 1, 0]
        rows[6] = rows[1]  # equally similar: the first one counts, to the same end
        expected = memory.centroids.clone()
        for k in (0, 1):
            own = [row for row, index in zip(F.normalize(rows), indices, strict=True) if LABELS[index] == k]
            worst = min(own, key=lambda row: float(row @ memory.centroids[k]))
            expected[k] = F.normalize(0.1 * memory.centroids[k] + 0.9 * worst, dim=0)
        memory.update(*NO_SOURCE, rows, torch.tensor(indices), LABELS)
        torch.testing.assert_close(memory.centroids, expected, rtol=0, atol=1e-6)

    def test_an_empty_cluster_counts_from_its_first_image_on(self):
        memory = ClusterMemory(6)
        labels = torch.tensor([0, 0, 2, 2])
        memory.start_round(labels, torch.randn(4, 6))
        assert not memory.centroids[1].any()
        rows, indices = torch.randn(2, 6), torch.tensor([0, 2])
        without = memory.losses(*NO_SOURCE, rows, indices, labels)["loss_target"]
        vectors = [memory.centroids[0], memory.centroids[2]]
        assert without.item() == pytest.approx(naive_loss(rows, vectors, [0, 1], 0.05, 0), 1e-5)
        moved = torch.tensor([0, 0, 2, 1])  # a transport has filled it
        assert memory.losses(*NO_SOURCE, rows[:1], torch.tensor([3]), moved)["loss_target"] == 0
        memory.update(*NO_SOURCE, rows[:1], torch.tensor([3]), moved)
        torch.testing.assert_close(memory.centroids[1], F.normalize(rows[0], dim=0))

    def test_new_labels_of_the_same_clusters_keep_the_vectors(self):
        memory = started(ClusterMemory(6))
        before = snapshot(memory)
        memory.start_round(LABELS.flip(0))
        assert all(torch.equal(value, before[key]) for key, value in memory.state_dict().items())
        with pytest.raises(ValueError, match="labels of 5 clusters, but vectors of 4"):
            memory.start_round(torch.arange(5))
