from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlt.modeling.losses import (
    CircleLoss,
    CrossEntropyLoss,
    TripletLoss,
    build_losses,
    euclidean_distance,
    mine_hardest,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "losses.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    """Outputs of MMT's code."""
    with np.load(GOLDEN) as file:
        return {key: torch.from_numpy(file[key]) if file[key].shape else file[key].item() for key in file.files}


class TestGolden:
    def test_smoothed_cross_entropy(self, golden):
        loss = CrossEntropyLoss(0.1)(golden["logits"], golden["class_labels"])
        assert loss.item() == pytest.approx(golden["label_smooth_ce_eps0.1"], rel=1e-5)

    @pytest.mark.parametrize(
        ("key", "options"),
        [
            ("softmax_triplet_margin0", {}),
            ("softmax_triplet_margin0_normalized", {"norm_feat": True}),
            ("triplet_margin0.3", {"margin": 0.3}),
        ],
    )
    def test_triplet(self, golden, key, options):
        loss = TripletLoss(**options)(golden["features"], golden["labels"])
        assert loss.item() == pytest.approx(golden[key], rel=1e-5)


def naive_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, epsilon: float) -> float:
    terms = []
    for z, y in zip(logits.tolist(), targets.tolist(), strict=True):
        if y == -1:
            continue
        log_sum = math.log(sum(math.exp(v) for v in z))
        q = [epsilon / len(z) + (1 - epsilon) * (k == y) for k in range(len(z))]
        terms.append(-sum(q_k * (z_k - log_sum) for q_k, z_k in zip(q, z, strict=True)))
    return sum(terms) / len(terms) if terms else 0.0


