#!/usr/bin/env python
"""The synthetic benchmark: how much of the gap MLT closes on domains nobody tuned on, and what its parts are worth.

Renders two domains for each pair of people and camera seeds, measures the table of tools/measure_gap.py, then trains
each ablation from the same Stage I, and writes benchmarks/results/synthetic.json and benchmarks/synthetic.md.

    python benchmarks/synthetic.py --seeds 11/4 12/5 13/6 --jobs 2

What has run already is kept in the work folder and not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from tabulate import tabulate

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parent / "tools"
CONFIGS = HERE.parent / "configs"
SIZES = ["--ids", "100", "--test-ids", "60", "--distractors", "100", "--junk", "40", "--jobs", "1"]
CLUSTERS = ["PSEUDO_LABELS.NUM_CLUSTERS", "(75,100,125)", "SOLVER.ITERS_PER_EPOCH", "40"]
ABLATIONS: dict[str, list[str]] = {
    "without label transport": ["LABEL_TRANSPORT.ENABLED", "False"],
    "single group (K = 100)": ["PSEUDO_LABELS.NUM_CLUSTERS", "(100,)", "PSEUDO_LABELS.GROUP", "0"],
    "without memory losses": ["MEMORY.NAME", ""],
    "without teacher": ["MEAN_TEACHER.ENABLED", "False"],
    "without camera centring": ["PSEUDO_LABELS.CAMERA_CENTERING", "False"],
    "one clustering only": ["PSEUDO_LABELS.ROUNDS", "1"],
    "one clustering and no transport": ["PSEUDO_LABELS.ROUNDS", "1", "LABEL_TRANSPORT.ENABLED", "False"],
}
FAITHFUL = "faithful heads and schedule"
FULL = "MLT, as configured"


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


def main_table(work: Path, data: Sequence[str]) -> dict[str, Any]:
    """The table of tools/measure_gap.py.

    Args:
        work: folder of this pair of seeds.
        data: words that name the sets.
    """
    found = work / "runs" / "gap.json"
    if not found.exists():
        configs = ["--config-file", str(CONFIGS / "MLT/synthetic.yml")]
        configs += ["--oracle", str(CONFIGS / "Pretrain/synthetic-oracle.yml"), "--output", str(work / "runs")]
        run(TOOLS / "measure_gap.py", *configs, *data, *CLUSTERS, log=work / "main.log")
    return json.loads(found.read_text())


def floor(work: Path) -> dict[str, float]:
    """What no learning gives on the target, see floors.py.

    Args:
        work: folder of this pair of seeds.
    """
    run(HERE / "floors.py", f"Market1501@{work}/station", log=work / "floors.json")
    return json.loads((work / "floors.json").read_text().splitlines()[-1])


def ablation(work: Path, data: Sequence[str], name: str) -> dict[str, float]:
    """Teacher (or student, without one) of a changed run from the main run's Stage I.

    Args:
        work: folder of this pair of seeds.
        data: words that name the sets.
        name: key of ABLATIONS, or FAITHFUL.
    """
    out = work / "ablations" / name.split(" (")[0].replace(" ", "-").replace(",", "")
    if not (out / "model_final.pth").exists():
        config = CONFIGS / ("MLT/synthetic-faithful.yml" if name == FAITHFUL else "MLT/synthetic.yml")
        stage_one = next((work / "runs" / "adapted" / "pretrain").glob("*/model_best.pth"))
        words = ["--config-file", str(config), "--resume", *data, *CLUSTERS, "PRETRAIN.WEIGHTS", str(stage_one)]
        words += ["OUTPUT_DIR", str(out), *ABLATIONS.get(name, [])]
        run(TOOLS / "train_net.py", *words, log=out.with_suffix(".log"))
    results = json.loads((out / "results.json").read_text())
    nets = next(iter(results["last"]["results"].values()))
    best = "teacher" if "teacher" in nets else "student"
    return {"mAP": nets[best]["mAP"], "centred": nets[f"{best} centred"]["mAP"], "ARI": results["labels"]["ARI"]}


def measure(work: Path, seeds: Sequence[tuple[int, int]], jobs: int) -> dict[str, Any]:
    """Everything, `jobs` runs at a time.

    Args:
        work: folder of all runs.
        seeds: (people, cameras) pairs.
        jobs: runs at a time, one thread each.
    """
    folders = [work / f"people{p}-cameras{c}" for p, c in seeds]
    with ThreadPoolExecutor(jobs) as pool:
        data = list(pool.map(lambda job: domains(job[0], *job[1]), zip(folders, seeds, strict=True)))
        floors = list(pool.map(floor, folders))
        tables = list(pool.map(main_table, folders, data))
        names = [*ABLATIONS, FAITHFUL]
        todo = [(folder, words, name) for name in names for folder, words in zip(folders, data, strict=True)]
        done = list(pool.map(lambda job: ablation(*job), todo))
    rows = {name: done[i * len(seeds) : (i + 1) * len(seeds)] for i, name in enumerate(names)}
    return {"seeds": seeds, "tables": tables, "ablations": rows, "floors": floors, "machine": machine()}


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    import torch

    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    cores = f"{os.cpu_count()} CPU cores, one thread a run"
    return {"hardware": cores, "torch": torch.__version__, "python": platform.python_version(), "commit": commit}


def page(measured: dict[str, Any]) -> str:
    """The Markdown tables of benchmarks/synthetic.md.

    Args:
        measured: what `measure` returned.
    """
    tables = measured["tables"]
    heads = [f"people {p}, cameras {c}" for p, c in measured["seeds"]]
    names = list(tables[0]["rows"])

    def cells(values: list[float]) -> list[str]:
        return [f"{v:.1f}" for v in values] + [f"**{mean(values):.1f}**"]

    main = [
        [f"{name}, {kind}", *cells([t["rows"][name][kind]["mAP"] for t in tables])]
        for name in names
        for kind in ("plain", "centred")
    ]
    main += [[name, *cells([f[name] for f in measured["floors"]])] for name in measured["floors"][0]]
    for label, values in (
        ("gap closed (teacher, plain)", [t["gap_closed"] for t in tables]),
        ("final label ARI", [t["labels"]["ARI"] for t in tables]),
        ("final label NMI", [t["labels"]["NMI"] for t in tables]),
    ):
        main.append([label, *(f"{v:.2f}" for v in values), f"**{mean(values):.2f}**"])
    full = [
        {"mAP": t["rows"]["MLT teacher"]["plain"]["mAP"], "centred": t["rows"]["MLT teacher"]["centred"]["mAP"],
         "ARI": t["labels"]["ARI"]} for t in tables
    ]  # fmt: skip
    parts = [
        [name, *cells([r["mAP"] for r in rows]), f"{mean(r['centred'] for r in rows):.1f}",
         f"{mean(r['ARI'] for r in rows):.2f}"] for name, rows in ({FULL: full} | measured["ablations"]).items()
    ]  # fmt: skip
    about = ", ".join(f"{key} {value}" for key, value in measured["machine"].items())
    return "\n".join([
        f"Measured on: {about}.", "", "mAP in percent:", "",
        tabulate(main, ["", *heads, "mean"], tablefmt="pipe", disable_numparse=True), "",
        "What the parts are worth, mAP of the evaluated net:", "",
        tabulate(parts, ["", *heads, "mean", "mean, centred", "mean ARI"], tablefmt="pipe", disable_numparse=True), "",
    ])  # fmt: skip


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", default=["11/4", "12/5", "13/6"], help="PEOPLE/CAMERAS pairs")
    parser.add_argument("--work", type=Path, default=Path("logs/benchmark-synthetic"), help="folder of all runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "synthetic.json")
    args = parser.parse_args()
    seeds = [(int(p), int(c)) for p, c in (pair.split("/") for pair in args.seeds)]
    measured = measure(args.work.resolve(), seeds, args.jobs)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(measured, indent=1) + "\n")
    print(page(measured))


if __name__ == "__main__":
    main()
