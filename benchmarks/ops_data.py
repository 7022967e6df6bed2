"""Features like those clustered in practice, their neighbours, and how well a clustering finds the identities."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

import mlt_ops
from mlt_ops._search import measure

LATENT = 128
LIKENESS, NOISE, NOISE_SPREAD = 0.8, 0.9, 0.6  # lengths beside unit centres; the last of the logarithm
FRAMES = 60  # of a video
BANDS = {"ARI": (0.6, 0.8), "outliers": (0.1, 0.25)}  # real features' results


def make_features(num_rows: int, dim: int, seed: int, noise: float = NOISE) -> tuple[Tensor, Tensor, np.ndarray]:
    """Features [N, D], the same ones before lifting [N, 128], and identities [N].

    Args:
        num_rows: N.
        dim: D.
        seed: of all random numbers.
        noise: median length of what is added to a centre.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    num_ids = max(num_rows // 17, 1)
    weight = rng.lognormal(0.0, 0.7, size=num_ids)
    pids = rng.choice(num_ids, size=num_rows, p=weight / weight.sum())  # in random order: rows are shuffled
    groups = unit(normal(max(num_ids // 3, 1), LATENT))
    centres = unit(groups[rng.integers(len(groups), size=num_ids)] + LIKENESS / LATENT**0.5 * normal(num_ids, LATENT))
    spread = noise / LATENT**0.5 * np.exp(NOISE_SPREAD * normal(num_ids, 1))
    latent = unit(centres[pids] + spread[pids] * normal(num_rows, LATENT))
    lift = np.linalg.qr(rng.standard_normal((dim, LATENT)))[0].astype(np.float32)
    return torch.from_numpy(latent @ lift.T), torch.from_numpy(latent), pids


def make_frames(num_rows: int, dim: int, seed: int, apart: float = 0.02) -> Tensor:
    """Features [N, D] of videos: 60 frames of each, in random order, whose distances products can hardly tell.

    Args:
        num_rows: N.
        dim: D.
        seed: of all random numbers.
        apart: squared distance of two frames of a video, up to rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    videos = normalize(torch.randn(-(-num_rows // FRAMES), dim, generator=generator))
    video = torch.randperm(num_rows, generator=generator) // FRAMES
    noise = torch.randn(num_rows, dim, generator=generator).mul_((apart / 2 / dim) ** 0.5)
    return normalize(noise.add_(videos[video]))


def approximate_neighbors(rows: Tensor, k: int) -> mlt_ops.Neighbors:
    """Neighbours from faiss' inverted lists, measured as `knn` measures them; each row itself first.

    Args:
        rows: [N, 128] on the CPU.
        k: number of neighbours.
    """
    import faiss

    index = faiss.index_factory(rows.shape[1], f"IVF{int(4 * len(rows) ** 0.5)},Flat")
    index.train(rows[:200_000].numpy())
    index.add(rows.numpy())
    index.nprobe = 16
    found = torch.cat([torch.from_numpy(index.search(part.numpy(), k)[1]) for part in rows.split(2000)]).int()
    itself = torch.arange(len(rows), dtype=torch.int32).unsqueeze(1)
    others = torch.cat([itself, found], dim=1)[:, :k].where(~(found == itself).any(dim=1, keepdim=True), found)
    query = itself.expand_as(others).flatten()
    distance = measure(rows, rows, query, others.flatten()).view(others.shape)
    order = distance.masked_fill(others == itself, -1).argsort(dim=1, stable=True)
    return mlt_ops.Neighbors(distance.gather(1, order), others.gather(1, order).long())


def quality(pids: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How hard the task is, from identities [N] and clusters [N], -1 for noise."""
    from sklearn.metrics import adjusted_rand_score

    kept = labels >= 0
    alone = np.where(kept, labels, len(labels) + np.arange(len(labels)))  # an outlier is a cluster of its own
    return {
        "clusters": int(labels.max()) + 1,
        "outliers": float(1 - kept.mean()),
        "ARI": float(adjusted_rand_score(pids, alone)),
    }


def require_real(measured: Iterable[dict[str, float]]) -> None:
    """End a run, after all is measured and written, some of whose tasks were easier or harder than real ones.

    Args:
        measured: figures of each size, with those of `quality`. With fewer than 10,000 rows identities hardly meet one
            another.
    """
    for results in (figures for figures in measured if figures["N"] >= 10_000):
        outside = [name for name, (low, high) in BANDS.items() if not low <= results[name] <= high]
        if outside:
            raise SystemExit(f"bench_ops: {outside} of these features are not within {BANDS}: {results}")