class TestCrossEntropy:
    @given(epsilon=st.sampled_from([0.0, 0.1, 0.7]), targets=st.lists(st.integers(-1, 3), min_size=1, max_size=6))
    @settings(max_examples=30, deadline=None)
    def test_is_the_formula(self, epsilon, targets):
        logits = torch.randn(len(targets), 4, dtype=torch.float64) * 3
        loss = CrossEntropyLoss(epsilon)(logits, torch.tensor(targets))
        assert loss.item() == pytest.approx(naive_cross_entropy(logits, torch.tensor(targets), epsilon), abs=1e-9)

    def test_mixture_is_the_mean_over_classifiers(self):
        logits = [torch.randn(4, 3), torch.randn(4, 5)]
        targets = torch.tensor([[0, 1, 2, -1], [4, 3, 2, 1]])
        single = [naive_cross_entropy(z, y, 0.1) for z, y in zip(logits, targets, strict=True)]
        assert CrossEntropyLoss(0.1, scale=2.0)(logits, targets).item() == pytest.approx(sum(single), rel=1e-5)

    def test_weights_are_of_each_row(self):
        logits, weights = torch.randn(3, 4), torch.tensor([0.5, 0.2, 1.0])
        targets = torch.tensor([0, 3, -1])
        single = [naive_cross_entropy(z[None], y[None], 0.1) for z, y in zip(logits[:2], targets[:2], strict=True)]
        expected = (0.5 * single[0] + 0.2 * single[1]) / 2
        assert CrossEntropyLoss(0.1)(logits, targets, weights).item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("targets", [[], [-1, -1]])
    def test_nothing_to_learn_is_zero_with_a_graph(self, targets):
        logits = torch.randn(len(targets), 3, requires_grad=True)
        loss = CrossEntropyLoss()(logits, torch.tensor(targets, dtype=torch.int64))
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()

    def test_gradcheck(self):
        logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
        targets = torch.tensor([0, -1, 3])
        assert torch.autograd.gradcheck(lambda z: CrossEntropyLoss(0.1)([z, z * 2], torch.stack([targets] * 2)), logits)
        weights = torch.rand(3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda z, w: CrossEntropyLoss(0.1)(z, targets, w), (logits, weights))

    def test_float32_inside_autocast(self):
        logits = torch.randn(4, 3, dtype=torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            assert CrossEntropyLoss()(logits, torch.tensor([0, 1, 2, 0])).dtype == torch.float32

    def test_wrong_number_of_label_rows(self):
        with pytest.raises(ValueError, match="2 classifiers but labels for 1"):
            CrossEntropyLoss()([torch.zeros(2, 3)] * 2, torch.zeros(2, dtype=torch.int64))

    def test_bad_epsilon(self):
        with pytest.raises(ValueError, match=r"CE\.EPSILON"):
            CrossEntropyLoss(1.0)


def naive_triplet(features, targets, pool, pool_targets, margin: float, weights=None, pool_weights=None) -> float:
    weights = [1.0] * len(features) if weights is None else weights.tolist()
    pool_weights = [1.0] * len(pool) if pool_weights is None else pool_weights.tolist()
    total = 0.0
    for f, y, w in zip(features, targets.tolist(), weights, strict=True):
        d = [math.sqrt(max(float((f - g).square().sum()), 1e-12)) for g in pool]
        rows = list(zip(d, pool_targets.tolist(), pool_weights, strict=True))
        positives = [(d, v) for d, t, v in rows if t == y != -1]
        negatives = [(d, v) for d, t, v in rows if t not in (y, -1)]
        if positives and negatives:
            (dp, wp), (dn, wn) = max(positives), min(negatives)
            loss = max(dp - dn + margin, 0.0) if margin else math.log1p(math.exp(dp - dn))
            total += loss * (w + wp + wn) / 3
    return total / len(features)


class TestTriplet:
    @given(
        targets=st.lists(st.integers(-1, 2), min_size=1, max_size=6),
        pool_targets=st.lists(st.integers(-1, 2), min_size=1, max_size=8),
        margin=st.sampled_from([0.0, 0.3]),
    )
    @settings(max_examples=50, deadline=None)
    def test_is_the_definition(self, targets, pool_targets, margin):
        y, pool_y = torch.tensor(targets), torch.tensor(pool_targets)
        f, pool = torch.randn(len(y), 5, dtype=torch.float64), torch.randn(len(pool_y), 5, dtype=torch.float64)
        loss = TripletLoss(margin)(f, y, pool, pool_y)
        assert loss.item() == pytest.approx(naive_triplet(f, y, pool, pool_y, margin), abs=1e-9)

    @pytest.mark.parametrize("margin", [0.0, 0.3])
    def test_weights_are_the_mean_over_the_triplet(self, margin):
        y, pool_y = torch.tensor([0, 1, -1, 0]), torch.tensor([0, 1, 0, 1, 2, -1])
        f, pool = torch.randn(4, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
        w, pool_w = torch.rand(4, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
        loss = TripletLoss(margin)(f, y, pool, pool_y, w, pool_w)
        assert loss.item() == pytest.approx(naive_triplet(f, y, pool, pool_y, margin, w, pool_w), abs=1e-9)

    def test_weights_without_a_pool_are_those_of_the_anchors(self):
        f, y, w = torch.randn(4, 5), torch.tensor([0, 0, 1, 1]), torch.rand(4)
        loss = TripletLoss()
        assert loss(f, y, weights=w) == loss(f, y, f, y, w, w) == loss.over_processes(f, y, w)
        torch.testing.assert_close(loss(f, y, weights=0.25 * torch.ones(4)), 0.25 * loss(f, y))

    def test_a_small_weight_does_not_pull_negatives_near(self):
        """Whatever the weights, the loss falls with dp and rises with 1 / dn."""
        f = torch.tensor([[0.0], [1.0], [3.0]], requires_grad=True)
        TripletLoss()(f, torch.tensor([0, 0, 1]), weights=torch.tensor([0.1, 0.1, 0.1])).backward()
        assert f.grad[2] < 0  # a step moves the negative away

    def test_nan_is_not_hidden(self):
        f = torch.randn(4, 5)
        f[1, 0] = torch.nan
        assert TripletLoss()(f, torch.tensor([0, 0, 1, 1])).isnan()
        for row in ([math.nan, 1.0], [1.0, math.nan]):
            assert mine_hardest(torch.tensor([row]), torch.tensor([0]), torch.tensor([0, 1])).exists.all()

    def test_mining(self):
        distance = torch.tensor([[0.0, 2.0, 1.0, 5.0, 0.5], [3.0, 0.0, 4.0, 1.0, 0.5]])
        pairs = mine_hardest(distance, torch.tensor([7, 9]), torch.tensor([7, 7, 8, 8, -1]))
        assert pairs.exists.tolist() == [True, False]
        assert (pairs.positive[0], pairs.negative[0]) == (1, 2)
        assert pairs.gap(distance).tolist() == [1.0, -math.inf]

    @pytest.mark.parametrize("margin", [0.0, 0.3])
    def test_gradcheck_with_weights(self, margin):
        f = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
        w = torch.rand(6, dtype=torch.float64, requires_grad=True)
        y = torch.tensor([0, 0, 1, 1, 2, -1])
        assert torch.autograd.gradcheck(lambda a, b: TripletLoss(margin)(a, y, weights=b), (f, w))

    @pytest.mark.parametrize("margin", [0.0, 0.3])
    @pytest.mark.parametrize("norm_feat", [False, True])
    def test_gradcheck(self, margin, norm_feat):
        f = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
        pool = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
        y, pool_y = torch.tensor([0, 0, 1, 1, 2, -1]), torch.tensor([0, 1, 2, 0, 1, -1, 3])
        loss = TripletLoss(margin, norm_feat)
        assert torch.autograd.gradcheck(lambda a, b: loss(a, y, b, pool_y), (f, pool))

    @pytest.mark.parametrize("margin", [0.0, 0.3])
    @pytest.mark.parametrize("targets", [[], [4], [1, 1, 1], [-1, -1]])
    def test_no_triplet_is_zero_with_a_graph(self, margin, targets):
        f = torch.randn(len(targets), 4, requires_grad=True)
        loss = TripletLoss(margin)(f, torch.tensor(targets, dtype=torch.int64))
        loss.backward()
        assert loss.item() == 0
        assert not f.grad.any()

    def test_equal_rows_have_a_finite_gradient(self):
        f = torch.ones(4, 3, requires_grad=True)
        TripletLoss()(f, torch.tensor([0, 0, 1, 1])).backward()
        assert f.grad.isfinite().all()

    def test_distance(self):
        a, b = torch.randn(4, 6), torch.randn(5, 6)
        torch.testing.assert_close(euclidean_distance(a, b), torch.cdist(a, b))

    def test_bad_margin(self):
        with pytest.raises(ValueError, match=r"TRI\.MARGIN"):
            TripletLoss(-0.1)


def naive_circle(similarity, positives, negatives, margin: float, gamma: float) -> float:
    total = 0.0
    for s, p, n in zip(similarity.tolist(), positives.tolist(), negatives.tolist(), strict=True):
        pull = sum(
            math.exp(-gamma * max(1 + margin - v, 0) * (v - 1 + margin)) for v, on in zip(s, p, strict=True) if on
        )
        push = sum(math.exp(gamma * max(v + margin, 0) * (v - margin)) for v, on in zip(s, n, strict=True) if on)
        total += math.log1p(pull * push)
    return total / len(similarity)


class TestCircle:
    def test_is_the_formula(self):
        similarity = torch.rand(5, 8, dtype=torch.float64) * 2 - 1
        positives = torch.rand(5, 8) < 0.4
        negatives = ~positives & (torch.rand(5, 8) < 0.7)
        loss = CircleLoss(0.25, 8.0, divisor=18.0)(similarity, positives, negatives)
        assert loss.item() == pytest.approx(naive_circle(similarity, positives, negatives, 0.25, 8.0) / 18, rel=1e-9)

    def test_gradient_passes_through_the_similarity_but_not_the_weights(self):
        s = torch.tensor([[0.9, 0.1]], dtype=torch.float64, requires_grad=True)
        positives = torch.tensor([[True, False]])
        margin, gamma = 0.25, 4.0
        CircleLoss(margin, gamma)(s, positives, ~positives).backward()
        alpha_p, alpha_n = 1 + margin - 0.9, 0.1 + margin
        slope = torch.sigmoid(torch.tensor(-gamma * alpha_p * (0.9 - 1 + margin) + gamma * alpha_n * (0.1 - margin)))
        expected = torch.tensor([[-gamma * alpha_p, gamma * alpha_n]], dtype=torch.float64) * slope
        torch.testing.assert_close(s.grad, expected, rtol=1e-6, atol=1e-9)

    def test_gradcheck_with_the_weights_held(self):
        """Numerical differences of the loss whose weights stay those of one place, and the same gradient there."""
        similarity = (torch.rand(4, 7, dtype=torch.float64) * 2 - 1).requires_grad_()
        positives = torch.rand(4, 7) < 0.4
        margin, gamma = 0.25, 8.0
        pull_weight = (1 + margin - similarity.detach()).relu()
        push_weight = (similarity.detach() + margin).relu()

        def held(s: torch.Tensor) -> torch.Tensor:
            pull = (-gamma * pull_weight * (s - 1 + margin)).exp() * positives
            push = (gamma * push_weight * (s - margin)).exp() * ~positives
            return (pull.sum(1) * push.sum(1)).log1p().mean()

        assert torch.autograd.gradcheck(held, similarity)
        expected, found = (
            torch.autograd.grad(loss, similarity)[0]
            for loss in (held(similarity), CircleLoss(margin, gamma)(similarity, positives, ~positives))
        )
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("lacks", ["positives", "negatives", "both"])
    def test_an_anchor_that_lacks_a_set_contributes_nothing(self, lacks):
        s = (torch.rand(2, 3) * 2 - 1).requires_grad_()
        positives = torch.tensor([[lacks == "negatives"] * 3] * 2)
        negatives = torch.tensor([[lacks == "positives"] * 3] * 2)
        loss = CircleLoss()(s, positives, negatives)
        loss.backward()
        assert loss.item() == 0
        assert not s.grad.any()

    def test_empty_bank(self):
        s = torch.zeros(3, 0, requires_grad=True)
        mask = torch.zeros(3, 0, dtype=torch.bool)
        assert CircleLoss()(s, mask, mask).item() == 0

    @pytest.mark.parametrize(("options", "match"), [({"margin": 1.0}, "margin"), ({"gamma": 0.0}, "gamma")])
    def test_bad_arguments(self, options, match):
        with pytest.raises(ValueError, match=match):
            CircleLoss(**options)


class TestBuild:
    def test_values_come_from_the_config(self, cfg_of):
        cross_entropy, triplet = build_losses(cfg_of("MODEL.LOSSES.CE.EPSILON", 0.2, "MODEL.LOSSES.TRI.MARGIN", 0.3))
        assert (cross_entropy.epsilon, triplet.margin) == (0.2, 0.3)

    def test_names_must_be_different(self, cfg_of):
        with pytest.raises(ValueError, match=r"MODEL\.LOSSES\.NAME must be different names"):
            build_losses(cfg_of("MODEL.LOSSES.NAME", "('TripletLoss', 'TripletLoss')"))

    def test_unknown_name(self, cfg_of):
        with pytest.raises(KeyError, match="Did you mean 'TripletLoss'"):
            build_losses(cfg_of("MODEL.LOSSES.NAME", "('TripletLos',)"))
