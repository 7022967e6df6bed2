#!/usr/bin/env python
"""An epoch of MLT on a device: images per second, and the share of data, steps, label step and evaluation.

    python benchmarks/bench_train.py                                        # ResNet-10, 128x64, on the CPU
    python benchmarks/bench_train.py --device cuda --source 16522 --target 12936 --queries 3368 --gallery 15913 \\
        --json benchmarks/results/train-gpu.json                            # ResNet-50, 256x128, 64 + 64 images

Ways of one engine, from one seed: *plain*, with the peers' image path (each image decoded and changed by workers in
every epoch) and in float32; *fast* (bfloat16 on a GPU, images kept on the device and changed there); and *compiled*:
fast with MODEL.COMPILE. Each runs its label step, two epochs and an evaluation on people of the synthetic domains, each
picture drawn once and saved in as many noisy copies as are asked for. From the measured epochs follows what the whole
schedule of configs/MLT/duke2market.yml would take. FLOPs are those of the convolutions and products that one step
really does, forward and backward.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import at_least
from hardware import Figures, hardware, require
from PIL import Image
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

import mlt.components  # noqa: F401  fills the registries
from mlt.config import CfgNode, get_cfg, with_values
from mlt.data.synthetic import DomainSpec, render_domain
from mlt.engine.trainer import Trainer
from mlt.utils.files import atomic

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "MLT" / "duke2market.yml"
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # bfloat16 without sparsity, as NVIDIA states them
WAYS = ["plain", "fast", "compiled"]
SMALLEST = [64, 32]  # drawn at half of it, and a person takes 32x16 pixels
PERSON_IMAGES = 17  # of an identity, about Market-1501's number


def copies(folder: Path, wanted: int, random: np.random.Generator) -> None:
    """Fill a folder up to a number of images with noisy copies of those that are there, under names of their own.

    Args:
        folder: of images with names of Market-1501.
        wanted: images.
        random: of the noise.
    """
    drawn = sorted(folder.iterdir())
    for number in range(wanted - len(drawn)):
        path = drawn[number % len(drawn)]
        pixels = np.asarray(Image.open(path), dtype=np.int16)
        noisy = (pixels + random.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path.with_name(f"{path.stem}{number:06d}.jpg"), quality=90)


def make_domain(folder: Path, domain: str, size: tuple[int, int], sizes: dict[str, int], jobs: int) -> str:
    """A domain in Market-1501 layout; its name for DATASETS.

    Args:
        folder: where.
        domain: "campus" or "station".
        size: height and width.
        sizes: images of each sub-folder.
        jobs: processes that render.
    """
    ids = max(16, sizes["bounding_box_train"] // PERSON_IMAGES // 10)
    spec = DomainSpec(domain, num_train_ids=ids, num_test_ids=16, images_per_id=PERSON_IMAGES, size=size)
    render_domain(folder / domain, spec, jobs=jobs)
    for part, wanted in sizes.items():
        copies(folder / domain / part, wanted, np.random.default_rng(0))
    return f"Market1501@{folder / domain}"


def configs(args: argparse.Namespace, folder: Path, source: str, target: str) -> dict[str, CfgNode]:
    """The ways that are asked for.

    Args:
        args: command line.
        folder: of what the runs write.
        source: labelled set.
        target: the other one.
    """
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    gpu = args.device == "cuda"
    shared = {
        "MODEL.DEVICE": args.device,
        "MODEL.BACKBONE.PRETRAIN": False,
        "MODEL.BACKBONE.DEPTH": "50x" if gpu else "10x",
        "MODEL.BACKBONE.WIDTH": 64 if gpu else 24,
        "INPUT.SIZE_TRAIN": args.size,
        "INPUT.SIZE_TEST": args.size,
        "DATASETS.NAMES": (source,),
        "DATASETS.TARGETS": (target,),
        "DATASETS.TESTS": (target,),
        "DATALOADER.NUM_WORKERS": args.workers,
        "PRETRAIN.CONFIG_FILE": "",
        "PSEUDO_LABELS.NUM_CLUSTERS": [max(17, k * args.target // 12936) for k in (600, 700, 800)],
        "SOLVER.ITERS_PER_EPOCH": args.steps,
        "SOLVER.RESET_PERIOD": 0,
    }
    plain = {"DATALOADER.CACHE_GB": 0.0, "DATALOADER.AUGMENT_ON": "worker", "SOLVER.AMP.ENABLED": False}
    fast = {
        "DATALOADER.CACHE_GB": 20.0,
        "DATALOADER.CACHE_ON": "device",
        "DATALOADER.AUGMENT_ON": "device",
        "SOLVER.AMP.ENABLED": gpu,  # CPUs without bfloat16 arithmetic only lose
    }
    ways = {"plain": plain, "fast": fast, "compiled": fast | {"MODEL.COMPILE": args.compile}}
    return {way: with_values(cfg, shared | ways[way] | {"OUTPUT_DIR": str(folder / way)}) for way in args.ways}


class Clock:
    """Seconds of named parts of a run, with all that a GPU has been given done at the end of each.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, dict[str, float]()

    def run(self, name: str, call: Any, *args: Any) -> Any:
        """What `call(*args)` returns.

        Args:
            name: of the part.
            call: a function.
            *args: its arguments.
        """
        begin = time.perf_counter()
        result = call(*args)
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        return result


