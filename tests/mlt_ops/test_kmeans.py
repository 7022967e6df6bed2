"""kmeans: Lloyd against the reference, quality against scikit-learn, seeds, empty clusters, invariants."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_iris, load_wine
from torch import Tensor

import mlt_ops
from mlt_ops import reference


def blobs(num_rows: int, dim: int, num_blobs: int, spread: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(num_rows + dim)
    centres = torch.randn(num_blobs, dim, generator=generator)
    owner = torch.randint(num_blobs, (num_rows,), generator=generator)
    return centres[owner] + spread * torch.randn(num_rows, dim, generator=generator)


def assert_consistent(result: mlt_ops.KMeansResult, features: Tensor) -> None:
    """Centroids are the means of the labels, inertia is their sum of squared distances."""
    mean, count = mlt_ops.segment_mean(features, result.labels, len(result.centroids))
    filled = count > 0
    torch.testing.assert_close(result.centroids[filled], mean[filled], rtol=1e-4, atol=1e-5)
    expected = (features.double() - result.centroids.double()[result.labels]).square().sum().item()
    assert result.inertia == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_lloyd_equals_the_reference(device: torch.device) -> None:
    features = blobs(150, 6, 5)
    init = features[:5]
    labels, centroids, inertia = reference.kmeans(features.numpy(), init.numpy())
    result = mlt_ops.kmeans(features.to(device), 5, init=init.to(device))
    assert result.labels.cpu().tolist() == labels.tolist()
    np.testing.assert_allclose(result.centroids.cpu(), centroids, atol=1e-5)
    assert result.inertia == pytest.approx(inertia, rel=1e-5)


DATASETS = {
    "digits": lambda: torch.from_numpy(load_digits().data).float(),
    "iris": lambda: torch.from_numpy(load_iris().data).float(),
    "wine": lambda: torch.from_numpy(load_wine().data).float(),
    "unit rows": lambda: torch.nn.functional.normalize(blobs(600, 64, 30, spread=1.0)),
    "wide rows": lambda: torch.nn.functional.normalize(blobs(600, 1536, 40, spread=1.0)),  # seeded in a projection
    "far from the origin": lambda: 1000 + blobs(500, 8, 12),
}


# Small sets in many clusters have optima that differ by more than one per cent from seed to seed, for both libraries.
@pytest.mark.parametrize(
    ("name", "num_clusters"),
    [(name, num_clusters) for name in DATASETS for num_clusters in (3, 10, 40) if (name, num_clusters) != ("wine", 40)],
)
def test_inertia_is_scikit_learns(name: str, num_clusters: int) -> None:
    features = DATASETS[name]()
    ours = mlt_ops.kmeans(features, num_clusters, num_restarts=10)
    theirs = KMeans(num_clusters, n_init=10, random_state=0).fit(features.numpy().astype(np.float64))
    assert ours.inertia <= 1.01 * theirs.inertia_
    assert_consistent(ours, features)


def test_one_cluster_is_the_mean(device: torch.device) -> None:
    features = blobs(40, 5, 3).to(device)
    result = mlt_ops.kmeans(features, 1)
    assert result.labels.eq(0).all()
    torch.testing.assert_close(result.centroids[0], features.mean(dim=0))


def test_as_many_clusters_as_rows(device: torch.device) -> None:
    features = blobs(20, 5, 20).to(device)
    result = mlt_ops.kmeans(features, 20)
    assert sorted(result.labels.tolist()) == list(range(20))
    assert result.inertia == pytest.approx(0, abs=1e-9)
    wide = 1e-3 * blobs(50, 1200, 50).to(device) + 1  # rounding in the projection must not let a row be drawn twice
    assert mlt_ops.kmeans_plus_plus(wide, 50).unique().numel() == 50


def test_fewer_different_rows_than_clusters(device: torch.device) -> None:
    features = torch.tensor([[0.0, 1.0], [5.0, 5.0], [9.0, 1.0]], device=device).repeat(4, 1)
    result = mlt_ops.kmeans(features, 6)
    assert result.inertia == pytest.approx(0, abs=1e-9)
    assert torch.isfinite(result.centroids).all()
    for first in range(3):
        assert result.labels[first::3].unique().numel() >= 1
        assert not set(result.labels[first::3].tolist()) & set(result.labels[(first + 1) % 3 :: 3].tolist())


@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_an_empty_cluster_takes_the_farthest_row(device: torch.device, unit: float) -> None:
    features = torch.tensor([[0.0], [1.0], [2.0], [50.0]], device=device)
    init = torch.tensor([[0.0], [2.0], [1000.0]], device=device)  # nobody is near the third
    result = mlt_ops.kmeans(unit * features, 3, init=unit * init)
    assert result.labels.bincount(minlength=3).min() == 1
    assert result.labels.tolist()[3] == 2


@pytest.mark.parametrize("unit", [1.0, 2.0**-75])
@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_no_cluster_is_empty_where_rows_are_nearer_than_products_tell(backend: Any, unit: float) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    crowd = 1 + 2.0**-22 * torch.arange(30.0)[:, None]  # products of rows that far from 0 end 2^-17 apart
    features = unit * torch.cat([crowd, -crowd])
    assert mlt_ops.kmeans(features, 60, backend=backend).labels.unique().numel() == 60
    for found, number in zip(mlt_ops.kmeans_mixture(features, [40, 7], backend=backend), [40, 7]):
        assert found.labels.unique().numel() == number


def test_filling_an_empty_cluster_does_not_empty_another(device: torch.device) -> None:
    features = torch.tensor([[0.0], [1.0], [50.0]], device=device)
    init = torch.tensor([[0.5], [40.0], [1000.0]], device=device)  # the farthest row is alone in its cluster
    labels = mlt_ops.kmeans(features, 3, init=init, max_iter=1).labels
    assert sorted(labels.tolist()) == [0, 1, 2]
    assert labels.tolist()[2] == 1


def test_seeds_repeat_and_differ(device: torch.device) -> None:
    features = blobs(300, 8, 30).to(device)
    first, again = mlt_ops.kmeans(features, 20, seed=3), mlt_ops.kmeans(features, 20, seed=3)
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.equal(first.labels, mlt_ops.kmeans(features, 20, seed=4).labels)


def test_any_whole_number_is_a_seed() -> None:
    features = blobs(60, 4, 9)
    for seed, same in ((np.int64(3), 3), (np.uint8(255), 255), (torch.tensor(3), 3), (-1, 2**64 - 1)):
        assert torch.equal(mlt_ops.kmeans(features, 9, seed=seed).labels, mlt_ops.kmeans(features, 9, seed=same).labels)
        chosen = mlt_ops.kmeans_plus_plus(features, 9, seed=seed)  # type: ignore[arg-type]
        assert torch.equal(chosen, mlt_ops.kmeans_plus_plus(features, 9, seed=same))
    last, first = mlt_ops.kmeans_mixture(features, [9, 9], seed=2**64 - 1)
    assert torch.equal(last.labels, mlt_ops.kmeans(features, 9, seed=-1).labels)
    assert torch.equal(first.labels, mlt_ops.kmeans(features, 9, seed=0).labels)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    mlt_ops.kmeans(blobs(50, 4, 5), 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_restarts_never_hurt() -> None:
    features = blobs(200, 4, 15)
    assert mlt_ops.kmeans(features, 15, num_restarts=5).inertia <= mlt_ops.kmeans(features, 15).inertia


@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_does_not_change_the_result() -> None:
    features = blobs(800, 64, 25)
    torch.set_num_threads(1)
    one = mlt_ops.kmeans(features, 25)
    torch.set_num_threads(2)
    two = mlt_ops.kmeans(features, 25)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.centroids, two.centroids)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_clusters_like_the_cpu() -> None:
    features = blobs(900, 48, 20, spread=0.2)
    cpu, cuda = mlt_ops.kmeans(features, 20), mlt_ops.kmeans(features.cuda(), 20)
    assert torch.equal(cuda.labels.cpu(), cpu.labels)
    assert cuda.inertia == pytest.approx(cpu.inertia, rel=1e-5)


def test_a_prefix_of_a_seeding_starts_a_smaller_run(device: torch.device) -> None:
    features = blobs(200, 8, 12).to(device)
    seeds = mlt_ops.kmeans_plus_plus(features, 12, seed=1)
    assert seeds.unique().numel() == 12
    shared = mlt_ops.kmeans(features, 9, init=features[seeds[:9]])
    assert shared.inertia <= 1.3 * mlt_ops.kmeans(features, 9, num_restarts=5).inertia


@pytest.mark.parametrize("num_clusters", [1, 7, 25])
def test_faiss_may_assign(num_clusters: int) -> None:
    pytest.importorskip("faiss")
    features = blobs(700, 24, 25)
    own = mlt_ops.kmeans(features, num_clusters, num_restarts=2)
    other = mlt_ops.kmeans(features, num_clusters, num_restarts=2, backend="faiss")
    assert torch.equal(other.labels, own.labels)
    torch.testing.assert_close(other.centroids, own.centroids)
    assert other.labels.dtype == torch.int64


def test_faiss_assigns_where_clusters_run_empty() -> None:
    pytest.importorskip("faiss")
    features = torch.tensor([[0.0], [1.0], [2.0], [50.0]])
    init = torch.tensor([[0.0], [2.0], [1000.0]])
    own, other = (mlt_ops.kmeans(features, 3, init=init, backend=backend) for backend in ("torch", "faiss"))
    assert other.labels.tolist() == own.labels.tolist()


def test_ctrl_c_ends_it_within_a_second(interrupted: Callable[..., float]) -> None:
    features = blobs(20_000, 512, 50)
    assert interrupted(lambda: [mlt_ops.kmeans(features, 500) for _ in range(100)]) < 1


def test_the_seeding_finds_separated_clusters(device: torch.device) -> None:
    centres = 100 * torch.eye(10, device=device)
    features = centres.repeat_interleave(8, dim=0) + torch.randn(80, 10).to(device)
    seeds = mlt_ops.kmeans_plus_plus(features, 10)
    assert sorted((seeds // 8).tolist()) == list(range(10))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_and_gradients(device: torch.device, dtype: torch.dtype) -> None:
    features = blobs(60, 5, 4).to(device, dtype).requires_grad_()
    result = mlt_ops.kmeans(features, 4)
    assert result.centroids.dtype == torch.float32
    assert not result.centroids.requires_grad
    assert torch.equal(result.labels, mlt_ops.kmeans(features.float(), 4).labels)


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.zeros(4), {"num_clusters": 1}, "kmeans: features must be 2-D"),
        (torch.full((4, 2), float("inf")), {"num_clusters": 1}, "4 of 4 rows hold NaN or infinity"),
        (torch.zeros(4, 2), {"num_clusters": 5}, r"between 1 and the number of rows \(4\), got 5"),
        (torch.zeros(4, 2), {"num_clusters": 0}, "got 0"),
        (torch.zeros(4, 2), {"num_clusters": 2.0}, "num_clusters must be a whole number, got 2.0"),
        (torch.zeros(4, 2), {"num_clusters": 2, "max_iter": 0}, "num_restarts and max_iter must be >= 1, got 1 and 0"),
        (torch.zeros(4, 2), {"num_clusters": 2, "num_restarts": 0}, "got 0 and 300"),
        (torch.zeros(4, 2), {"num_clusters": 2, "backend": "annoy"}, "must be 'torch', or 'faiss' on the CPU"),
        (torch.zeros(4, 2), {"num_clusters": 2, "init": torch.zeros(3, 2)}, r"init must be \[2, 2\], got \[3, 2\]"),
        (torch.zeros(4, 2), {"num_clusters": 2, "init": torch.zeros(2, 2), "num_restarts": 2}, "must be 1, got 2"),
    ],
)
def test_errors(features: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlt_ops.kmeans(features, **options)
    if set(options) == {"num_clusters"}:
        with pytest.raises(ValueError, match="kmeans_plus_plus: "):
            mlt_ops.kmeans_plus_plus(features, **options)


@pytest.mark.parametrize("dim", [6, 1100])
@pytest.mark.parametrize("runs_per_pass", [1, 2, 99])
def test_a_mixture_is_one_kmeans_for_each_number(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, dim: int, runs_per_pass: int
) -> None:
    features = blobs(90, dim, 12).to(device)
    counts, options = (3, 40, 12, 90, 1), {"num_restarts": 2, "max_iter": 4}  # 2 to 6 trials for a row
    alone = [mlt_ops.kmeans(features, k, seed=7 + g, **options) for g, k in enumerate(counts)]
    monkeypatch.setattr(sys.modules["mlt_ops.kmeans"], "DEFAULT_MEMORY", 12 * 6 * 90 * runs_per_pass)
    for one, other in zip(mlt_ops.kmeans_mixture(features, counts, seed=7, **options), alone, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.centroids, other.centroids)
        assert one.inertia == other.inertia


def test_one_product_serves_the_runs_that_have_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    features, counts = blobs(300, 6, 12), (3, 40, 150)
    lloyd, runs = sys.modules["mlt_ops._lloyd"], []
    assign = lloyd._assign
    monkeypatch.setattr(lloyd, "_assign", lambda x, starts, b: runs.append(len(starts)) or assign(x, starts, b))
    products = []
    for group, number in enumerate(counts):
        mlt_ops.kmeans(features, number, seed=group)
        products.append(len(runs))
        runs.clear()
    assert len(set(products)) > 1
    mlt_ops.kmeans_mixture(features, counts)
    assert runs == [sum(number > done for number in products) for done in range(max(products))]


@pytest.mark.parametrize(
    ("counts", "changes", "message"),
    [
        ((3, 0), {}, "num_clusters must be between 1 and the number of rows"),
        ((), {}, "wanted at least one number of clusters"),
        ((3, 21), {}, "num_clusters must be between 1 and the number of rows"),
        ((3,), {"num_restarts": 0}, "num_restarts and max_iter must be >= 1, got 0"),
        ((3,), {"backend": "numpy"}, "backend must be 'torch', or 'faiss' on the CPU"),
    ],
)
def test_a_mixture_refuses_what_kmeans_refuses(counts: tuple[int, ...], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"kmeans_mixture: {message}"):
        mlt_ops.kmeans_mixture(blobs(20, 3, 2), counts, **changes)


def test_random_starts_equal_the_reference() -> None:
    """Where no cluster runs empty, which is repaired here and not there."""
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(
        num_rows=st.integers(1, 60), dim=st.integers(1, 6), num_clusters=st.integers(1, 8), max_iter=st.integers(1, 5),
        seed=st.integers(0, 2**16),
    )  # fmt: skip
    def check(num_rows: int, dim: int, num_clusters: int, max_iter: int, seed: int) -> None:
        hypothesis.assume(num_clusters <= num_rows)
        features = torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed))
        init = features[:num_clusters]
        labels, centroids, inertia = reference.kmeans(features.numpy(), init.numpy(), max_iter)
        hypothesis.assume(len(set(labels)) == num_clusters)
        found = mlt_ops.kmeans(features, num_clusters, init=init, max_iter=max_iter)
        assert found.labels.tolist() == labels.tolist()
        np.testing.assert_allclose(found.centroids, centroids, atol=1e-5)
        assert found.inertia == pytest.approx(inertia, rel=1e-4, abs=1e-6)

    check()
