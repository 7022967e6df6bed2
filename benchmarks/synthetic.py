#!/usr/bin/env python
"""The synthetic benchmark: how much of the gap MLT closes on domains nobody tuned on, and what its parts are worth.

Renders two domains for each pair of people and camera seeds, measures the table of tools/measure_gap.py, and the same
for each changed recipe (all from one Stage I); on the first pair also rows looked into and more training seeds. Writes
benchmarks/results/synthetic.json and, with synthetic_tables.py, the tables of benchmarks/synthetic.md.

    python benchmarks/synthetic.py --seeds 11/4 12/5 13/6 --jobs 2
    python benchmarks/synthetic.py --rows "lambda 5" "learning rate 0.001"   # the other rows stay as they are

What has run already is in the work folder and not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from arguments import at_least
from hardware import commit
from synthetic_tables import FULL, in_short, write_page

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parent / "tools"
CONFIGS = HERE.parent / "configs" / "MLT"
SIZES = ["--ids", "100", "--test-ids", "60", "--distractors", "100", "--junk", "40", "--jobs", "1"]
COMMON = ["PSEUDO_LABELS.NUM_CLUSTERS", "(75,100,125)", "SOLVER.ITERS_PER_EPOCH", "40"]
FAITHFUL = "faithful heads and schedule"
ROWS: dict[str, list[str]] = {
    "without label transport": ["LABEL_TRANSPORT.ENABLED", "False"],
    "single group (K = 100)": ["PSEUDO_LABELS.NUM_CLUSTERS", "(100,)", "PSEUDO_LABELS.GROUP", "0"],
    "without memory losses": ["MEMORY.NAME", ""],
    "without teacher": ["MEAN_TEACHER.ENABLED", "False"],
    "without camera centring": ["PSEUDO_LABELS.CAMERA_CENTERING", "False"],
    "one clustering only": ["PSEUDO_LABELS.ROUNDS", "1"],
    FAITHFUL: [],
}
LOOKED_INTO: dict[str, list[str]] = {  # on the first pair of domains
    "one clustering and no transport": ["PSEUDO_LABELS.ROUNDS", "1", "LABEL_TRANSPORT.ENABLED", "False"],
    "all K 30 % too low (52, 70, 88)": ["PSEUDO_LABELS.NUM_CLUSTERS", "(52,70,88)"],
    "all K 30 % too high (98, 130, 162)": ["PSEUDO_LABELS.NUM_CLUSTERS", "(98,130,162)"],
    "K further apart (50, 100, 200)": ["PSEUDO_LABELS.NUM_CLUSTERS", "(50,100,200)"],
    "lambda 5": ["LABEL_TRANSPORT.LAMBDA", "5.0"],
    "learning rate 0.001": ["SOLVER.BASE_LR", "0.001"],
}
TRAINING_SEEDS = (0, 1, 2)  # on the first pair of domains; 0 is the main run


def run(tool: Path, *words: str, log: Path) -> None:
    """Run one of the project's tools with one thread, its output in a file.

    Args:
        tool: script.
        *words: its arguments.
        log: file for what it prints.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        command = [sys.executable, str(tool), *words]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT, env=env)


def domains(work: Path, people: int, cameras: int) -> list[str]:
    """Render both domains of a pair of seeds; KEY VALUE words that use them.

    Args:
        work: folder of this pair.
        people: people seed.
        cameras: camera seed.
    """
    seeds = ["--seed", str(people), "--camera-seed", str(cameras)]
    for domain in ("campus", "station"):
        run(TOOLS / "make_synthetic.py", str(work), "--domain", domain, *seeds, *SIZES, log=work / f"{domain}.log")
    source, target = (f"('Market1501@{work}/{domain}',)" for domain in ("campus", "station"))
    return ["DATASETS.NAMES", source, "DATASETS.TARGETS", target, "DATASETS.TESTS", target]


def floor(work: Path) -> dict[str, float]:
    """What no learning gives on the target, see floors.py.

    Args:
        work: folder of this pair of seeds.
    """
    run(HERE / "floors.py", f"Market1501@{work}/station", log=work / "floors.json")
    return json.loads((work / "floors.json").read_text().splitlines()[-1])