def epoch(trainer: Trainer, number: int, clock: Clock) -> list[float]:
    """Train an epoch; the mean losses of tenths of it. Waiting for batches counts as data, and the rest as steps.

    Args:
        trainer: with labels.
        number: of the epoch.
        clock: is given the parts "data" and "steps".
    """
    losses, waited, begin = [], 0.0, time.perf_counter()
    batches: Iterator[Any] = iter(trainer.epoch_batches(number, 0))
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        trainer.run_step(batch)
        trainer.iter += 1
        losses.append(torch.stack(list(trainer._losses.values())).sum())
    total = [float(part.mean()) for part in torch.stack(losses).tensor_split(10) if len(part)]  # waits for the GPU
    clock.seconds["data"] = clock.seconds.get("data", 0.0) + waited
    clock.seconds["steps"] = clock.seconds.get("steps", 0.0) + time.perf_counter() - begin - waited
    return total


def measure(cfg: CfgNode, epochs: int) -> Figures:
    """Seconds of an epoch's parts, and the losses.

    Args:
        cfg: one of the ways.
        epochs: measured ones, after a first that is not.
    """
    trainer = Trainer(cfg)
    labels: Any = trainer.hooks["PseudoLabelHook"]
    setup, clock = Clock(cfg.MODEL.DEVICE), Clock(cfg.MODEL.DEVICE)
    setup.run("first labels", labels.before_epoch)
    batch = next(iter(trainer.epoch_batches(0, 0)))  # not while counting: forked workers would go on with it
    with FlopCounterMode(display=False) as flops:
        trainer.run_step(batch)
    setup.run("first epoch", epoch, trainer, 0, Clock(cfg.MODEL.DEVICE))
    losses = []
    for number in range(1, epochs + 1):
        trainer.epoch = number
        clock.run("labels", labels.before_epoch)
        losses += epoch(trainer, number, clock)
    clock.run("evaluation", trainer.evaluate)
    clock.run("save", trainer.save, ["model_last"])
    trainer.epoch = cfg.PSEUDO_LABELS.PERIOD  # where the second round starts
    clock.run("clustering", labels.before_epoch)
    steps = epochs * cfg.SOLVER.ITERS_PER_EPOCH
    return {
        "seconds once": setup.seconds,
        "step": clock.seconds["steps"] / steps,
        "data": clock.seconds["data"] / steps,
        "labels": clock.seconds["labels"] / epochs,
        "clustering": clock.seconds["clustering"],
        "evaluation": clock.seconds["evaluation"],
        "save": clock.seconds["save"],
        "bfloat16": cfg.SOLVER.AMP.ENABLED,
        "FLOP of a step": flops.get_total_flops(),
        "losses": losses,
    }


