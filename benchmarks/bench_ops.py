#!/usr/bin/env python
"""Speed and memory of mlt_ops, stage by stage, beside a plain NumPy version of the published algorithm.

    python benchmarks/bench_ops.py                          # N = 12,936, D = 2048: the size of Market-1501's train set
    python benchmarks/bench_ops.py --sizes 12936 50000 200000 --numpy-size 3000 --json benchmarks/results/cpu.json

Features: N/17 identities of lognormal size in R^128, in groups of three that look alike, each with its own amount of
noise, lifted to R^D by an orthonormal map, rows shuffled. So DBSCAN at 0.6 merges some identities and loses some rows:
the run fails, at its end, if ARI or outliers left the band that real features have. Neighbours come from `knn` of these
features (in R^128, where the distances are the same up to rounding, for sizes above --search-size; above --knn-size
from faiss' inverted lists, which miss some), never from the identities. With each stage's wall-clock seconds come the
processor's, which other programs disturb less, and the longest time for which Ctrl-C had to wait. The search is timed
on frames of videos, too, of which it must search many a second time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from arguments import at_least
from hardware import Figures, hardware, machine_speed, require, shortest
from ops_data import LATENT, NOISE, approximate_neighbors, make_features, make_frames, quality, require_real
from stages import Stages, peak_memory
from torch import Tensor

import mlt_ops
from mlt_ops._inputs import as_features, as_neighbors
from mlt_ops._sparse import mirror, neighborhood_order, renumbered, transpose
from mlt_ops.expand_query import unchecked_expand_query
from mlt_ops.jaccard import jaccard_rows
from mlt_ops.k_reciprocal import unchecked_k_reciprocal
from mlt_ops.knn import Backend

FEW = 20_000  # rows up to which the CPU's slower ways of searching are timed, too
ENOUGH = 10.0  # seconds for which a search is repeated
WHOLE = 50_000  # rows up to which a user's calls are timed as a whole, too; above it the stages' sum says the same
K1, K2, EPS, MIN_SAMPLES = 30, 6, 0.6, 4


def backends_for(features: Tensor) -> tuple[Backend, ...]:
    """Ways of searching to measure; "torch", whose name no stage bears, last."""
    if features.is_cuda:
        return "half", "torch"
    others: tuple[Backend, ...] = ("half", "faiss") if find_spec("faiss") else ("half",)
    return (*others, "torch") if len(features) <= FEW else ("torch",)


def from_features_to_labels(features: Tensor, repeats: int) -> dict[str, float]:
    """Seconds of the calls that a user makes, for each way of searching.

    Args:
        features: [N, D].
        repeats: of calls that take less than a second; the fastest counts.
    """

    def call(backend: Backend) -> None:
        neighbors = mlt_ops.knn(features, K1, backend=backend)
        distance = mlt_ops.jaccard_distance(features, k1=K1, k2=K2, max_distance=EPS, neighbors=neighbors)
        mlt_ops.dbscan(distance, eps=EPS, min_samples=MIN_SAMPLES)

    seconds = {}
    for backend in backends_for(features):
        again = partial(call, backend)
        first = shortest(again, features.device, 1)
        seconds[backend] = min(first, shortest(again, features.device, repeats)) if first < 1 else first
    return seconds


def run_knn(features: Tensor, repeats: int) -> tuple[mlt_ops.Neighbors, Stages, dict[str, int]]:
    """The neighbour search, in each way of `backends_for`; and how many rows each had to search again.

    Args:
        features: [N, D].
        repeats: of searches that take no more than `ENOUGH` together; the fastest counts.
    """
    stages, doubtful = Stages(), {}
    for backend in backends_for(features):
        name = f"knn, D = {features.shape[1]}" + ("" if backend == "torch" else f", {backend}")
        runs, stats = [], dict[str, int]()
        while not runs or (sum(runs) < ENOUGH and len(runs) <= repeats):
            neighbors = stages(name, mlt_ops.knn, features, K1, backend=backend, stats=stats)
            runs.append(stages.seconds[name])
        stages.seconds[name], doubtful[name] = min(runs), stats["doubtful"]
    return neighbors, stages, doubtful


def run_mlt_ops(features: Tensor, neighbors: mlt_ops.Neighbors) -> tuple[Stages, Tensor, Figures]:
    """The step after the neighbour search, one stage after another.

    Args:
        features: [N, D].
        neighbors: of these features.
    """
    stages, num_rows = Stages(), len(features)
    rows = stages("check features", as_features, features, "bench")
    found = stages("check neighbours", as_neighbors, neighbors, num_rows, rows.device, K1, "bench")
    order = stages("order", neighborhood_order, found.index)
    near = stages("renumber", renumbered, found, order)
    sets = stages("k_reciprocal", unchecked_k_reciprocal, rows, order, near, K1, "clustering", None)
    expanded = stages("expand_query", unchecked_expand_query, sets, near, K2, num_rows)
    columns = stages("transpose", transpose, *expanded, num_rows)
    lower = stages("jaccard", jaccard_rows, expanded, columns, EPS, 0, num_rows)
    whole = stages("mirror", mirror, *lower, order)
    distance = mlt_ops.SparseDistance.unchecked(*whole, num_rows, EPS)
    labels = stages("dbscan", mlt_ops.dbscan, distance, eps=EPS, min_samples=MIN_SAMPLES)
    figures = {
        "entries per row of V": len(sets[1]) / num_rows,
        "entries per row of V'": len(expanded[1]) / num_rows,
        "distances per row": distance.nnz / num_rows,
    }
    return stages, labels, figures


def numpy_distance(features: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The published algorithm (SpCL and its successors) in plain NumPy: Python loops over a dense N x N matrix.

    Args:
        features: [N, D] unit rows.
        index: [N, k1] neighbours.
    """
    num_rows, half = len(features), round(K1 / 2)

    def mutual(i: int, width: int) -> np.ndarray:
        forward = index[i, : width + 1]
        return forward[(index[forward, : width + 1] == i).any(axis=1)]

    full, narrow = [mutual(i, K1) for i in range(num_rows)], [mutual(i, half) for i in range(num_rows)]
    weights = np.zeros((num_rows, num_rows), dtype=np.float32)
    for i in range(num_rows):
        expanded = full[i]
        for candidate in full[i]:
            if len(np.intersect1d(narrow[candidate], full[i])) > 2 / 3 * len(narrow[candidate]):
                expanded = np.append(expanded, narrow[candidate])
        expanded = np.unique(expanded)
        weight = np.exp(2 * features[expanded] @ features[i] - 2)
        weights[i, expanded] = weight / weight.sum()
    weights = np.stack([weights[index[i, :K2]].mean(axis=0) for i in range(num_rows)])
    holders = [np.flatnonzero(weights[:, i]) for i in range(num_rows)]
    distance = np.empty((num_rows, num_rows), dtype=np.float32)
    for i in range(num_rows):
        overlap = np.zeros(num_rows, dtype=np.float32)
        for column in np.flatnonzero(weights[i]):
            overlap[holders[column]] += np.minimum(weights[i, column], weights[holders[column], column])
        distance[i] = 1 - overlap / (2 - overlap)
    return np.maximum(distance, 0)


