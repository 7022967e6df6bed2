from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mlt.modeling.heads import EmbeddingHead, MixtureLabelHead


@pytest.fixture
def fmap() -> torch.Tensor:
    return torch.rand(4, 6, 3, 2)


@pytest.fixture
def mixture() -> MixtureLabelHead:
    return MixtureLabelHead(6, (5, 7), dropout=0.5)


class TestEmbeddingHead:
    def test_output(self, fmap):
        out = EmbeddingHead(6, 5)(fmap)
        assert (out.features.shape, out.embeddings.shape, out.logits[0].shape) == ((4, 6), (4, 6), (4, 5))
        assert out.projection is None
        torch.testing.assert_close(out.embeddings.mean(0), torch.zeros(6), atol=1e-5, rtol=0)

    def test_names_are_fast_reids_and_the_neck_bias_is_frozen(self):
        head = EmbeddingHead(6, 5)
        assert {"weight", "pool_layer.p", "bottleneck.0.weight", "bottleneck.0.running_var"} <= head.state_dict().keys()
        frozen = [name for name, parameter in head.named_parameters() if not parameter.requires_grad]
        assert frozen == ["bottleneck.0.bias"]

    def test_linear_and_cosine_logits(self, fmap):
        linear, cosine = EmbeddingHead(6, 5).eval(), EmbeddingHead(6, 5, cls_layer="CosSoftmax", scale=3.0).eval()
        cosine.load_state_dict(linear.state_dict())
        b = linear(fmap).embeddings
        torch.testing.assert_close(linear(fmap).logits[0], b @ linear.weight.t())
        expected = 3 * F.cosine_similarity(b[:, None], linear.weight[None], dim=2)
        torch.testing.assert_close(cosine(fmap).logits[0], expected)

    def test_new_rows_are_small(self):
        assert EmbeddingHead(64, 100).weight.std().item() == pytest.approx(0.001, rel=0.1)

    @pytest.mark.parametrize("cls_layer", ["Linear", "CosSoftmax"])
    def test_gradcheck(self, cls_layer):
        head = EmbeddingHead(3, 4, cls_layer=cls_layer).double()
        torch.nn.init.normal_(head.weight)
        names, values = zip(*((n, p) for n, p in head.named_parameters() if p.requires_grad), strict=True)

        def run(fmap, *weights):
            out = torch.func.functional_call(head, dict(zip(names, weights, strict=True)), fmap)
            return out.features, out.embeddings, out.logits[0]

        fmap = (torch.rand(4, 3, 2, 2, dtype=torch.float64) + 0.1).requires_grad_()
        assert torch.autograd.gradcheck(run, (fmap, *values))

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"num_classes": 0}, "NUM_CLASSES"),
            ({"num_classes": 5, "cls_layer": "ArcSoftmax"}, "one of Linear, CosSoftmax, got 'ArcSoftmax'"),
            ({"num_classes": 5, "scale": 0.0}, "SCALE"),
            ({"num_classes": 5, "dropout": 1.0}, "DROPOUT"),
        ],
    )
    def test_bad_arguments(self, options, match):
        with pytest.raises(ValueError, match=match):
            EmbeddingHead(6, **options)