def conclude(figures: Figures, schedule: CfgNode, device_name: str) -> Figures:
    """Images per second, shares of an epoch of the schedule, and its whole time.

    Args:
        figures: of `measure`.
        schedule: the paper's config.
        device_name: of the GPU, or of the CPU.
    """
    steps, epochs = schedule.SOLVER.ITERS_PER_EPOCH, schedule.SOLVER.MAX_EPOCH
    clusterings = min(schedule.PSEUDO_LABELS.ROUNDS or epochs, math.ceil(epochs / schedule.PSEUDO_LABELS.PERIOD))
    parts = {
        "data": steps * figures["data"],
        "steps": steps * figures["step"],
        "labels": figures["labels"] + clusterings / epochs * (figures["clustering"] - figures["labels"]),
        "evaluation": figures["evaluation"] / schedule.TEST.EVAL_PERIOD,
        "saving": figures["save"],
    }
    whole = sum(parts.values())
    peak = next((value for name, value in PEAK.items() if figures["bfloat16"] and name in device_name), None)
    seconds = figures["step"] + figures["data"]  # on a GPU batches are made while the step before is computed
    speed = figures["FLOP of a step"] / seconds
    return {
        "images/s": 2 * schedule.SOLVER.IMS_PER_BATCH / seconds,
        "share of an epoch": {name: value / whole for name, value in parts.items()},
        "hours of the schedule": epochs * whole / 3600,
        "FLOP/s": speed,
        "share of the peak": speed / peak if peak else None,
    }


def show(results: Figures) -> str:
    """A table of all ways, with how much better the last is than the first.

    Args:
        results: of `main`.
    """
    ways = list(results["ways"].items())
    (first_name, first), (last_name, last) = ways[0], ways[-1]
    names = ("step", "data", "labels", "clustering", "evaluation", "save", "hours of the schedule")
    body = [[name, *(way[name] for _, way in ways), first[name] / last[name]] for name in names]
    body.append(["images/s", *(way["images/s"] for _, way in ways), last["images/s"] / first["images/s"]])
    text = "  ".join(f"{name} {100 * share:.1f} %" for name, share in last["share of an epoch"].items())
    table = tabulate(body, ["seconds", *results["ways"], "times better"], floatfmt=".4g")
    gap = loss_gap(first["losses"], last["losses"])
    return (
        f"{table}\nshare of an epoch of the schedule, {last_name}: {text}\n"
        f"largest gap between mean losses of a tenth of an epoch, {first_name} and {last_name}: {100 * gap:.1f} %"
    )


def loss_gap(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest difference between two curves, as a share of the larger value.

    Args:
        one: losses.
        other: as many.
    """
    return max(abs(a - b) / max(abs(a), abs(b)) for a, b in zip(one, other, strict=True))


def main() -> None:
    """Make images, measure each way, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, nargs=2, help="height and width, >= 64 32; 128 64, on a GPU 256 128")
    parser.add_argument("--source", type=at_least(1), default=400, help="labelled images")
    parser.add_argument("--target", type=at_least(1), default=400, help="unlabelled images")
    parser.add_argument("--queries", type=at_least(1), default=60)
    parser.add_argument("--gallery", type=at_least(1), default=200)
    parser.add_argument("--steps", type=at_least(1), default=10, help="of an epoch")
    parser.add_argument("--epochs", type=at_least(2), default=2, help="measured ones, >= 2")
    parser.add_argument("--workers", type=at_least(0), default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:2], help="to measure")
    parser.add_argument("--compile", default="inductor", help="MODEL.COMPILE of the compiled way")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    require(args.device)
    args.size = args.size or ([256, 128] if args.device == "cuda" else [128, 64])
    if any(given < least for given, least in zip(args.size, SMALLEST, strict=True)):
        parser.error("argument --size: must be at least {} {}, got {} {}".format(*SMALLEST, *args.size))
    with tempfile.TemporaryDirectory() as name:
        folder, size = Path(name), (args.size[0] // 2, args.size[1] // 2)
        tests = {"query": args.queries, "bounding_box_test": args.gallery}
        jobs = max(args.workers, 1)
        source = make_domain(folder, "campus", size, {"bounding_box_train": args.source}, jobs)
        target = make_domain(folder, "station", size, {"bounding_box_train": args.target, **tests}, jobs)
        ways = configs(args, folder, source, target)
        schedule = get_cfg()
        schedule.merge_from_file(str(CONFIG))
        on = hardware(args.device)
        measured = {way: measure(cfg, args.epochs) for way, cfg in ways.items()}
    concluded = {way: figures | conclude(figures, schedule, str(on)) for way, figures in measured.items()}
    results = {"arguments": {key: str(value) for key, value in vars(args).items()}, "hardware": on, "ways": concluded}
    print(show(results))
    if args.json:
        with atomic(args.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