def compare_with_numpy(size: int, dim: int, seed: int) -> Figures:
    """Both implementations on the same features and neighbours.

    Args:
        size: N.
        dim: D.
        seed: as for `make_features`.
    """
    from sklearn.cluster import DBSCAN

    features, _, _ = make_features(size, dim, seed)
    neighbors = mlt_ops.knn(features, K1)
    run_mlt_ops(features, neighbors)
    ours, labels, _ = run_mlt_ops(features, neighbors)
    stages = Stages()
    dense = stages("Jaccard", numpy_distance, features.numpy(), neighbors.index.numpy())
    model = stages("DBSCAN", DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed").fit, dense)
    sparse = mlt_ops.jaccard_distance(features, max_distance=1.0, k1=K1, k2=K2, neighbors=neighbors).to_dense()
    seconds = sum(ours.seconds.values())
    return {
        "N": size,
        "NumPy seconds": stages.seconds,
        "mlt_ops seconds": seconds,
        "times faster": sum(stages.seconds.values()) / seconds,
        "largest difference of a distance": float((sparse - torch.from_numpy(dense)).abs().max()),
        "labels that differ": int((labels.numpy() != model.labels_).sum()),
    }


def measure(size: int, args: argparse.Namespace, speed: Figures) -> Figures:
    """All figures of one size.

    Args:
        size: N.
        args: command line.
        speed: see `machine_speed`.
    """
    features, latent, pids = make_features(size, args.dim, args.seed, args.noise)
    features, latent = features.to(args.device), latent.to(args.device)
    searched = features if size <= args.search_size else latent
    whole = from_features_to_labels(searched, args.repeats) if size <= min(args.knn_size, WHOLE) else {}
    if size <= args.knn_size:
        neighbors, search, doubtful = run_knn(searched, args.repeats)
    else:
        search, doubtful = Stages(), {}
        neighbors = search(f"inverted lists, D = {LATENT}", approximate_neighbors, latent, K1)
    runs, peaks = [], []
    for _ in range(args.repeats):
        with peak_memory(features.device) as memory:
            stages, labels, figures = run_mlt_ops(features, neighbors)
        runs.append(stages)
        peaks.append(memory["peak_bytes"])
    best = min(runs, key=lambda stages: sum(stages.seconds.values()))
    return {
        "N": size,
        "seed": args.seed,
        "noise": args.noise,
        "load average": os.getloadavg()[0],
        "seconds": search.seconds | best.seconds,
        "processor seconds": search.cpu_seconds | best.cpu_seconds,
        "longest wait for Ctrl-C": search.longest_wait | best.longest_wait,
        "seconds from features to labels": whole,
        "seconds after knn": sum(best.seconds.values()),
        "processor seconds after knn": sum(best.cpu_seconds.values()),
        "MB after knn": max(peaks) / 1e6,
        "rows searched again": doubtful,
        "share of the floor": shares_of_floor(search, size, speed) | shares_of_floor(best, size, speed),
        **figures,
        **quality(pids, labels.cpu().numpy()),
    }


def shares_of_floor(stages: Stages, num_rows: int, speed: Figures) -> dict[str, float]:
    """The least time that a stage could take, at the machine's best, as a share of what it took.

    A search is half of a product of all rows with all; every other stage moves its inputs and results once.

    Args:
        stages: measured ones; names of searches tell D and their backend.
        num_rows: N.
        speed: see `machine_speed`.
    """
    least = {name: moved / speed["bytes/s"] for name, moved in stages.moved.items()}
    for name in least:
        if name.startswith("knn"):
            dim, precision = int(name.split("D = ")[1].split(",")[0]), "float16" if "half" in name else "float32"
            least[name] = num_rows**2 * dim / speed.get(f"{precision} FLOP/s", speed["float32 FLOP/s"])  # a CPU has one
    return {name: seconds / stages.seconds[name] for name, seconds in least.items()}


def main() -> None:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=at_least(1), nargs="+", default=[12936])
    parser.add_argument("--dim", type=at_least(LATENT), default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=NOISE, help="of the features; less where the search misses rows")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="the fastest counts")
    parser.add_argument("--search-size", type=at_least(0), default=20000, help="above it, the search is in R^128")
    parser.add_argument(
        "--knn-size", type=at_least(0), help="above it, neighbours are approximate; default 200000, none on CUDA"
    )
    parser.add_argument("--numpy-size", type=at_least(0), default=3000, help="N of the comparison with NumPy; 0: none")
    parser.add_argument("--frames", type=at_least(0), default=6000, help="N of the search among videos; 0: none")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    require(args.device)
    if args.knn_size is None:
        args.knn_size = 200_000 if args.device == "cpu" else max(args.sizes)
    speed = machine_speed(torch.device(args.device))
    results: Figures = {"command": sys.argv, "hardware": hardware(args.device), "machine at its best": speed}
    print(json.dumps(results, indent=1), flush=True)
    if args.numpy_size:
        results["NumPy"] = compare_with_numpy(args.numpy_size, args.dim, args.seed)
        print(json.dumps(results["NumPy"], indent=1), flush=True)
    if args.frames:
        _, search, doubtful = run_knn(make_frames(args.frames, args.dim, args.seed).to(args.device), args.repeats)
        results["videos"] = {"N": args.frames, "seconds": search.seconds, "rows searched again": doubtful}
        print(json.dumps(results["videos"], indent=1), flush=True)
    results["mlt_ops"] = []
    for size in args.sizes:
        results["mlt_ops"].append(measure(size, args, speed))
        print(json.dumps(results["mlt_ops"][-1], indent=1), flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        unfinished = args.json.with_suffix(".tmp")
        unfinished.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(unfinished, args.json)
    require_real(results["mlt_ops"])


if __name__ == "__main__":
    main()
