"""One training step and the evaluation of both meta-architectures, against their parts."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F

from mlt.modeling import build_model
from mlt.modeling.layers import DomainBatchNorm, GroupBatchNorm
from mlt.registry import BACKBONES, HEADS, LOSSES, MEMORIES, META_ARCHS

BASELINE = ("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.NAME", "EmbeddingHead", "MODEL.DSBN", False)
PLAIN = ("MODEL.DSBN", False, "DATASETS.NAMES", "()")


@pytest.fixture
def mlt(cfg_of, labels):
    """A Stage II model in training, with labels and prototypes."""

    def build(*options: object):
        model = build_model(cfg_of(*options))
        model.set_pseudo_labels(labels, group=1)
        if model.memory is not None:
            model.memory.set_prototypes(torch.randn_like(model.memory.prototypes))
        return model.train()

    return build


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def unchanged(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


class TestShared:
    @pytest.mark.parametrize("options", [BASELINE, ()])
    def test_evaluation(self, cfg_of, batch_of, options):
        model = build_model(cfg_of(*options)).eval()
        batch = batch_of(0, 5)
        features = model(batch)
        assert features.shape == (5, 64)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
        assert torch.equal(model(batch["images"]), features)
        torch.testing.assert_close(F.normalize(model.embed(batch["images"])), features)

    def test_pixels(self, cfg_of, batch_of):
        model, images = build_model(cfg_of(*BASELINE)), batch_of(2, 0)["images"]
        before = images.clone()
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        expected = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        torch.testing.assert_close(model.preprocess(images), expected)
        torch.testing.assert_close(model.preprocess(images.float()), expected)
        assert torch.equal(images, before)
        assert not any("pixel" in key for key in model.state_dict())

    @pytest.mark.parametrize("shape", [(3, 8, 4), (2, 1, 8, 4), (2, 8, 4, 3)])
    def test_what_are_no_images(self, cfg_of, shape):
        model, images = build_model(cfg_of(*BASELINE)).eval(), torch.zeros(shape, dtype=torch.uint8)
        message = r"images must be a tensor \[B, 3, H, W\], RGB in 0\.\.255, got "
        with pytest.raises(ValueError, match=message + re.escape(str(list(shape)))):
            model(images)
        with pytest.raises(ValueError, match=message + "ndarray"):
            model(images.numpy())

    @pytest.mark.parametrize("options", [BASELINE, ()])
    def test_training_needs_a_batch(self, cfg_of, batch_of, options):
        model = build_model(cfg_of(*options)).train()
        with pytest.raises(TypeError, match=r"call model\.eval\(\) first"):
            model(batch_of(2, 2)["images"])

    def test_rows_in_the_wrong_order(self, mlt, batch_of):
        batch = batch_of(2, 2)
        batch["domains"] = torch.tensor([0, 1, 0, 1])
        with pytest.raises(ValueError, match=r"source rows, then target rows; got domains \[0, 1, 0, 1\]"):
            mlt()(batch)

    @pytest.mark.parametrize("options", [BASELINE, ()])
    def test_bfloat16_autocast(self, cfg_of, batch_of, labels, options):
        model = build_model(cfg_of(*options)).train()
        if not options:
            model.set_pseudo_labels(labels, 0)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                losses = model(batch_of(4, 4))
            assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
            sum(losses.values()).backward()
            model.after_step()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


class TestBaseline:
    def test_losses_are_of_the_source_rows(self, cfg_of, batch_of):
        model = build_model(cfg_of(*BASELINE)).train()
        batch, twin = batch_of(8, 8), copy.deepcopy(model)
        losses = model(batch)
        out = twin.heads(twin.backbone(twin.preprocess(batch["images"][:8])))
        targets = batch["targets"][:8]
        assert losses.keys() == {"loss_cls", "loss_triplet"}
        torch.testing.assert_close(losses["loss_cls"], twin.losses[0](out.logits, targets))
        torch.testing.assert_close(losses["loss_triplet"], twin.losses[1](out.features, targets))

    def test_target_rows_move_the_statistics_after_the_source_rows_and_nothing_else(self, cfg_of, batch_of):
        model = build_model(cfg_of(*BASELINE)).train()
        source_only, by_hand = copy.deepcopy(model), copy.deepcopy(model)
        batch = batch_of(8, 8)
        with_graph: list[bool] = []
        model.backbone.register_forward_hook(lambda *_: with_graph.append(torch.is_grad_enabled()))
        sum(model(batch).values()).backward()
        assert with_graph == [True, False]
        sum(source_only({key: value[:8] for key, value in batch.items()}).values()).backward()
        for a, b in zip(model.parameters(), source_only.parameters(), strict=True):
            assert a.grad is None or torch.equal(a.grad, b.grad)
        for rows in batch["images"].split(8):
            by_hand.heads(by_hand.backbone(by_hand.preprocess(rows)))
        assert torch.equal(model.backbone.bn1.running_mean, by_hand.backbone.bn1.running_mean)
        assert torch.equal(model.heads.bottleneck[0].running_var, by_hand.heads.bottleneck[0].running_var)

    def test_refuses_domain_norms(self, cfg_of):
        with pytest.raises(ValueError, match=r"Baseline.*MODEL\.DSBN.*MixtureLabelTransport"):
            build_model(cfg_of(*BASELINE[:4]))

    def test_groups(self, cfg_of, batch_of):
        model = build_model(cfg_of(*BASELINE, "MODEL.BN_GROUP", 4)).train()
        assert isinstance(model.backbone.bn1, GroupBatchNorm)
        assert isinstance(model.heads.bottleneck[0], GroupBatchNorm)
        model(batch_of(8, 4))


class TestMixtureLabelTransport:
    def test_losses_against_the_parts(self, mlt, batch_of, labels):
        model = mlt()
        model(batch_of(8, 8, seed=1))
        model.after_step()  # something is in the queue now
        twin, batch = copy.deepcopy(model), batch_of(8, 8, seed=2)
        losses = model(batch)
        out = twin.heads(twin.backbone(twin.preprocess(batch["images"])))
        index = batch["indices"][8:]
        y = labels[:, index]
        cross_entropy, triplet = twin.losses
        memory = twin.memory
        expected = {
            "loss_cls": sum(cross_entropy(z[8:], row) for z, row in zip(out.logits, y, strict=True)) / 2,
            "loss_triplet": triplet(out.features[8:], y[1]),
            "loss_prototype": memory.prototype_loss(out.projection[:8], batch["targets"][:8]),
            "loss_instance": memory.instance_loss(out.projection[8:], y[1], labels[1]),
        }
        assert losses.keys() == expected.keys()
        assert losses["loss_instance"] > 0
        for key, value in expected.items():
            torch.testing.assert_close(losses[key], value, msg=key)

    def test_every_trainable_parameter_gets_a_gradient(self, mlt, batch_of):
        """At the first step already, when queue and prototypes are empty: DDP waits for each of them."""
        model = mlt()
        model.memory.has_prototypes.fill_(False)
        sum(model(batch_of(4, 4)).values()).backward()
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]

    def test_forward_writes_nothing_but_statistics(self, mlt, batch_of):
        model = mlt()
        memory = tensors(model.memory)
        parameters = [p.clone() for p in model.parameters()]
        model(batch_of(4, 4, seed=1))
        model(batch_of(4, 4, seed=2))
        assert unchanged(model.memory, memory)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))
        assert int(model.teacher.ema_steps) == 0

    def test_after_step_writes_the_rows_of_its_step_once(self, mlt, batch_of):
        model = mlt()
        model(batch_of(4, 4, seed=1))
        model.before_step()  # the optimizer did not take that step
        batch = batch_of(4, 4, seed=2)
        model(batch)
        prototypes = model.memory.prototypes.clone()
        model.after_step()
        assert model.memory.queue_index[:4].tolist() == batch["indices"][4:].tolist()
        assert int(model.memory.queue_ptr) == 4
        moved = (model.memory.prototypes != prototypes).any(1).nonzero().flatten()
        assert moved.tolist() == batch["targets"][:4].unique().tolist()
        assert int(model.teacher.ema_steps) == 1
        memory = tensors(model.memory)
        model.after_step()
        assert unchanged(model.memory, memory)

    def test_the_teacher_sees_the_batch_only_under_forward(self, mlt, batch_of):
        for rule, moves in (("forward", True), ("ema", False)):
            model = mlt("MEAN_TEACHER.BN_BUFFERS", rule)
            before = model.teacher.backbone.bn1.BN_T.running_mean.clone()
            model(batch_of(4, 4))
            assert torch.equal(model.teacher.backbone.bn1.BN_T.running_mean, before) != moves

    def test_nets_of_the_evaluation(self, mlt, batch_of):
        model = mlt().eval()
        images = batch_of(0, 4)["images"]
        torch.nn.init.normal_(model.teacher.backbone.conv1.weight)
        teacher, student = model(images), model(images, net="student")
        assert not torch.allclose(teacher, student)
        torch.testing.assert_close(teacher, F.normalize(model.teacher(model.preprocess(images)).embeddings))
        assert model.nets == ("student", "teacher")
        alone = mlt("MEAN_TEACHER.ENABLED", False).eval()
        assert alone.nets == ("student",)
        assert torch.equal(alone(images), alone(images, net="student"))
        with pytest.raises(ValueError, match="one of teacher, student, got 'pupil'"):
            model(images, net="pupil")

    def test_stored_embeddings_give_the_logits_of_the_pass(self, mlt, batch_of):
        model = mlt().eval()
        out = model.run(batch_of(0, 4)["images"], "teacher")
        assert all(torch.equal(a, b) for a, b in zip(model.classify(out.embeddings), out.logits, strict=True))

    def test_memory_space(self, mlt, batch_of):
        images = batch_of(0, 4)["images"]
        model = mlt().eval()
        assert torch.equal(model.source_features(images), model.run(images, "student").projection)
        model = mlt("MEMORY.FEATURE", "embedding").eval()
        assert torch.equal(model.source_features(images), model.embed(images, "student"))
        model.train()(batch_of(4, 4))

    def test_without_source_rows(self, mlt, batch_of):
        model = mlt(*PLAIN)
        for seed in (1, 2):
            losses = model(batch_of(0, 8, seed))
            sum(losses.values()).backward()
            model.after_step()
        assert losses["loss_prototype"] == 0
        assert losses["loss_instance"] > 0
        assert not any(isinstance(module, DomainBatchNorm) for module in model.modules())

    def test_without_memory_and_teacher(self, mlt, batch_of):
        model = mlt("MEMORY.NAME", "", "MEAN_TEACHER.ENABLED", False)
        losses = model(batch_of(4, 4))
        sum(losses.values()).backward()
        model.after_step()
        assert losses.keys() == {"loss_cls", "loss_triplet"}
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]

    def test_outliers_give_no_loss(self, mlt, batch_of, labels):
        model = mlt()
        model.set_pseudo_labels(torch.full_like(labels, -1), 0)
        losses = model(batch_of(4, 4))
        assert [losses[key].item() for key in ("loss_cls", "loss_triplet", "loss_instance")] == [0, 0, 0]

    def test_reset_classifiers_reaches_the_teacher(self, mlt):
        model = mlt()
        rows = model.teacher.heads.classifiers[0]
        model.reset_classifiers((3, 4), [torch.randn(3, 64), torch.randn(4, 64)])
        assert model.teacher.heads.classifiers[0] is rows
        assert model.teacher.heads.num_active == (3, 4)
        assert all(map(torch.equal, model.teacher.heads.classifiers, model.heads.classifiers))
        with pytest.raises(ValueError, match="1 clusterings for 2 classifiers"):
            model.reset_classifiers((3,))

    def test_state_dict_round_trip(self, mlt, batch_of):
        model, other = mlt(), mlt()
        model.reset_classifiers((5, 7))
        for seed in range(3):
            model(batch_of(4, 4, seed))
            model.after_step()
        other.load_state_dict(model.state_dict())
        batch = batch_of(4, 4, 9)
        assert {k: v.item() for k, v in model(batch).items()} == {k: v.item() for k, v in other(batch).items()}
        model.after_step()
        other.after_step()
        assert unchanged(other, tensors(model))

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda y: (y[:1], 0), r"int64 \[2, N\]"),
            (lambda y: (y.float(), 0), "float32"),
            (lambda y: (y, 2), "group 2 of 2"),
            (lambda y: (y + 5, 0), r"group 0 has label 9 but its classifier 5 classes; call reset_classifiers"),
        ],
    )
    def test_bad_labels(self, mlt, labels, change, match):
        with pytest.raises(ValueError, match=match):
            mlt().set_pseudo_labels(*change(labels))

    def test_no_labels(self, cfg_of, batch_of):
        with pytest.raises(RuntimeError, match="call set_pseudo_labels"):
            build_model(cfg_of()).train()(batch_of(4, 4))

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            (("DATASETS.NAMES", "()"), r"MODEL\.DSBN needs source images"),
            (("MODEL.HEADS.NAME", "EmbeddingHead"), "MixtureLabelHead, got 'EmbeddingHead'"),
        ],
    )
    def test_bad_config(self, cfg_of, options, match):
        with pytest.raises(ValueError, match=match):
            build_model(cfg_of(*options))


class TestBuild:
    def test_missing_number_of_classes(self, cfg_of):
        with pytest.raises(ValueError, match=r"NUM_CLASSES is 0.*Market1501"):
            build_model(cfg_of("MODEL.HEADS.NUM_CLASSES", 0))

    def test_unknown_names(self, cfg_of):
        with pytest.raises(KeyError, match="Did you mean 'MixtureLabelTransport'"):
            build_model(cfg_of("MODEL.META_ARCHITECTURE", "MixtureLabelTransprt"))
        with pytest.raises(KeyError, match="Known: ResNet"):
            build_model(cfg_of("MODEL.BACKBONE.NAME", "VGG"))

    @pytest.mark.parametrize("options", [BASELINE, ("MEMORY.NAME", "")])
    def test_no_loss_at_all(self, cfg_of, options):
        with pytest.raises(ValueError, match=r"no loss: MODEL\.LOSSES\.NAME is empty; it takes .*TripletLoss"):
            build_model(cfg_of(*options, "MODEL.LOSSES.NAME", ()))

    def test_a_memory_may_be_the_only_loss(self, cfg_of, batch_of, labels):
        model = build_model(cfg_of("MODEL.LOSSES.NAME", ())).train()
        model.set_pseudo_labels(labels, 0)
        assert model(batch_of(4, 4)).keys() == {"loss_prototype", "loss_instance"}

    @pytest.mark.parametrize("options", [BASELINE, ()])
    def test_losses_between_nets_need_two(self, cfg_of, options):
        with pytest.raises(ValueError, match=r"SoftCrossEntropyLoss and SoftTripletLoss compare two nets, .* has one"):
            build_model(cfg_of(*options, "MODEL.LOSSES.NAME", ("SoftCrossEntropyLoss", "SoftTripletLoss")))

    def test_unknown_norm(self, cfg_of):
        with pytest.raises(ValueError, match="one of BN, SyncBN, got 'GN'"):
            build_model(cfg_of("MODEL.BACKBONE.NORM", "GN"))

    def test_no_gpu(self, cfg_of, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(RuntimeError, match=r"no GPU here; add MODEL\.DEVICE cpu"):
            build_model(cfg_of("MODEL.DEVICE", "cuda"))

    def test_every_registered_name_builds(self, cfg_of, method_of):
        cfg = cfg_of()
        # a FastReID in the same process adds its own, of other depths
        ours = [name for name in BACKBONES if BACKBONES.get(name).__module__.startswith("mlt.modeling")]
        assert {"ResNet", "TwoDepthResNet"} <= set(ours)
        assert all(BACKBONES.get(name)(cfg).out_channels == 64 for name in ours)
        deep, shallow = torch.rand(2, 64, 2, 2), torch.rand(2, 32, 2, 2)
        for name in HEADS:
            out = HEADS.get(name)(cfg, 64)((deep, shallow) if name.startswith("TwoDepth") else deep)
            assert out.features.shape == (2, 64)
            assert out.auxiliary is None or out.auxiliary.features.shape == (2, 32)
        assert all(LOSSES.get(name)(cfg).key.startswith("loss_") for name in LOSSES)
        assert not any(list(MEMORIES.get(name)(cfg, 64).parameters()) for name in MEMORIES)
        assert all(type(method_of(name)) is META_ARCHS.get(name) for name in META_ARCHS)
