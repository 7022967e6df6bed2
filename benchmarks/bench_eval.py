#!/usr/bin/env python
"""Exact evaluation at the size of Market-1501 beside the usual way: sort every row whole, then a Python loop.

    python benchmarks/bench_eval.py --threads 2 --json benchmarks/results/eval-cpu.json

Once from a distance matrix, once from features. Both ways rank the same distances; the run fails if mAP, mINP or CMC of
a stable sort differ from ours by more than 1e-9. The usual way is timed with NumPy's default sort, which is faster but
orders ties as it likes, and that is how far its results may be off. Of our runs the fastest counts; the usual way runs
once. Memory is what a run needs beyond its inputs: on a CPU the resident set, sampled each 2 ms.

The ids are drawn as the set has them: 750 people, each with a query in some of 6 cameras, gallery images in the same
cameras, so that some stay out because the query's own camera took them, and distractors. Features: centres and noise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import at_least
from hardware import Figures, hardware, require
from stages import peak_memory
from tabulate import tabulate
from torch import Tensor
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile

from mlt.evaluation.metrics import PRODUCT_CHUNK, evaluate_features, rank_queries, summarize
from mlt.utils.files import atomic

QUERIES, GALLERY, DISTRACTORS, PEOPLE, CAMERAS = 3368, 15913, 2798, 750, 6
DISTRACTOR = 0  # the identity of all of them
STAGES = {"matrix product": "aten::addmm", "counting": "mlt_ops::count_closer"}
Ids = tuple[Tensor, Tensor, Tensor, Tensor]  # pids of queries and gallery, cameras of queries and gallery


def make_ids(seed: int) -> Ids:
    """Identities and cameras, drawn as Market-1501's test set has them.

    Args:
        seed: of all random numbers.
    """
    rng = np.random.default_rng(seed)
    visits = np.stack(np.divmod(np.arange(PEOPLE * CAMERAS), CAMERAS), axis=1)  # (person, camera)
    visits = visits[rng.random(len(visits)).argsort()]
    visits = visits[np.argsort(np.arange(len(visits)) >= QUERIES, kind="stable")][:QUERIES]
    gallery = visits[rng.integers(len(visits), size=GALLERY - DISTRACTORS)]
    people = np.concatenate([1 + gallery[:, 0], np.full(DISTRACTORS, DISTRACTOR)])
    cameras = np.concatenate([gallery[:, 1], rng.integers(CAMERAS, size=DISTRACTORS)])
    order = rng.permutation(GALLERY)
    ids = (1 + visits[:, 0], people[order], visits[:, 1], cameras[order])
    return tuple(torch.from_numpy(part) for part in ids)  # type: ignore[return-value]


def make_features(ids: Ids, dim: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Unit rows of queries and gallery around a centre for each person; every distractor is alone.

    Args:
        ids: whose.
        dim: D.
        noise: length of what is added to a unit centre.
        seed: of all random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(PEOPLE + 1, dim, generator=generator))
    centres[DISTRACTOR] = 0

    def rows(pids: Tensor) -> Tensor:
        return normalize(torch.randn(len(pids), dim, generator=generator).mul_(noise / dim**0.5).add_(centres[pids]))

    return rows(ids[0]), rows(ids[1])


def whole_matrix(query: Tensor, gallery: Tensor) -> Tensor:
    """All distances [Q, G] at once, rounded as `evaluate_features` rounds them.

    Args:
        query: [Q, D]
        gallery: [G, D]
    """
    squares = gallery.square().sum(dim=1)
    distance = query.new_empty(len(query), len(gallery))
    for rows, result in zip(query.split(PRODUCT_CHUNK), distance.split(PRODUCT_CHUNK), strict=True):
        torch.addmm(squares, rows, gallery.t(), alpha=-2, out=result)
    return distance


def evaluate_by_sorting(distance: np.ndarray, ids: Ids, kind: str | None = None) -> Figures:
    """mAP, mINP and CMC as toolboxes compute them: an argsort of the whole matrix, and a loop over the queries.

    Args:
        distance: [Q, G].
        ids: of both sides.
        kind: of NumPy's sort.
    """
    q_pids, g_pids, q_camids, g_camids = (part.numpy() for part in ids)
    indices = np.argsort(distance, axis=1, kind=kind)  # type: ignore[call-overload]
    matches = g_pids[indices] == q_pids[:, None]
    aps, inps, firsts = [], [], []
    for q, order in enumerate(indices):
        kept = ~((g_pids[order] == q_pids[q]) & (g_camids[order] == q_camids[q]))
        hits = matches[q][kept]
        if not hits.any():
            continue
        places = np.flatnonzero(hits)
        precision = hits.cumsum() / (np.arange(len(hits)) + 1)
        aps.append((precision * hits).sum() / hits.sum())
        inps.append(hits.sum() / (places[-1] + 1))
        firsts.append(places[0] + 1)
    ranks = {f"Rank-{k}": 100 * float(np.mean(np.array(firsts) <= k)) for k in (1, 5, 10)}
    return {**ranks, "mAP": 100 * float(np.mean(aps)), "mINP": 100 * float(np.mean(inps))}


def measured(call: Callable[[], Figures], device: torch.device, repeats: int = 1) -> Figures:
    """Seconds of the fastest run, on the clock and of processors; most memory of any; results.

    Args:
        call: returns the results.
        device: where it works.
        repeats: number of runs.
    """
    seconds, busy, peaks, results = [], [], [], {}
    for _ in range(repeats):
        with peak_memory(device) as memory:
            begin, busy_before = time.perf_counter(), time.process_time()
            results = call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
            busy.append(time.process_time() - busy_before)
        peaks.append(memory["peak_bytes"])
    figures = {"seconds": min(seconds), "processor seconds": min(busy), "all seconds": seconds}
    return figures | {"MB": max(peaks) / 1e6, "results": results}


def shares_of_stages(call: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Which part of a call's time its stages take, 0..1.

    Args:
        call: what to profile.
        device: where it works.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as recorded:
        begin = time.perf_counter()
        call()
        total = time.perf_counter() - begin
    spent = {
        event.key: (event.device_time_total if device.type == "cuda" else event.cpu_time_total) / 1e6
        for event in recorded.key_averages()
    }
    shares = {stage: spent.get(operator, 0.0) / total for stage, operator in STAGES.items()}
    return shares | {"rest": 1 - sum(shares.values())}


def compare(
    ours: Callable[[], Figures], distances: Callable[[], np.ndarray], ids: Ids, args: argparse.Namespace
) -> Figures:
    """Our way and the usual one on the same input.

    Args:
        ours: evaluates.
        distances: makes the matrix that the usual way sorts.
        ids: of both sides.
        args: command line.
    """
    host = torch.device("cpu")  # where rows are sorted, whoever made them
    ours()  # loads what is loaded once
    figures = {
        "ours": measured(ours, torch.device(args.device), args.repeats),
        "default sort": measured(lambda: evaluate_by_sorting(distances(), ids), host),
        "stable sort": measured(lambda: evaluate_by_sorting(distances(), ids, "stable"), host),
    }
    for way, ran in figures.items():
        found = figures["ours"]["results"]
        ran["times as long"] = ran["seconds"] / figures["ours"]["seconds"]
        ran["largest difference"] = max(abs(found[name] - value) for name, value in ran["results"].items())
        if way == "stable sort" and ran["largest difference"] > 1e-9:
            raise SystemExit(
                f"bench_eval.py: results differ by {ran['largest difference']} between counting and sorting"
            )
    return figures


def from_distances(query: Tensor, gallery: Tensor, ids: Ids, args: argparse.Namespace) -> Figures:
    """Both ways on a matrix that is there already.

    Args:
        query: [Q, D]
        gallery: [G, D]
        ids: of both sides.
        args: command line.
    """
    distance = whole_matrix(query, gallery)
    on_host = distance.cpu().numpy()
    return compare(lambda: summarize(rank_queries(distance, *ids)), lambda: on_host, ids, args)


def from_features(query: Tensor, gallery: Tensor, ids: Ids, args: argparse.Namespace) -> tuple[Figures, Figures]:
    """Both ways on features, and what our way spends its time on.

    Args:
        query: [Q, D]
        gallery: [G, D]
        ids: of both sides.
        args: command line.
    """

    def ours() -> Figures:
        return evaluate_features(query, gallery, *ids)

    figures = compare(ours, lambda: whole_matrix(query, gallery).cpu().numpy(), ids, args)
    return figures, shares_of_stages(ours, query.device)


def table(title: str, figures: Figures) -> str:
    """What was compared, as text.

    Args:
        title: of the first column.
        figures: from `compare`.
    """
    names = ["seconds", "processor seconds", "times as long", "MB", "largest difference"]
    body = [[way, *(ran[name] for name in names), ran["results"]["mAP"]] for way, ran in figures.items()]
    formats = ("", ".3f", ".3f", ".1f", ".0f", ".1e", ".4f")
    return tabulate(body, [title, *names, "mAP"], tablefmt="github", floatfmt=formats)


def main() -> None:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=at_least(1), default=2048)
    parser.add_argument("--noise", type=float, default=3.3, help="of the features; more: lower mAP")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=at_least(1), default=5, help="of our way; the fastest counts")
    parser.add_argument("--threads", type=at_least(1), default=os.cpu_count(), help="of PyTorch; NumPy sorts with one")
    parser.add_argument("--device", default="cpu", help="cuda: not yet run on a GPU")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    require(args.device)
    torch.set_num_threads(args.threads)
    ids = make_ids(args.seed)
    sides = [rows.to(args.device) for rows in make_features(ids, args.dim, args.noise, args.seed)]
    results: Figures = {"command": sys.argv, "hardware": hardware(args.device), "load average": os.getloadavg()[0]}
    results["from distances"] = from_distances(*sides, ids, args)
    print(table(f"{QUERIES} x {GALLERY} distances", results["from distances"]), flush=True)
    results["from features"], results["shares of our way from features"] = from_features(*sides, ids, args)
    print(table(f"features, D = {args.dim}", results["from features"]), flush=True)
    shares = results["shares of our way from features"].items()
    print(tabulate(shares, ["stage of our way", "share"], tablefmt="github", floatfmt=".3f"))
    if args.json:
        with atomic(args.json) as unfinished:
            unfinished.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
