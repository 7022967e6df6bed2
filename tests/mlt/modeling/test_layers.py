from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mlt.modeling.layers import (
    IBN,
    DomainBatchNorm,
    GeneralizedMeanPoolingP,
    GlobalAvgPool,
    GroupBatchNorm,
    NonLocal,
    batch_norm,
    build_pool_layer,
    convert_batch_norm,
    full_precision,
)


def used_norm(cls: type = nn.BatchNorm2d, channels: int = 3) -> nn.Module:
    """A batch norm that has left its initial values."""
    norm = cls(channels)
    for value in norm.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 2)
    return norm


class TestPooling:
    def test_gem_is_the_formula(self):
        pool, fmap = GeneralizedMeanPoolingP(), torch.randn(2, 3, 4, 2)
        expected = [[(c.clamp(min=1e-6) ** 3).mean() ** (1 / 3) for c in image] for image in fmap]
        torch.testing.assert_close(pool(fmap), torch.tensor(expected))

    def test_gem_gradcheck(self):
        pool = GeneralizedMeanPoolingP().double()
        fmap = (torch.rand(2, 3, 2, 2, dtype=torch.float64) + 0.1).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, p: torch.func.functional_call(pool, {"p": p}, x), (fmap, pool.p))

    def test_gem_of_dead_channels_has_a_finite_gradient(self):
        pool, fmap = GeneralizedMeanPoolingP(), torch.zeros(1, 2, 2, 2, requires_grad=True)
        pool(fmap).sum().backward()
        assert pool.p.grad.isfinite().all()
        assert fmap.grad.isfinite().all()

    def test_average(self):
        fmap = torch.randn(2, 3, 4, 2)
        torch.testing.assert_close(GlobalAvgPool()(fmap), fmap.mean((2, 3)))

    @pytest.mark.parametrize("name", ["GeneralizedMeanPoolingP", "GlobalAvgPool"])
    def test_half_precision_maps_are_pooled_in_float32(self, name):
        with torch.autocast("cpu", torch.bfloat16):
            assert build_pool_layer(name)(torch.ones(1, 2, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32

    def test_unknown_name(self):
        with pytest.raises(KeyError, match="Did you mean 'GlobalAvgPool'"):
            build_pool_layer("GlobalAvgPooling")


def test_full_precision_reaches_lists_and_keywords():
    @full_precision
    def add(rows: list[torch.Tensor], *, extra: torch.Tensor) -> torch.Tensor:
        return rows[0] @ rows[1] + extra

    half = torch.ones(2, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert add([half, half], extra=half).dtype == torch.float32
    assert add([half.double(), half.double()], extra=half).dtype == torch.float64


class TestDomainBatchNorm:
    def test_halves_in_training(self):
        norm = DomainBatchNorm(used_norm())
        source, target = copy.deepcopy(norm.BN_S), copy.deepcopy(norm.BN_T)
        x = torch.randn(6, 3, 2, 2)
        out = norm(x)
        assert torch.equal(out, torch.cat([source(x[:3]), target(x[3:])]))
        assert torch.equal(norm.BN_S.running_mean, source.running_mean)
        assert torch.equal(norm.BN_T.running_mean, target.running_mean)

    def test_target_in_evaluation(self):
        norm = DomainBatchNorm(used_norm()).eval()
        norm.BN_S.running_mean.fill_(100)
        x = torch.randn(3, 3, 2, 2)  # odd is fine here
        assert torch.equal(norm(x), norm.BN_T(x))

    @pytest.mark.parametrize("training", [True, False])
    def test_starts_in_the_mode_of_the_norm(self, training):
        assert DomainBatchNorm(used_norm().train(training)).training is training

    def test_odd_batch(self):
        with pytest.raises(ValueError, match=r"got 5 rows.*MODEL\.DSBN False"):
            DomainBatchNorm(nn.BatchNorm1d(3))(torch.randn(5, 3))


class TestGroupBatchNorm:
    @pytest.mark.parametrize("shape", [(3,), (3, 4, 2)])
    @pytest.mark.parametrize("momentum", [0.1, 0.7, None])
    def test_is_a_loop_over_groups(self, shape, momentum):
        """Values, gradients and running statistics against plain batch norms, one for each group."""
        plain = used_norm(nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d)
        plain.momentum = momentum
        plain.num_batches_tracked.zero_()
        norm = convert_batch_norm(copy.deepcopy(plain), group_size=4)
        loops = [copy.deepcopy(plain) for _ in range(3)]
        x = torch.randn(12, *shape, requires_grad=True)
        y = x.detach().clone().requires_grad_()
        out, expected = norm(x), torch.cat([loop(part) for loop, part in zip(loops, y.split(4), strict=True)])
        weight = torch.randn_like(out)
        (out * weight).sum().backward()
        (expected * weight).sum().backward()
        assert torch.equal(out, expected)
        torch.testing.assert_close(x.grad, y.grad)
        torch.testing.assert_close(norm.weight.grad, sum(loop.weight.grad for loop in loops))
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(
                getattr(norm, name), torch.stack([getattr(loop, name) for loop in loops]).mean(0)
            )

    @pytest.mark.parametrize("shape", [(3,), (3, 4, 2)])
    def test_one_call_for_all_groups_gives_the_same(self, shape, monkeypatch):
        """As on CUDA: of two domains with two groups each, against a call for each group."""
        alone = convert_batch_norm(used_norm(), dsbn=True, group_size=3)
        alone.BN_T.bias.requires_grad_(False)
        together, x = copy.deepcopy(alone), torch.randn(12, *shape)
        weight, found = torch.randn_like(x), []
        for norm in (alone, together):
            rows = x.clone().requires_grad_()
            out = norm(rows)
            (out * weight).sum().backward()
            found.append([out, rows.grad, *(p.grad for p in norm.parameters()), *norm.buffers()])
            monkeypatch.setattr(batch_norm, "_one_by_one", batch_norm._side_by_side)
        torch.testing.assert_close(found[1], found[0])
        assert together.BN_T.bias.grad is None
        assert not found[1][0]._is_view()
        assert len(shape) == 1 or found[1][0].is_contiguous(memory_format=torch.channels_last)

    def test_on_device(self, device):
        norm, x = convert_batch_norm(used_norm(), dsbn=True, group_size=3), torch.randn(12, 3, 4, 2)
        there = copy.deepcopy(norm).to(device)
        torch.testing.assert_close(there(x.to(device)).cpu(), norm(x))
        torch.testing.assert_close([value.cpu() for value in there.buffers()], list(norm.buffers()))

    @pytest.mark.parametrize("way", ["_one_by_one", "_side_by_side"])
    @pytest.mark.parametrize("shape", [(6, 2), (6, 2, 2, 1)])
    def test_gradcheck(self, way, shape, monkeypatch):
        monkeypatch.setattr(batch_norm, "_one_by_one", getattr(batch_norm, way))
        norm = GroupBatchNorm(2, group_size=3).double()
        assert torch.autograd.gradcheck(norm, torch.randn(shape, dtype=torch.float64, requires_grad=True))

    def test_evaluation_is_plain(self):
        plain = used_norm().eval()
        x = torch.randn(5, 3, 2, 2)
        assert torch.equal(convert_batch_norm(copy.deepcopy(plain), group_size=4).eval()(x), plain(x))

    def test_whatever_fresh_memory_holds(self):
        norm = GroupBatchNorm(3, group_size=2)
        torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN
        try:
            norm(torch.randn(4, 3))
        finally:
            torch.use_deterministic_algorithms(False)
        assert norm.running_mean.isfinite().all()
        assert norm.running_var.isfinite().all()

    def test_rows_that_the_groups_do_not_divide(self):
        with pytest.raises(ValueError, match=r"6 rows.*group of 4.*MODEL\.BN_GROUP"):
            GroupBatchNorm(3, 4)(torch.randn(6, 3))

    def test_bad_input(self):
        with pytest.raises(ValueError, match="group_size must be >= 1"):
            GroupBatchNorm(3, 0)
        with pytest.raises(ValueError, match=r"wanted \[B, C\]"):
            GroupBatchNorm(3, 2)(torch.randn(4, 3, 2))


class TestConvert:
    @pytest.fixture
    def net(self) -> nn.Module:
        net = nn.Sequential(
            nn.Conv2d(3, 4, 1), used_norm(channels=4), IBN(4), GlobalAvgPool(), used_norm(nn.BatchNorm1d, 4)
        )
        net[4].bias.requires_grad_(False)
        return net

    @pytest.mark.parametrize("group_size", [0, 2])
    def test_values_are_copied_to_both_and_the_frozen_bias_stays_frozen(self, net, group_size):
        before = copy.deepcopy(net)
        assert convert_batch_norm(net, dsbn=True, group_size=group_size) is net
        for old, new in ((before[1], net[1]), (before[2].BN, net[2].BN), (before[4], net[4])):
            for half in (new.BN_S, new.BN_T):
                assert half.state_dict().keys() == old.state_dict().keys()
                assert all(torch.equal(value, old.state_dict()[key]) for key, value in half.state_dict().items())
                assert isinstance(half, GroupBatchNorm) == bool(group_size)
        assert not net[4].BN_S.bias.requires_grad
        assert not net[4].BN_T.bias.requires_grad
        assert net[4].BN_T.weight.requires_grad
        assert isinstance(net[2].IN, nn.InstanceNorm2d)

    def test_halves_are_independent(self, net):
        convert_batch_norm(net, dsbn=True)
        net[1].BN_S.weight.data.zero_()
        assert net[1].BN_T.weight.all()

    def test_conversion_does_not_change_the_evaluation(self, net):
        x = torch.randn(2, 3, 4, 2)
        before = net.eval()(x)
        assert torch.equal(convert_batch_norm(net, dsbn=True, group_size=2)(x), before)

    def test_sync(self, net):
        convert_batch_norm(net, dsbn=True, sync=True)
        assert isinstance(net[4].BN_T, nn.SyncBatchNorm)
        assert not net[4].BN_T.bias.requires_grad

    def test_sync_groups_contradict(self, net):
        with pytest.raises(ValueError, match=r"MODEL\.BN_GROUP 16.*choose one"):
            convert_batch_norm(net, group_size=16, sync=True)


class TestNonLocal:
    def test_starts_as_identity(self):
        x = torch.randn(2, 4, 3, 2)
        assert torch.equal(NonLocal(4)(x), x)

    @pytest.mark.parametrize("inner", [1, 2])
    def test_is_the_formula(self, inner):
        """With the [HW, HW] matrix written out."""
        block = NonLocal(4, inner).eval()
        nn.init.normal_(block.W[1].weight)
        x = torch.randn(2, 4, 3, 2)
        theta, phi, g = (conv(x).flatten(2) for conv in (block.theta, block.phi, block.g))
        attention = theta.transpose(1, 2) @ phi / 6
        y = (attention @ g.transpose(1, 2)).transpose(1, 2).reshape(2, inner, 3, 2)
        torch.testing.assert_close(block(x), x + block.W(y))


def test_ibn_normalises_half_by_image():
    norm, x = IBN(5), torch.randn(3, 5, 4, 4)
    expected = torch.cat([nn.InstanceNorm2d(2)(x[:, :2]), nn.BatchNorm2d(3)(x[:, 2:])], dim=1)
    torch.testing.assert_close(norm(x), expected)
