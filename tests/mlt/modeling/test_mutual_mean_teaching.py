"""MMT: which net sees which view and learns from whom."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlt.modeling import build_model
from mlt.modeling.heads import HeadOutput
from mlt.modeling.meta_arch import MutualMeanTeaching
from mlt.structures import Batch

NUM_SOURCE, NUM_CLUSTERS = 6, 5  # of conftest.py
PLUS = ("MODEL.HEADS.WITH_SOURCE", True, "DATASETS.NAMES", ("Market1501",), "PSEUDO_LABELS.WITH_SOURCE", True)


def outputs(model: MutualMeanTeaching, batch: Batch) -> dict[str, HeadOutput]:
    """Of all four nets, in training mode; teachers without a graph. "A" and "B" are students."""
    first, second = (model.preprocess(batch[key]) for key in ("images", "views"))
    return {
        "A": model.heads(model.backbone(first)),
        "A'": model.teacher(first),
        "B": model.peer.heads(model.peer.backbone(second)),
        "B'": model.peer.teacher(second),
    }


def by_hand(out: dict[str, HeadOutput], labels: Tensor) -> dict[str, Tensor]:
    """The four sums over (student, other one's teacher) with lambda_id .5 and lambda_tri .8."""
    total: dict[str, Any] = dict.fromkeys(("loss_cls", "loss_triplet", "loss_soft_cls", "loss_soft_triplet"), 0.0)
    for student, teacher in (("A", "B'"), ("B", "A'")):
        z, zt = out[student].logits[0], out[teacher].logits[0]
        f, ft = out[student].features, out[teacher].features
        total["loss_cls"] += 0.5 * F.cross_entropy(z, labels, label_smoothing=0.1)
        total["loss_soft_cls"] += 0.5 * -(zt.softmax(1) * z.log_softmax(1)).sum(1).mean()
        same = labels[:, None] == labels[None]
        distance, theirs = torch.cdist(f, f), torch.cdist(ft, ft)
        positive = distance.masked_fill(~same, -1).argmax(1, keepdim=True)
        negative = distance.masked_fill(same, 1e9).argmin(1, keepdim=True)
        gap, their_gap = (d.gather(1, positive) - d.gather(1, negative) for d in (distance, theirs))
        sure, guess = torch.sigmoid(-their_gap), torch.sigmoid(-gap)
        total["loss_triplet"] += 0.2 * -guess.log().mean()
        total["loss_soft_triplet"] += 0.8 * -(sure * guess.log() + (1 - sure) * (1 - guess).log()).mean()
    return total


@pytest.fixture
def mmt(method_of):
    return lambda *options: method_of("MutualMeanTeaching", *options)


def gradients(model: MutualMeanTeaching, batch: Batch, key: str) -> tuple[Tensor, Tensor]:
    """Of one loss in the first layer of each student."""
    return torch.autograd.grad(model(batch)[key], [model.backbone.conv1.weight, model.peer.backbone.conv1.weight])


def disturb(net: nn.Module) -> None:
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1 + 0.5 * torch.rand_like(weight))


