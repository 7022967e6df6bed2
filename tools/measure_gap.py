#!/usr/bin/env python
"""How much of the gap between no adaptation and full supervision does a method close?

Runs `tools/train_net.py` for a Stage II config and for what it is compared with, and prints one table: direct transfer
(Stage I as it is), AdaBN (its BN statistics re-estimated on target images), student and teacher, and the oracle, which
is Stage I fine-tuned with the target's labels, by its own recipe with Stage II's augmentation or by --oracle's config.
The target needs labelled training images and a test split.

Each run has a folder named by fingerprints of its resolved config with its weights, and of the images: an unchanged run
is not made again, a changed one is. A changed module of --import shows in neither: choose another OUTPUT_DIR.

    python tools/measure_gap.py --config-file configs/MLT/synthetic.yml --check
    python tools/measure_gap.py --config-file configs/MLT/duke2market.yml --num-gpus 4
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

import mlt.components  # noqa: F401  fills the registries
from mlt.config import CfgNode, with_values
from mlt.config.config import save_cfg
from mlt.data.datasets import read_datasets
from mlt.engine.check import check_run
from mlt.engine.fingerprint import data_fingerprint, fingerprint
from mlt.engine.pretrain import pretrain_config, pretrain_configs
from mlt.engine.run import add_import_flag, load_cfg
from mlt.engine.start import read_train_images
from mlt.modeling.weights import is_backbone_only
from mlt.structures import UNKNOWN, ReidRecord
from mlt.utils.checkpoint import load_checkpoint
from mlt.utils.files import atomic

TRAIN_NET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train_net.py")
DIRECT, ADABN, ORACLE = "direct transfer", "AdaBN", "oracle"
Row = dict[str, dict[str, float]]  # "plain" or "centred" -> metrics


def train_net(*words: str) -> int:
    """Exit code of tools/train_net.py.

    Args:
        *words: its arguments.
    """
    return subprocess.run([sys.executable, TRAIN_NET, *words], check=False).returncode


def run_once(cfg: CfgNode, flags: Sequence[str], *, makes: str) -> str:
    """Path of a file that a run of tools/train_net.py leaves behind; the run is made when the file is not there.

    Args:
        cfg: resolved config with a folder of its own.
        flags: further ones for tools/train_net.py.
        makes: "model_final.pth" for a training, "evaluation.json" for an evaluation of MODEL.WEIGHTS.

    Raises:
        SystemExit: the run failed, and has told why.
    """
    path = os.path.join(cfg.OUTPUT_DIR, makes)
    if os.path.isfile(path):
        print(f"found {cfg.OUTPUT_DIR}", flush=True)
        return path
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    recipe = os.path.join(cfg.OUTPUT_DIR, "recipe.yaml")
    save_cfg(cfg, recipe)
    job = "--eval-only" if makes == "evaluation.json" else "--resume"
    if code := train_net("--config-file", recipe, *flags, job):
        raise SystemExit(code)
    return path


def starting_weights(
    cfg: CfgNode, source: Sequence[ReidRecord], target: Sequence[ReidRecord], flags: Sequence[str]
) -> list[str]:
    """What Stage II starts from: weights that the config names, else Stage I, which is trained when missing.

    Args:
        cfg: Stage II config.
        source: labelled training images.
        target: unlabelled training images.
        flags: see `run_once`.
    """
    if cfg.PRETRAIN.WEIGHTS:
        return list(cfg.PRETRAIN.WEIGHTS)
    if cfg.MODEL.WEIGHTS and not is_backbone_only(load_checkpoint(cfg.MODEL.WEIGHTS)):
        return [cfg.MODEL.WEIGHTS]
    finals = [run_once(one, flags, makes="model_final.pth") for one in pretrain_configs(cfg, source, target)]
    return [os.path.join(os.path.dirname(path), "model_best.pth") for path in finals]


def plan(cfg: CfgNode, starts: Sequence[str], *, oracle_file: str = "", images: str = "") -> dict[str, CfgNode]:
    """The runs of the table but Stage I, "adapted", "direct", "adabn" and "oracle", each with a folder of its own.

    Args:
        cfg: Stage II config; its OUTPUT_DIR is the folder of all runs.
        starts: weights of Stage I, one for each net; the first is evaluated and fine-tuned.
        oracle_file: config of the fine-tuning; "" = Stage I's recipe with Stage II's augmentation.
        images: fingerprint of all images.
    """
    seed = cfg.PRETRAIN.SEEDS[0]
    starting = {"PRETRAIN.WEIGHTS": list(starts), "PRETRAIN.CONFIG_FILE": "", "MODEL.WEIGHTS": ""}
    adapted = with_values(cfg, starting)
    shared = {"MODEL.WEIGHTS": starts[0], "DATASETS.TESTS": cfg.DATASETS.TESTS}
    source = with_values(pretrain_config(cfg, seed), shared | {"DATASETS.TARGETS": cfg.DATASETS.TARGETS})
    recipe = with_values(cfg, {"PRETRAIN.CONFIG_FILE": oracle_file or cfg.PRETRAIN.CONFIG_FILE})
    labelled = {"DATASETS.NAMES": cfg.DATASETS.TARGETS, "DATASETS.TARGETS": ()}
    oracle = with_values(pretrain_config(recipe, seed), shared | labelled)
    if not oracle_file:
        oracle.defrost()
        oracle.INPUT = cfg.INPUT.clone()
        oracle.freeze()
    runs = {
        "adapted": adapted,
        "direct": source,
        "adabn": with_values(source, {"TEST.ADAPT_BN": True}),
        "oracle": oracle,
    }
    for name, run in runs.items():
        folder = "-".join(part for part in (name, fingerprint(run), images) if part)
        runs[name] = with_values(run, {"OUTPUT_DIR": os.path.join(cfg.OUTPUT_DIR, folder)})
    return runs


def rows(results: dict[str, dict[str, dict[str, float]]]) -> dict[str, Row]:
    """Net -> plain and centred metrics on the first test set, the one that chooses the best epoch.

    Args:
        results: set -> net (or "net centred") -> metrics.
    """
    nets = next(iter(results.values()))
    names = [name for name in nets if not name.endswith(" centred")]
    return {name: {"plain": nets[name], "centred": nets.get(f"{name} centred", {})} for name in names}


def read_json(path: str) -> dict[str, Any]:
    """A JSON file.

    Args:
        path: its name.
    """
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_images(cfg: CfgNode) -> tuple[Sequence[ReidRecord], Sequence[ReidRecord], str]:
    """Source, target, and the fingerprint of all images; what cannot be measured is refused before hours of training.

    Args:
        cfg: Stage II config.

    Raises:
        ValueError: no Stage I config, no test split, a target without identities, or a config that cannot be trained.
    """
    if not cfg.PRETRAIN.CONFIG_FILE:
        raise ValueError("PRETRAIN.CONFIG_FILE is empty, but it is Stage I that the method is compared with")
    source, target = read_train_images(cfg)
    tests = read_datasets(cfg, cfg.DATASETS.TESTS)
    if not any(data.has_test for data in tests[:1]):
        raise ValueError(f"the first set of DATASETS.TESTS {tuple(cfg.DATASETS.TESTS)} has no query and gallery")
    if any(record.pid == UNKNOWN for record in target):
        raise ValueError(
            f"DATASETS.TARGETS {tuple(cfg.DATASETS.TARGETS)} has training images without identity: the oracle needs "
            "all of them. Adapt with tools/train_net.py instead."
        )
    check_run(cfg, source, target)
    tested = [record for data in tests for record in (*data.query, *data.gallery)]
    return source, target, data_fingerprint([*source, *target, *tested], ())


def measure(cfg: CfgNode, *, oracle_file: str = "", flags: Sequence[str] = ()) -> dict[str, Any]:
    """Train and evaluate everything the table needs.

    Args:
        cfg: Stage II config; its OUTPUT_DIR is the folder of all runs.
        oracle_file: see `plan`.
        flags: see `run_once`.

    Returns:
        "rows" by name, "evaluated" (the name of the method's own row), "labels" (last quality), "gap_closed" of that
        row, plain (None where the oracle is no better than direct transfer), and "runs", the folder of each.
    """
    source, target, images = read_images(cfg)
    starts = starting_weights(cfg, source, target, flags)
    runs = plan(cfg, starts, oracle_file=oracle_file, images=images)
    for name, run in runs.items():
        makes = "evaluation.json" if name in ("direct", "adabn") else "model_final.pth"
        run_once(run, flags, makes=makes)
    direct, adabn = (rows(read_json(os.path.join(runs[n].OUTPUT_DIR, "evaluation.json"))) for n in ("direct", "adabn"))
    adapted, oracle = (read_json(os.path.join(runs[n].OUTPUT_DIR, "results.json")) for n in ("adapted", "oracle"))
    method = "".join(letter for letter in cfg.MODEL.META_ARCHITECTURE if letter.isupper())
    nets = {f"{method} {net}": row for net, row in rows(adapted["last"]["results"]).items()}
    best = next(name for name in (f"{method} teacher", f"{method} student") if name in nets)
    table = {DIRECT: direct["student"], ADABN: adabn["student"], **nets}
    table[ORACLE] = rows(oracle["last"]["results"])["student"]
    low, found, high = (table[name]["plain"]["mAP"] for name in (DIRECT, best, ORACLE))
    gap = (found - low) / (high - low) if high > low else None
    folders = {name: os.path.basename(run.OUTPUT_DIR) for name, run in runs.items()}
    return {"rows": table, "evaluated": best, "labels": adapted["labels"], "gap_closed": gap, "runs": folders}


def shortfalls(measured: dict[str, Any]) -> list[str]:
    """What --check demands and the measurement does not show; what was not measured counts as missing.

    Args:
        measured: what `measure` returned.
    """

    def lead(kind: str) -> float:
        table, name = measured["rows"], measured["evaluated"]
        return table[name][kind].get("mAP", math.nan) - table[ADABN][kind].get("mAP", math.nan)

    gap = math.nan if measured["gap_closed"] is None else measured["gap_closed"]
    demands = (
        (f"mAP of {measured['evaluated']} above {ADABN}", lead("plain"), 10.0),
        ("the same with cameras centred", lead("centred"), 5.0),
        ("gap closed", gap, 0.5),
        ("ARI of the final labels", measured["labels"].get("ARI", math.nan), 0.6),
    )
    return [f"{what}: {value:.2f}, wanted >= {least:g}" for what, value, least in demands if not value >= least]


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
    gap = "none: the oracle is no better" if measured["gap_closed"] is None else f"{measured['gap_closed']:.2f}"
    net, labels = measured["evaluated"].split()[-1], measured["labels"]
    return "\n".join([
        tabulate(body, head, tablefmt="pipe", floatfmt=".1f"),
        "",
        f"gap closed, ({net} - direct) / (oracle - direct): {gap}",
        f"final labels: ARI {labels['ARI']:.3f}, NMI {labels['NMI']:.3f}",
    ])  # fmt: skip


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", metavar="FILE", required=True, help="Stage II config")
    parser.add_argument("--oracle", metavar="FILE", default="", help="config that fine-tunes Stage I with labels")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes of each run")
    parser.add_argument("--json", metavar="FILE", default="", help="the numbers; default: OUTPUT_DIR/gap.json")
    parser.add_argument("--check", action="store_true", help="exit code 1 when the method does not keep its promises")
    add_import_flag(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs over the Stage II config")
    return parser


def main() -> None:
    """Parse, measure, print, keep, check."""
    args = argument_parser().parse_args()
    try:
        cfg = load_cfg(args)
        flags = ["--num-gpus", str(args.num_gpus), *(word for name in args.plug_ins for word in ("--import", name))]
        measured = measure(cfg, oracle_file=args.oracle, flags=flags)
    except (ValueError, KeyError, OSError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        raise SystemExit(2) from None
    path = args.json or os.path.join(cfg.OUTPUT_DIR, "gap.json")
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(measured, indent=1), encoding="utf-8")
    print(show(measured))
    missing = shortfalls(measured) if args.check else []
    for line in missing:
        print(f"not shown: {line}", file=sys.stderr)
    raise SystemExit(bool(missing))


if __name__ == "__main__":
    main()
