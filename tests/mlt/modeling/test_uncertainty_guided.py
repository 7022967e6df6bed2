"""UNRN: weights act sample by sample, and where they come from."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlt.modeling.meta_arch import UncertaintyGuided
from mlt.structures import Batch

SOURCE_ROWS = 6


@pytest.fixture
def unrn(method_of):
    return lambda *options: method_of("UncertaintyGuided", *options)


def beliefs(out, prototypes: Tensor) -> Tensor:
    """Of target rows: [logits of the shallow head, similarities of the memory's space to source prototypes]."""
    rows = torch.cat([out.auxiliary.logits[0], out.projection @ prototypes.T], dim=1)
    return rows[SOURCE_ROWS:]


def weights_of(model: UncertaintyGuided, batch: Batch) -> tuple[Tensor, list[float]]:
    """What the student gives for all rows, and u of each target row."""
    twin = copy.deepcopy(model)
    images = twin.preprocess(batch["images"])
    out, taught = twin.heads(twin.backbone(images)), twin.teacher(images)
    uncertain = []
    for mine, theirs in zip(beliefs(out, twin.memory.prototypes), beliefs(taught, twin.memory.prototypes), strict=True):
        p, q = theirs.softmax(0).tolist(), mine.softmax(0).tolist()
        uncertain.append(sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))
    return out, uncertain


def smoothed(z: Tensor, y: int) -> float:
    return float(-(0.9 * z.log_softmax(0)[y] + 0.1 * z.log_softmax(0).mean()))


def test_both_depths_pool_with_one_exponent(unrn):
    model = unrn("MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP")
    for heads in (model.heads, model.teacher.heads):
        assert heads.shallow.pool_layer is heads.pool_layer
    pooling = [name for name, _ in model.named_parameters() if "pool_layer" in name]
    assert pooling == ["heads.pool_layer.p", "teacher.heads.pool_layer.p"]


class TestLosses:
    def test_each_row_counts_with_its_own_weight(self, unrn, batch_of, labels):
        model, batch = unrn(), batch_of(SOURCE_ROWS, 6)
        out, uncertain = weights_of(model, batch)
        w = [math.exp(-u) for u in uncertain]
        y = labels[0, batch["indices"][SOURCE_ROWS:]].tolist()
        deep, shallow, features = (
            part[SOURCE_ROWS:].detach() for part in (out.logits[0], out.auxiliary.logits[0], out.features)
        )
        each = {name: [smoothed(z, k) for z, k in zip(rows, y, strict=True)]
                for name, rows in (("loss_cls", deep), ("loss_cls_shallow", shallow))}  # fmt: skip
        expected = {name: sum(a * b for a, b in zip(w, values, strict=True)) / 6 for name, values in each.items()}
        triplets = []
        distance = torch.cdist(features, features)
        for i in range(6):
            p = max((j for j in range(6) if y[j] == y[i]), key=lambda j: float(distance[i, j]))
            n = min((j for j in range(6) if y[j] != y[i]), key=lambda j: float(distance[i, j]))
            gap = float(distance[i, p] - distance[i, n])
            triplets.append((w[i] + w[p] + w[n]) / 3 * math.log1p(math.exp(gap)))
        expected |= {"loss_triplet": sum(triplets) / 6, "loss_uncertainty": sum(uncertain) / 6}
        losses = model(batch)
        assert losses.keys() == {*expected, "loss_prototype", "loss_instance"}
        for name, value in expected.items():
            assert losses[name].item() == pytest.approx(value, rel=1e-3, abs=1e-5), name
        mean = sum(w) / 6  # the released code's cross entropy: weights that act through their mean alone
        assert abs(expected["loss_cls_shallow"] - mean * sum(each["loss_cls_shallow"]) / 6) > 1e-4
        assert max(w) - min(w) > 0.01

    def test_scale_of_the_regulariser(self, unrn, batch_of):
        torch.manual_seed(0)
        one = unrn()(batch_of(4, 4))["loss_uncertainty"]
        torch.manual_seed(0)
        torch.testing.assert_close(
            unrn("MODEL.LOSSES.UNCERTAINTY.SCALE", 0.3)(batch_of(4, 4))["loss_uncertainty"], 0.3 * one
        )

    def test_the_weights_learn_and_the_teacher_does_not(self, unrn, batch_of):
        model = unrn()
        model(batch_of(4, 4))["loss_uncertainty"].backward()
        assert model.heads.shallow.classifiers[0].grad.any()
        assert model.backbone.conv1.weight.grad.any()
        assert all(p.grad is None for p in model.teacher.parameters())
        assert model.heads.classifiers[0].grad is None  # u is of the shallow classes

    def test_every_trainable_parameter_gets_a_gradient(self, unrn, batch_of):
        model = unrn()
        sum(model(batch_of(4, 4)).values()).backward()
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