class TestLosses:
    def test_by_hand(self, mmt, batch_of, labels):
        model, batch = mmt(), batch_of(0, 8)
        expected = by_hand(outputs(copy.deepcopy(model), batch), labels[0, batch["indices"]])
        losses = model(batch)
        assert losses.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(losses[key], value, msg=key, rtol=1e-4, atol=1e-5)

    def test_plus_learns_from_both_domains(self, mmt, batch_of, labels):
        model, batch = mmt(*PLUS), batch_of(8, 8)
        joint = torch.cat([batch["targets"][:8], labels[0, batch["indices"][8:]] + NUM_SOURCE])
        expected = by_hand(outputs(copy.deepcopy(model), batch), joint)
        for key, value in model(batch).items():
            torch.testing.assert_close(value, expected[key], msg=key, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("key", ["loss_soft_cls", "loss_soft_triplet"])
    def test_a_student_learns_from_the_other_ones_teacher(self, mmt, batch_of, key):
        """Another teacher B' changes what A learns, and A alone; and the other way round."""
        batch = batch_of(0, 8)
        start = mmt()
        before = gradients(copy.deepcopy(start), batch, key)
        for disturbed, pupil in (("peer", 0), ("self", 1)):
            model = copy.deepcopy(start)
            disturb(model.peer.teacher if disturbed == "peer" else model.teacher)
            after = gradients(model, batch, key)
            assert not torch.allclose(after[pupil], before[pupil], rtol=1e-3)
            assert torch.equal(after[1 - pupil], before[1 - pupil])

    def test_hard_losses_need_no_teacher(self, mmt, batch_of):
        batch, model = batch_of(0, 8), mmt()
        before = gradients(copy.deepcopy(model), batch, "loss_cls")
        disturb(model.teacher)
        disturb(model.peer.teacher)
        assert all(map(torch.equal, gradients(model, batch, "loss_cls"), before))

    def test_each_pair_sees_its_view(self, mmt, batch_of):
        model, batch = mmt(), batch_of(0, 8)
        seen: dict[str, list[Tensor]] = {}
        nets = {"A": model, "A'": model.teacher, "B": model.peer, "B'": model.peer.teacher}
        for name, net in nets.items():
            net.backbone.register_forward_hook(lambda _, given, __, n=name: seen.setdefault(n, []).append(given[0]))
        model(batch)
        assert {name: len(given) for name, given in seen.items()} == dict.fromkeys(nets, 1)
        for name, key in (("A", "images"), ("A'", "images"), ("B", "views"), ("B'", "views")):
            assert torch.equal(seen[name][0], model.preprocess(batch[key]))

    def test_every_student_weight_learns_and_no_teacher_does(self, mmt, batch_of):
        model = mmt()
        sum(model(batch_of(0, 8)).values()).backward()
        learning = {name for name, p in model.named_parameters() if p.grad is not None}
        assert learning == {name for name, p in model.named_parameters() if p.requires_grad}
        assert not any("teacher" in name for name in learning)
        assert any(name.startswith("peer.") for name in learning)


class TestOneStep:
    def test_each_teacher_follows_its_own_student(self, mmt, batch_of):
        model = mmt()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for alpha in (0.0, 0.5):
            before = [[p.clone() for p in net.teacher.parameters()] for net in model.branches]
            optimizer.zero_grad()
            sum(model(batch_of(0, 8)).values()).backward()
            optimizer.step()
            model.after_step()
            for net, old in zip(model.branches, before, strict=True):
                student = [*net.backbone.parameters(), *net.heads.parameters()]
                for mine, theirs, now in zip(old, student, net.teacher.parameters(), strict=True):
                    torch.testing.assert_close(now, alpha * mine + (1 - alpha) * theirs.detach())

    def test_classifiers_of_all_four_nets_start_from_one_set_of_centroids(self, mmt):
        model, centroids = mmt(), torch.randn(4, 64)
        places = [id(weight) for weight in model.classifiers]
        model.reset_classifiers((4,), (centroids,))
        for net in model.branches:
            for heads in (net.heads, net.teacher.heads):
                assert heads.num_active == (4,)
                torch.testing.assert_close(heads.classifiers[0][:4], F.normalize(centroids))
        assert [id(weight) for weight in model.classifiers] == places
        assert len(places) == 2

    def test_forget_run_restarts_both_ramps(self, mmt, batch_of):
        model = mmt()
        for _ in range(2):
            model(batch_of(0, 4))
            model.after_step()
        model.forget_run()
        assert [int(net.teacher.ema_steps) for net in model.branches] == [0, 0]


class TestEvaluation:
    def test_what_is_clustered_is_the_mean_of_both_teachers(self, mmt, batch_of):
        model, images = mmt().eval(), batch_of(0, 6)["images"]
        pixels = model.preprocess(images)
        first, second = (F.normalize(net.teacher(pixels).embeddings) for net in model.branches)
        found = model.label_features(images)
        torch.testing.assert_close(found, (first + second) / 2)
        assert (found.norm(dim=1) < 0.999).all()  # not brought to unit norm again

    def test_names_of_the_nets(self, mmt, batch_of):
        model, images = mmt().eval(), batch_of(0, 6)["images"]
        pixels = model.preprocess(images)
        peer = model.peer
        expected = {
            "student": model.heads(model.backbone(pixels)),
            "student 2": peer.heads(peer.backbone(pixels)),
            "teacher 2": peer.teacher(pixels),
            "teacher": model.teacher(pixels),
        }
        assert model.nets == tuple(expected)
        for name, out in expected.items():
            torch.testing.assert_close(model(images, net=name), F.normalize(out.embeddings))
        assert torch.equal(model(images), model(images, net="teacher"))
        with pytest.raises(ValueError, match="got 'pupil'"):
            model(images, net="pupil 2")

    def test_the_students_begin_apart(self, mmt):
        model = mmt()
        assert not torch.equal(model.backbone.conv1.weight, model.peer.backbone.conv1.weight)


@pytest.mark.parametrize("options", [("MEAN_TEACHER.ENABLED", False), ("MEMORY.NAME", "MemoryBank")])
def test_bad_config(mmt, options):
    with pytest.raises(ValueError, match=r"needs MEAN_TEACHER\.ENABLED True and takes no memory"):
        mmt(*options)


def test_numbers_of_starts_and_views(cfg_of):
    """What the trainer asks of the class."""
    assert (MutualMeanTeaching.num_starts, MutualMeanTeaching.num_views) == (2, 2)
    model = build_model(cfg_of())
    assert (model.num_starts, model.num_views) == (1, 1)
