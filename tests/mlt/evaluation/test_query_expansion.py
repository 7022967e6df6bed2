"""Query expansion: by hand, against FastReID's, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlt.evaluation.query_expansion import expand_features


def rows(num: int = 30, dim: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, dim, generator=generator)
    return normalize(centres.repeat_interleave(num // 5, 0) + 0.4 * torch.randn(num, dim, generator=generator))


@pytest.mark.parametrize(("num_neighbors", "alpha", "times"), [(1, 3.0, 1), (4, 0.0, 1), (5, 3.0, 1), (3, 2.0, 3)])
def test_by_hand(num_neighbors: int, alpha: float, times: int) -> None:
    features = wanted = rows()
    for _ in range(times):
        cosines = normalize(wanted) @ normalize(wanted).T
        near = cosines.fill_diagonal_(1.0).topk(num_neighbors)
        wanted = torch.stack(
            [
                sum((w**alpha * wanted[j] for w, j in zip(weights, index)), torch.zeros(6)) / num_neighbors
                for weights, index in zip(near.values, near.indices, strict=True)
            ]
        )
    found = expand_features(features, num_neighbors=num_neighbors, alpha=alpha, times=times)
    torch.testing.assert_close(found, normalize(wanted), atol=2e-6, rtol=0)


@pytest.mark.fastreid
@pytest.mark.parametrize("times", [1, 2])
def test_gives_what_fastreid_gives(times: int) -> None:
    pytest.importorskip("fastreid")
    from mlt.adapters.compat import enable_modern_runtime

    enable_modern_runtime()
    from fastreid.evaluation.query_expansion import aqe

    features = rows(40)
    theirs = normalize(torch.cat(aqe(features[:10], features[10:], qe_times=times, qe_k=5, alpha=3.0)))
    torch.testing.assert_close(expand_features(features, times=times), theirs, atol=2e-6, rtol=0)


def test_neighbours_of_one_identity_come_nearer() -> None:
    pids = torch.arange(5).repeat_interleave(6)
    same = pids[:, None] == pids

    def margin(features: Tensor) -> float:
        cosines = features @ features.T
        return float(cosines[same].mean() - cosines[~same].mean())

    assert margin(expand_features(rows())) > margin(rows()) + 0.05


def test_few_rows_and_opposite_ones() -> None:
    assert torch.equal(expand_features(torch.eye(3)[:1]), torch.eye(3)[:1])
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert torch.equal(expand_features(opposite, alpha=2.5), opposite)  # a negative cosine weighs nothing


@pytest.mark.parametrize("changes", [{"num_neighbors": 0}, {"alpha": -1.0}, {"times": 0}])
def test_bad_numbers(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted num_neighbors >= 1, times >= 1 and alpha >= 0, got"):
        expand_features(rows(), **changes)  # type: ignore[arg-type]