class TestOneStep:
    def test_weights_are_kept_with_the_queue_and_weigh_pairs(self, unrn, batch_of, labels):
        model = unrn("MEAN_TEACHER.RAMP", False)  # so that the teacher stays apart
        batch = batch_of(SOURCE_ROWS, 6, seed=1)
        _, uncertain = weights_of(model, batch)
        model(batch)
        model.after_step()
        kept = [math.exp(-u) for u in uncertain]
        assert model.memory.queue_weight[:6].tolist() == pytest.approx(kept, rel=1e-3)
        assert model.memory.queue_index[:6].tolist() == batch["indices"][SOURCE_ROWS:].tolist()
        batch = batch_of(SOURCE_ROWS, 6, seed=2)
        out, uncertain = weights_of(model, batch)
        memory, y = copy.deepcopy(model.memory), labels[0]
        loss = model(batch)["loss_instance"]
        rows = (out.projection[SOURCE_ROWS:], y[batch["indices"][SOURCE_ROWS:]], y)
        expected = memory.instance_loss(*rows, torch.tensor([math.exp(-u) for u in uncertain]))
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-5)
        assert not torch.isclose(loss, memory.instance_loss(*rows), rtol=1e-3)

    def test_teacher_and_prototypes(self, unrn, batch_of):
        model, batch = unrn(), batch_of(4, 4)
        out, _ = weights_of(model, batch)
        before = model.memory.prototypes.clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sum(model(batch).values()).backward()
        optimizer.step()
        model.after_step()
        students = [*model.backbone.parameters(), *model.heads.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(model.teacher.parameters(), students, strict=True))  # alpha_0 = 0
        for f, k in zip(F.normalize(out.projection.detach()[:4]), batch["targets"][:4].tolist(), strict=True):
            before[k] = F.normalize(0.2 * before[k] + 0.8 * f, dim=0)
        torch.testing.assert_close(model.memory.prototypes, before)

    def test_classifiers_of_both_depths_start_again(self, unrn):
        model = unrn()
        deep, shallow = model.classifiers
        before = shallow.clone()
        centroids = torch.randn(3, 64)
        model.reset_classifiers((3,), (centroids,))
        torch.testing.assert_close(deep[:3], F.normalize(centroids))
        assert not torch.isclose(shallow[:3], before[:3]).all(1).any()
        assert shallow[:3].std() < 0.002  # centroids are of the other depth
        teacher = model.teacher.heads
        assert torch.equal(teacher.classifiers[0], deep)
        assert torch.equal(teacher.shallow.classifiers[0], shallow)
        assert teacher.num_active == teacher.shallow.num_active == model.heads.shallow.num_active == (3,)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("MODEL.HEADS.WITH_SOURCE", True), r"weighs target rows only: set MODEL\.HEADS\.WITH_SOURCE False"),
        (("MEMORY.NAME", "HybridMemory"), r"got TwoDepthResNet, TwoDepthMixtureHead, 'HybridMemory' and True"),
        (("MEAN_TEACHER.ENABLED", False), r"needs MODEL\.BACKBONE\.NAME TwoDepthResNet.*'MemoryBank' and False"),
        (("MODEL.HEADS.NAME", "MixtureLabelHead"), r"got TwoDepthResNet, MixtureLabelHead"),
    ],
)
def test_bad_config(unrn, options, match):
    with pytest.raises(ValueError, match=match):
        unrn(*options)
