#!/usr/bin/env python
"""How much of the gap between no adaptation and full supervision does a method close?

Runs `tools/train_net.py` for a Stage II config and what it is compared with, and prints one table: direct transfer,
AdaBN (target BN statistics, no training), student and teacher, and the oracle (Stage I fine-tuned with the target's
labels). The target needs labelled training images and a test split. What is there already is not run again.

    python tools/measure_gap.py --config-file configs/MLT/synthetic.yml --oracle configs/Pretrain/synthetic-oracle.yml
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from tabulate import tabulate

from mlt.config import CfgNode, get_cfg

TRAIN_NET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train_net.py")
Row = dict[str, dict[str, float]]  # "plain" or "centred" -> metrics


def train_net(config_file: str, output_dir: str, *words: str) -> None:
    """Run tools/train_net.py and fail when it does.

    Args:
        config_file: config.
        output_dir: OUTPUT_DIR.
        *words: further flags and KEY VALUE pairs.
    """
    flags = [w for w in words if w.startswith("--")]
    pairs = [w for w in words if not w.startswith("--")]
    command = [sys.executable, TRAIN_NET, "--config-file", config_file, *flags, "OUTPUT_DIR", output_dir, *pairs]
    subprocess.run(command, check=True)


def evaluation(config_file: str, output_dir: str, *words: str) -> dict[str, Row]:
    """Rows of an --eval-only run, from its file when it has run before.

    Args:
        config_file: config.
        output_dir: OUTPUT_DIR of the evaluation.
        *words: KEY VALUE pairs.
    """
    path = os.path.join(output_dir, "evaluation.json")
    if not os.path.exists(path):
        train_net(config_file, output_dir, "--eval-only", *words)
    return rows(read_json(path))


def rows(results: dict[str, dict[str, dict[str, float]]]) -> dict[str, Row]:
    """Net -> plain and centred metrics of the last-named test set.

    Args:
        results: set -> net (or "net centred") -> metrics.
    """
    nets = list(results.values())[-1]
    names = [name for name in nets if not name.endswith(" centred")]
    return {name: {"plain": nets[name], "centred": nets.get(f"{name} centred", {})} for name in names}


def read_json(path: str) -> dict[str, Any]:
    """A JSON file.

    Args:
        path: its name.
    """
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def measure(config_file: str, oracle_file: str, out: str, words: list[str]) -> dict[str, Any]:
    """Train and evaluate everything the table needs.

    Args:
        config_file: Stage II config.
        oracle_file: config of the fine-tuning with target labels.
        out: folder of all runs.
        words: KEY VALUE pairs for every run.

    Returns:
        "rows" by name, "labels" (last quality), "gap_closed" of the teacher, plain.
    """
    adapted = os.path.join(out, "adapted")
    train_net(config_file, adapted, "--resume", *words)
    cfg = get_cfg()
    cfg.merge_from_file(os.path.join(adapted, "config.yaml"))
    source_model = ["MODEL.WEIGHTS", cfg.PRETRAIN.WEIGHTS[0]]
    tests = ["DATASETS.TESTS", str(cfg.DATASETS.TESTS), "DATASETS.TARGETS", str(cfg.DATASETS.TARGETS)]
    shared = [*words, *tests, *source_model]
    table: dict[str, Row] = {}
    table["direct transfer"] = _only(evaluation(oracle_file, os.path.join(out, "direct"), *shared))
    table["AdaBN"] = _only(evaluation(oracle_file, os.path.join(out, "adabn"), *shared, "TEST.ADAPT_BN", "True"))
    results = read_json(os.path.join(adapted, "results.json"))
    table |= {f"MLT {net}": row for net, row in rows(results["last"]["results"]).items()}
    oracle = os.path.join(out, "oracle")
    no_target = ["DATASETS.NAMES", str(cfg.DATASETS.TARGETS), "DATASETS.TARGETS", "()"]
    train_net(oracle_file, oracle, "--resume", *shared, *no_target)
    table["oracle"] = _only(rows(read_json(os.path.join(oracle, "results.json"))["last"]["results"]))
    direct, teacher, best = (table[n]["plain"]["mAP"] for n in ("direct transfer", list(table)[-2], "oracle"))
    return {"rows": table, "labels": results["labels"], "gap_closed": (teacher - direct) / (best - direct)}


def _only(nets: dict[str, Row]) -> Row:
    return next(iter(nets.values()))


def show(measured: dict[str, Any]) -> str:
    """The table as text.

    Args:
        measured: what `measure` returned.
    """
    head = ["", "mAP", "Rank-1", "mAP, cameras centred", "Rank-1, cameras centred"]
    body = [
        [name, *(row[kind].get(metric) for kind in ("plain", "centred") for metric in ("mAP", "Rank-1"))]
        for name, row in measured["rows"].items()
    ]
    labels = {k.removeprefix("labels/"): v for k, v in measured["labels"].items()}
    return "\n".join([
        tabulate(body, head, tablefmt="pipe", floatfmt=".1f"),
        "",
        f"gap closed, (teacher - direct) / (oracle - direct): {measured['gap_closed']:.2f}",
        f"final labels: ARI {labels['ARI']:.3f}, NMI {labels['NMI']:.3f}",
    ])  # fmt: skip


def main() -> None:
    """Parse, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="Stage II config")
    parser.add_argument("--oracle", required=True, help="config that fine-tunes Stage I with labels")
    parser.add_argument("--output", default="", help="folder of all runs; default: OUTPUT_DIR of the config")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for every run")
    args = parser.parse_args()
    cfg: CfgNode = get_cfg()
    cfg.merge_from_file(args.config_file)
    out = args.output or cfg.OUTPUT_DIR
    measured = measure(args.config_file, args.oracle, out, args.opts)
    with open(os.path.join(out, "gap.json"), "w", encoding="utf-8") as file:
        json.dump(measured, file, indent=1)
    print(show(measured))


if __name__ == "__main__":
    main()