class TestMixtureLabelHead:
    def test_output(self, mixture, fmap):
        out = mixture(fmap)
        assert [tuple(logits.shape) for logits in out.logits] == [(4, 5), (4, 7)]
        assert out.projection.shape == (4, 6)
        assert MixtureLabelHead(6, (5,), with_projection=False)(fmap).projection is None

    def test_classify_is_what_forward_does(self, mixture, fmap):
        out = mixture.eval()(fmap)
        assert all(torch.equal(a, b) for a, b in zip(mixture.classify(out.embeddings), out.logits, strict=True))
        assert torch.equal(mixture.projection(out.embeddings), out.projection)

    def test_dropout_reaches_logits_and_projection_but_not_the_embedding(self, fmap):
        head = MixtureLabelHead(6, (5,), dropout=0.5)
        head.projection[1].eval()  # its batch statistics would mix the rows
        first, second = head(fmap), head(fmap)
        assert torch.equal(first.embeddings, second.embeddings)
        assert not torch.equal(first.logits[0], second.logits[0])
        assert not torch.equal(first.projection, second.projection)

    def test_reset_cuts_the_logits_and_keeps_the_parameter(self, mixture, fmap):
        before = mixture.classifiers[1]
        mixture.reset_classifier(1, 3)
        assert mixture.classifiers[1] is before
        assert mixture.num_active == (5, 3)
        assert mixture.active.tolist() == [5, 3]
        assert mixture(fmap).logits[1].shape == (4, 3)

    def test_reset_is_seeded_and_small(self, mixture):
        rows = []
        for _ in range(2):
            mixture.reset_classifier(0, 4, generator=torch.Generator().manual_seed(7))
            rows.append(mixture.classifiers[0][:4].clone())
        assert torch.equal(*rows)
        assert 0 < rows[0].abs().max() < 0.01

    def test_reset_to_centroids(self, mixture):
        centroids = torch.randn(4, 6) * 10
        mixture.reset_classifier(0, 4, centroids)
        torch.testing.assert_close(mixture.classifiers[0][:4].detach(), F.normalize(centroids))

    def test_rows_that_are_cut_off_get_zero_gradient(self, mixture, fmap):
        mixture.reset_classifier(1, 3)
        sum(logits.sum() for logits in mixture(fmap).logits).backward()
        assert mixture.classifiers[1].grad[:3].any()
        assert not mixture.classifiers[1].grad[3:].any()

    def test_active_survives_the_state_dict(self, mixture):
        mixture.reset_classifier(1, 3)
        other = MixtureLabelHead(6, (5, 7))
        other.load_state_dict(mixture.state_dict())
        assert other.num_active == (5, 3)

    def test_active_of_a_larger_checkpoint_is_cut_to_the_capacity(self, mixture):
        small = MixtureLabelHead(6, (4, 7))
        small.load_state_dict({"active": mixture.active}, strict=False)
        assert small.num_active == (4, 7)

    def test_reset_projection(self, mixture, fmap):
        mixture(fmap)
        mixture.reset_projection(torch.Generator().manual_seed(1))
        linear, norm = mixture.projection
        assert not linear.bias.any()
        assert not norm.running_mean.any()
        expected = torch.randn(6, 6, generator=torch.Generator().manual_seed(1)) * (2 / 6) ** 0.5
        torch.testing.assert_close(linear.weight.detach(), expected)

    def test_gradcheck(self):
        head = MixtureLabelHead(3, (4, 2)).double()
        head.reset_classifier(0, 3, torch.randn(3, 3))
        names, values = zip(*((n, p) for n, p in head.named_parameters() if p.requires_grad), strict=True)

        def run(fmap, *weights):
            out = torch.func.functional_call(head, dict(zip(names, weights, strict=True)), fmap)
            return out.features, out.embeddings, *out.logits, out.projection

        fmap = (torch.rand(5, 3, 2, 2, dtype=torch.float64) + 0.1).requires_grad_()
        assert torch.autograd.gradcheck(run, (fmap, *values))

    @pytest.mark.parametrize("num", [0, 8])
    def test_more_clusters_than_rows(self, mixture, num):
        with pytest.raises(ValueError, match=rf"7 rows and cannot hold {num} clusters.*MODEL\.HEADS\.MAX_CLUSTERS"):
            mixture.reset_classifier(1, num)

    def test_centroids_of_another_shape(self, mixture):
        with pytest.raises(ValueError, match=r"centroids must be \[4, 6\], got \[4, 5\]"):
            mixture.reset_classifier(0, 4, torch.zeros(4, 5))

    def test_no_classifier(self):
        with pytest.raises(ValueError, match="at least one classifier"):
            MixtureLabelHead(6, ())

    def test_capacity_from_the_config(self, cfg_of):
        assert MixtureLabelHead(cfg_of(), 6).num_active == (5, 7)
        assert MixtureLabelHead(cfg_of("MODEL.HEADS.MAX_CLUSTERS", 9), 6).num_active == (9, 9)
        assert MixtureLabelHead(cfg_of("MEMORY.FEATURE", "embedding"), 6).projection is None
        assert MixtureLabelHead(cfg_of("MEMORY.NAME", ""), 6).projection is None
        with pytest.raises(ValueError, match=r"\(5, 7\) does not fit into MODEL\.HEADS\.MAX_CLUSTERS 6"):
            MixtureLabelHead(cfg_of("MODEL.HEADS.MAX_CLUSTERS", 6), 6)