def measure_gap(work: Path, name: str, config: Path, words: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """The numbers of tools/measure_gap.py, and the folder of the adaptation's run.

    Args:
        work: folder of this pair of seeds.
        name: what is measured.
        config: Stage II config.
        words: KEY VALUE words over it.
    """
    runs, stem = work / "runs", "".join(c if c.isalnum() else "-" for c in name)
    found = work / "rows" / f"{stem}.json"
    found.parent.mkdir(parents=True, exist_ok=True)
    flags = ["--config-file", str(config), "--json", str(found)]
    run(TOOLS / "measure_gap.py", *flags, "OUTPUT_DIR", str(runs), *words, log=found.with_suffix(".log"))
    measured = json.loads(found.read_text())
    return measured, runs / measured.pop("runs")["adapted"]


def gap(work: Path, data: Sequence[str], name: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """The numbers of tools/measure_gap.py, and the ARI of each epoch's labels.

    Args:
        work: folder of this pair of seeds.
        data: words that name the sets.
        name: what is measured: FULL, FAITHFUL or any other name.
        words: KEY VALUE words that make it so.
    """
    config = CONFIGS / ("synthetic-faithful.yml" if name == FAITHFUL else "synthetic.yml")
    measured, adapted = measure_gap(work, name, config, [*data, *COMMON, *words])
    lines = map(json.loads, (adapted / "metrics.json").read_text().splitlines())
    return measured | {"ARI of each epoch": [line["labels/ARI"] for line in lines if "labels/ARI" in line]}


def measure(work: Path, seeds: Sequence[tuple[int, int]], rows: Collection[str], jobs: int) -> dict[str, Any]:
    """The tables, and the rows that are asked for, `jobs` runs at a time.

    Args:
        work: folder of all runs.
        seeds: (people, cameras) pairs.
        rows: keys of ROWS and LOOKED_INTO.
        jobs: runs at a time, one thread each.
    """
    on = machine()
    folders = [work / f"people{p}-cameras{c}" for p, c in seeds]
    with ThreadPoolExecutor(jobs) as pool:
        data = list(pool.map(lambda job: domains(job[0], *job[1]), zip(folders, seeds, strict=True)))
        floors = list(pool.map(floor, folders))
        tables = list(pool.map(lambda job: gap(*job, FULL), zip(folders, data, strict=True)))  # all else starts there
        pairs = list(zip(folders, data, strict=True))
        changed = {name: [pool.submit(gap, *pair, name, ROWS[name]) for pair in pairs] for name in ROWS if name in rows}
        looked = {name: pool.submit(gap, *pairs[0], name, LOOKED_INTO[name]) for name in LOOKED_INTO if name in rows}
        spread = {
            s: pool.submit(gap, *pairs[0], f"training seed {s}" if s else FULL, ["SEED", str(s)])
            for s in TRAINING_SEEDS
        }
        ablations = {
            name: {"machine": on, "pairs": [in_short(job.result()) for job in jobs]} for name, jobs in changed.items()
        }
    return {
        "machine": on,
        "seeds": seeds,
        "tables": tables,
        "floors": floors,
        "training_seeds": {str(seed): in_short(job.result()) for seed, job in spread.items()},
        "ablations": ablations,
        "looked_into": {name: {"machine": on} | in_short(job.result()) for name, job in looked.items()},
    }


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    cores = f"{os.cpu_count()} CPU cores, one thread a run"
    return {"hardware": cores, "torch": torch.__version__, "python": platform.python_version(), "commit": commit()}


def keep_other_rows(measured: dict[str, Any], path: Path) -> None:
    """Take over the rows of an earlier measurement that were not measured now, in the order of ROWS and LOOKED_INTO.

    Args:
        measured: what `measure` returned; changed in place.
        path: file of the earlier one; it may be missing.
    """
    earlier = json.loads(path.read_text()) if path.exists() else {}
    if earlier.get("seeds") == [list(pair) for pair in measured["seeds"]]:
        for kind, order in (("ablations", ROWS), ("looked_into", LOOKED_INTO)):
            rows = earlier.get(kind, {}) | measured[kind]
            measured[kind] = {name: rows[name] for name in order if name in rows}


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", default=["11/4", "12/5", "13/6"], help="PEOPLE/CAMERAS pairs")
    known = [*ROWS, *LOOKED_INTO]
    parser.add_argument("--rows", nargs="*", default=known, choices=known, metavar="ROW", help="default: all")
    parser.add_argument("--work", type=Path, default=Path("logs/benchmark-synthetic"), help="folder of all runs")
    parser.add_argument("--jobs", type=at_least(1), default=2, help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "synthetic.json")
    return parser


def main() -> None:
    """Parse, measure, write."""
    args = argument_parser().parse_args()
    seeds = [(int(p), int(c)) for p, c in (pair.split("/") for pair in args.seeds)]
    args.output = args.output.resolve()
    measured = measure(args.work.resolve(), seeds, args.rows, args.jobs)
    keep_other_rows(measured, args.output)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(measured, indent=1) + "\n")
    write_page(args.output)


if __name__ == "__main__":
    main()
