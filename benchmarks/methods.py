#!/usr/bin/env python
"""All methods on the synthetic benchmark: one Stage I, one budget, three pairs of seeds.

Renders the domains of synthetic.py, measures each method's config with tools/measure_gap.py, and writes
benchmarks/results/methods.json and the tables of benchmarks/methods.md. What has run already is in the work folder and
not run again.

    python benchmarks/methods.py --seeds 11/4 12/5 13/6 --jobs 2
    python benchmarks/methods.py --methods SpCL UNRN            # the other methods' rows stay as they are
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from arguments import at_least
from methods_tables import write_page
from synthetic import CONFIGS, HERE, domains, machine, measure_gap

import mlt.components  # noqa: F401  fills the registries
from mlt.config import get_cfg
from mlt.data.build import build_test_loader
from mlt.engine.extract import extract
from mlt.engine.trainer import Trainer

K_MEANS = ["PSEUDO_LABELS.NUM_CLUSTERS", "(100,)"]  # the rendered identities
METHODS: dict[str, tuple[str, list[str]]] = {
    "strong baseline, K-Means": ("Baseline/synthetic-kmeans.yml", K_MEANS),
    "strong baseline, DBSCAN": ("Baseline/synthetic.yml", []),
    "SpCL": ("SpCL/synthetic.yml", []),
    "ClusterContrast": ("ClusterContrast/synthetic.yml", []),
    "MMT, K-Means": ("MMT/synthetic.yml", K_MEANS),
    "MMT, DBSCAN": ("MMT/synthetic-dbscan.yml", []),
    "MMT+": ("MMT/synthetic-plus.yml", []),
    "UNRN": ("UNRN/synthetic.yml", []),
    "MLT, K-Means": ("MLT/synthetic.yml", ["PSEUDO_LABELS.NUM_CLUSTERS", "(75,100,125)"]),
    "MLT, DBSCAN": ("MLT/synthetic-dbscan.yml", []),
    "MLT, DBSCAN, no transport": ("MLT/synthetic-dbscan.yml", ["LABEL_TRANSPORT.ENABLED", "False"]),
}
BUDGET = ["SOLVER.ITERS_PER_EPOCH", "40"]
TRACES = ("labels/ARI", "labels/kept", "labels/clusters", "labels/outliers")


def method(work: Path, data: Sequence[str], name: str) -> dict[str, Any]:
    """The numbers of tools/measure_gap.py, what the log has of the labels epoch by epoch, and the time of the run.

    Args:
        work: folder of this pair of seeds.
        data: words that name the sets.
        name: key of METHODS.
    """
    config, words = METHODS[name]
    measured, run = measure_gap(work, name, CONFIGS.parent / config, [*data, *BUDGET, *words])
    seconds = (run / "model_final.pth").stat().st_mtime - (run / "recipe.yaml").stat().st_mtime
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    traces = {trace: [line[trace] for line in lines if trace in line] for trace in TRACES}
    if config.startswith("UNRN"):
        traces |= weights_of_labels(run)
    return measured | {"seconds": seconds, "traces": {trace: values for trace, values in traces.items() if values}}


def weights_of_labels(run: Path) -> dict[str, list[float]]:
    """UNRN's mean weight of target images whose cluster is mostly of their identity, and of the others, at the end.

    Args:
        run: folder of a finished run.
    """
    cfg = get_cfg()
    cfg.merge_from_file(str(run / "config.yaml"))
    cfg.freeze()
    trainer = Trainer(cfg)
    trainer.resume()
    model = trainer.model.eval()
    weights = extract(
        lambda images: model.row_weights(images)[:, None],
        build_test_loader(cfg, trainer.target),
        len(trainer.target),
        model.device,
    ).squeeze(1)
    labels, pids = trainer.hooks["PseudoLabelHook"].labels.targets, trainer.target_ids()[1]
    counts = torch.zeros(int(labels.max()) + 1, int(pids.max()) + 1)
    inlier = labels >= 0
    counts.index_put_((labels[inlier], pids[inlier]), torch.ones(()), accumulate=True)
    right = counts.argmax(1)[labels.clamp(min=0)] == pids
    return {
        "weight of right labels": [float(weights[inlier & right].mean())],
        "weight of wrong labels": [float(weights[inlier & ~right].mean())],
    }


def measure(work: Path, seeds: Sequence[tuple[int, int]], names: Sequence[str], jobs: int) -> dict[str, Any]:
    """Methods on all pairs of seeds, `jobs` runs at a time.

    Args:
        work: folder of all runs.
        seeds: (people, cameras) pairs.
        names: keys of METHODS.
        jobs: runs at a time, one thread each.
    """
    folders = [work / f"people{p}-cameras{c}" for p, c in seeds]
    with ThreadPoolExecutor(jobs) as pool:
        data = list(pool.map(lambda job: domains(job[0], *job[1]), zip(folders, seeds, strict=True)))
        # one pair after the other may share Stage I: two runs at a time would train it twice
        rows = {names[0]: list(pool.map(lambda job: method(*job, names[0]), zip(folders, data, strict=True)))}
        started = {
            name: [pool.submit(method, *job, name) for job in zip(folders, data, strict=True)] for name in names[1:]
        }
        rows |= {name: [job.result() for job in each] for name, each in started.items()}
    return {"machine": machine(), "seeds": seeds, "methods": rows}


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", default=["11/4", "12/5", "13/6"], help="PEOPLE/CAMERAS pairs")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--work", type=Path, default=Path("logs/benchmark-synthetic"), help="folder of all runs")
    parser.add_argument("--jobs", type=at_least(1), default=2, help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "methods.json")
    return parser


def main() -> None:
    """Parse, measure, write."""
    args = argument_parser().parse_args()
    seeds = [(int(p), int(c)) for p, c in (pair.split("/") for pair in args.seeds)]
    measured = measure(args.work.resolve(), seeds, args.methods, args.jobs)
    earlier = json.loads(args.output.read_text()) if args.output.exists() else {}
    if earlier.get("seeds") == [list(pair) for pair in seeds]:
        rows = earlier["methods"] | measured["methods"]
        measured["methods"] = {name: rows[name] for name in METHODS if name in rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(measured, indent=1) + "\n")
    write_page(args.output)


if __name__ == "__main__":
    main()
