"""Losses between two nets, and the uncertainty that their disagreement gives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mlt.modeling.losses import (
    CrossEntropyLoss,
    SoftCrossEntropyLoss,
    SoftTripletLoss,
    TripletLoss,
    reliability,
    uncertainty,
)
from mlt.registry import LOSSES

GOLDEN = Path(__file__).parents[2] / "golden" / "losses.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    """Outputs of MMT's code."""
    with np.load(GOLDEN) as file:
        return {key: torch.from_numpy(file[key]) if file[key].shape else file[key].item() for key in file.files}


class TestGolden:
    def test_soft_cross_entropy(self, golden):
        loss = SoftCrossEntropyLoss(1.0)(golden["logits"], golden["teacher_logits"])
        assert loss.item() == pytest.approx(golden["soft_ce"], rel=1e-5)

    def test_soft_triplet(self, golden):
        loss = SoftTripletLoss(scale=1.0)(golden["features"], golden["teacher_features"], golden["labels"])
        assert loss.item() == pytest.approx(golden["soft_softmax_triplet"], rel=1e-5)


class TestSoftCrossEntropy:
    def test_is_the_formula(self):
        z, t = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
        total = 0.0
        for row, teacher in zip(z.tolist(), t.tolist(), strict=True):
            log_sum, teacher_sum = math.log(sum(map(math.exp, row))), sum(map(math.exp, teacher))
            total -= sum(math.exp(b) / teacher_sum * (a - log_sum) for a, b in zip(row, teacher, strict=True))
        assert SoftCrossEntropyLoss(0.5)(z, t).item() == pytest.approx(0.5 * total / 3, abs=1e-12)

    def test_a_sure_teacher_gives_the_hard_loss(self):
        z, y = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
        soft = SoftCrossEntropyLoss(1.0)(z, F.one_hot(y, 4) * 1e4)
        torch.testing.assert_close(soft, CrossEntropyLoss(0.0)(z, y))

    def test_mixture_is_the_mean_over_classifiers(self):
        z, t = [torch.randn(3, k) for k in (4, 6)], [torch.randn(3, k) for k in (4, 6)]
        single = [SoftCrossEntropyLoss()(a, b) for a, b in zip(z, t, strict=True)]
        torch.testing.assert_close(SoftCrossEntropyLoss()(z, t), sum(single) / 2)
        assert SoftCrossEntropyLoss().between_nets(z, t, torch.zeros(3)) == SoftCrossEntropyLoss()(z, t)

    def test_gradcheck(self):
        z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        t = torch.randn(3, 4, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda a: SoftCrossEntropyLoss()([a, a * 2], [t, t * 2]), z)

    def test_the_teacher_gets_no_gradient(self):
        z, t = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
        SoftCrossEntropyLoss()(z, t).backward()
        assert t.grad is None
        assert z.grad.any()

    def test_no_rows(self):
        z = torch.empty(0, 4, requires_grad=True)
        loss = SoftCrossEntropyLoss()(z, z)
        loss.backward()
        assert loss.item() == 0

    def test_float32_inside_autocast(self):
        z = torch.randn(3, 4, dtype=torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            assert SoftCrossEntropyLoss()(z, z).dtype == torch.float32

    def test_other_classes(self):
        with pytest.raises(ValueError, match=r"same classes, got logits \[\[2, 3\]\] and \[\[2, 4\]\]"):
            SoftCrossEntropyLoss()(torch.zeros(2, 3), torch.zeros(2, 4))


def naive_soft_triplet(f, teacher, y, pool, pool_teacher, pool_y) -> float:
    total = 0.0
    for a, ta, label in zip(f, teacher, y.tolist(), strict=True):
        positives = [j for j, t in enumerate(pool_y.tolist()) if t == label != -1]
        negatives = [j for j, t in enumerate(pool_y.tolist()) if t not in (label, -1)]
        if positives and negatives:
            p = max(positives, key=lambda j: float((a - pool[j]).norm()))
            n = min(negatives, key=lambda j: float((a - pool[j]).norm()))
            values = []
            for anchor, rows in ((a, pool), (ta, pool_teacher)):
                dp, dn = (math.exp(max(float((anchor - rows[j]).norm()), 1e-6)) for j in (p, n))
                values.append(dn / (dp + dn))
            total -= values[1] * math.log(values[0]) + (1 - values[1]) * math.log(1 - values[0])
    return total / len(f)


class TestSoftTriplet:
    @given(
        targets=st.lists(st.integers(-1, 2), min_size=1, max_size=6),
        pool_targets=st.lists(st.integers(-1, 2), min_size=1, max_size=8),
    )
    @settings(max_examples=50)
    def test_is_the_definition(self, targets, pool_targets):
        y, pool_y = torch.tensor(targets), torch.tensor(pool_targets)
        f, pool = torch.randn(len(y), 5, dtype=torch.float64), torch.randn(len(pool_y), 5, dtype=torch.float64)
        teacher, pool_teacher = torch.randn(len(y), 3, dtype=torch.float64), torch.randn(len(pool_y), 3).double()
        args = f, teacher, y, pool, pool_teacher, pool_y
        assert SoftTripletLoss(scale=1.0)(*args).item() == pytest.approx(naive_soft_triplet(*args), abs=1e-9)

    def test_the_student_mines(self):
        """For the teacher another row is the hardest; its value on the student's rows counts."""
        f = torch.tensor([[0.0], [2.0], [1.0], [5.0]])
        teacher = torch.tensor([[0.0], [1.0], [9.0], [0.5]])
        anchor, y = slice(0, 1), torch.tensor([0, 0, 1, 1])
        loss = SoftTripletLoss(scale=1.0)(f[anchor], teacher[anchor], y[anchor], f, teacher, y)
        ours, theirs = (1 / (1 + math.exp(dp - dn)) for dp, dn in ((2.0, 1.0), (1.0, 9.0)))
        expected = -theirs * math.log(ours) - (1 - theirs) * math.log(1 - ours)
        assert loss.item() == pytest.approx(expected, rel=1e-6)

    def test_a_sure_teacher_gives_the_hard_loss(self):
        f, y = torch.randn(6, 5), torch.tensor([0, 0, 1, 1, 2, 2])
        soft = SoftTripletLoss(scale=1.0)(f, 1e4 * F.one_hot(y, 3).float(), y)
        torch.testing.assert_close(soft, TripletLoss()(f, y))

    def test_shares_of_the_anchors_against_the_whole_pool_are_the_whole_loss(self):
        """What two processes compute, each from half of the rows and the gathered pool."""
        f, teacher = torch.randn(8, 5, requires_grad=True), torch.randn(8, 4)
        y, loss = torch.tensor([0, 0, 1, 1, 0, 2, 2, 1]), SoftTripletLoss()
        shares = [loss(f[part], teacher[part], y[part], f, teacher, y) for part in (slice(4), slice(4, 8))]
        whole = loss(f, teacher, y)
        torch.testing.assert_close(sum(shares) / 2, whole)
        ours, expected = (torch.autograd.grad(value, f)[0] for value in (sum(shares) / 2, whole))
        torch.testing.assert_close(ours, expected)

    @pytest.mark.parametrize("norm_feat", [False, True])
    def test_gradcheck(self, norm_feat):
        f, pool = (torch.randn(num, 4, dtype=torch.float64, requires_grad=True) for num in (6, 7))
        teacher, pool_teacher = (torch.randn(num, 4, dtype=torch.float64) for num in (6, 7))
        y, pool_y = torch.tensor([0, 0, 1, 1, 2, -1]), torch.tensor([0, 1, 2, 0, 1, -1, 3])
        loss = SoftTripletLoss(norm_feat)
        assert torch.autograd.gradcheck(lambda a, b: loss(a, teacher, y, b, pool_teacher, pool_y), (f, pool))

    def test_normalised_is_the_loss_of_unit_rows(self):
        f, teacher, y = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 0, 1, 1])
        expected = SoftTripletLoss()(F.normalize(f), F.normalize(teacher), y)
        torch.testing.assert_close(SoftTripletLoss(norm_feat=True)(f, teacher, y), expected)

    def test_the_teacher_gets_no_gradient(self):
        f, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
        SoftTripletLoss().between_nets(f, teacher, torch.tensor([0, 0, 1, 1])).backward()
        assert teacher.grad is None
        assert f.grad.any()

    @pytest.mark.parametrize("targets", [[], [4], [1, 1, 1], [-1, -1]])
    def test_no_triplet_is_zero_with_a_graph(self, targets):
        f = torch.randn(len(targets), 4, requires_grad=True)
        loss = SoftTripletLoss()(f, f.detach(), torch.tensor(targets, dtype=torch.int64))
        loss.backward()
        assert loss.item() == 0
        assert not f.grad.any()

    def test_equal_rows_have_a_finite_gradient(self):
        f = torch.ones(4, 3, requires_grad=True)
        SoftTripletLoss()(f, f.detach(), torch.tensor([0, 0, 1, 1])).backward()
        assert f.grad.isfinite().all()

    def test_it_is_no_loss_of_one_net(self):
        with pytest.raises(TypeError, match="SoftTripletLoss compares a net with a teacher"):
            SoftTripletLoss().over_processes(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


def test_values_come_from_the_config(cfg_of):
    cfg = cfg_of(
        "MODEL.LOSSES.SOFT_CE.SCALE", 0.4, "MODEL.LOSSES.SOFT_TRI.SCALE", 1.0, "MODEL.LOSSES.SOFT_TRI.NORM_FEAT", True
    )
    cross_entropy, triplet = (LOSSES.get(name)(cfg) for name in ("SoftCrossEntropyLoss", "SoftTripletLoss"))
    assert (cross_entropy.scale, triplet.scale, triplet.norm_feat) == (0.4, 1.0, True)


class TestUncertainty:
    def test_is_the_divergence_of_the_joined_logits(self):
        ours, theirs = ([torch.randn(3, k, dtype=torch.float64) for k in (4, 2)] for _ in range(2))
        p, q = (torch.cat(parts, dim=1).softmax(1) for parts in (theirs, ours))
        expected = [sum(a * math.log(a / b) for a, b in zip(p[i].tolist(), q[i].tolist())) for i in range(3)]
        assert uncertainty(ours, theirs).tolist() == pytest.approx(expected, abs=1e-12)

    @settings(max_examples=30)
    @given(st.lists(st.floats(-30, 30), min_size=4, max_size=4), st.lists(st.floats(-30, 30), min_size=4, max_size=4))
    def test_is_never_negative_and_0_for_equal_nets(self, ours, theirs):
        a, b = torch.tensor([ours], dtype=torch.float64), torch.tensor([theirs], dtype=torch.float64)
        assert uncertainty([a], [b]).item() >= -1e-12
        assert uncertainty([a], [a + 3]).item() == pytest.approx(0, abs=1e-9)  # probabilities, not logits, count

    def test_a_teacher_without_doubt_has_no_nan(self):
        logits = torch.tensor([[0.0, 200.0]], requires_grad=True)
        value = uncertainty([logits], [torch.tensor([[0.0, 5000.0]])])
        value.sum().backward()
        assert value.isfinite().all()
        assert logits.grad.isfinite().all()

    def test_gradcheck_through_the_weights(self):
        """The whole objective: weighted cross entropy and the uncertainty itself."""
        z, t = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)

        def objective(logits: torch.Tensor) -> torch.Tensor:
            u = uncertainty([logits, 2 * logits], [t, t])
            return CrossEntropyLoss()(logits, torch.tensor([0, 2, -1]), reliability(u)) + u.mean()

        assert torch.autograd.gradcheck(objective, z)

    def test_the_teacher_gets_no_gradient(self):
        z, t = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
        uncertainty([z], [t]).sum().backward()
        assert t.grad is None

    def test_weights(self):
        assert reliability(torch.tensor([0.0, math.log(2)])).tolist() == pytest.approx([1.0, 0.5])

    @pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ()])
    def test_shapes_must_agree(self, shapes):
        parts = [[torch.zeros(shape)] for shape in shapes] or [[], []]
        with pytest.raises(ValueError, match="uncertainty: student and teacher logits must have the same shapes"):
            uncertainty(*parts)
