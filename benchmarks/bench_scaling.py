#!/usr/bin/env python
"""The neighbour search shared by processes: what each of them needs, beside `knn` in one process.

    python benchmarks/bench_scaling.py --json benchmarks/results/scaling-cpu.json

N rows are divided among 1, 2, 4, ... processes (gloo), each with one thread, and searched by `mlt_ops.knn_sharded`.
The run fails if their results together are not `mlt_ops.knn`'s, bit for bit. Memory is what a process needs beyond its
rows, the most of all processes. With more processes than cores the seconds say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from arguments import at_least
from hardware import Figures, hardware
from ops_data import make_features
from stages import peak_memory
from tabulate import tabulate

import mlt_ops
from mlt.utils.files import atomic

CPU = torch.device("cpu")


def search(rank: int, world: int, args: argparse.Namespace, folder: str) -> None:
    """One process's share: its neighbours and figures go into files.

    Args:
        rank: its number.
        world: how many there are.
        args: the command line.
        folder: of the files.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    mine = make_features(args.rows, args.dim, args.seed)[0].tensor_split(world)[rank].clone()
    mlt_ops.knn_sharded(mine[:100], 2, group=dist.group.WORLD)  # what is loaded at the first call
    dist.barrier()
    started = time.perf_counter()
    with peak_memory(CPU) as figures:
        found = mlt_ops.knn_sharded(mine, args.k, group=dist.group.WORLD, max_memory=args.max_memory << 20)
    figures["seconds"] = time.perf_counter() - started
    torch.save((*found, figures), f"{folder}/{world}-{rank}.pt")
    dist.destroy_process_group()


def measure(world: int, args: argparse.Namespace, whole: mlt_ops.Neighbors, folder: str) -> Figures:
    """Figures of a number of processes, which must find what one finds.

    Args:
        world: how many processes.
        args: the command line.
        whole: what `knn` found.
        folder: for files.
    """
    torch.multiprocessing.spawn(search, args=(world, args, folder), nprocs=world)  # type: ignore[no-untyped-call]
    parts = [torch.load(f"{folder}/{world}-{rank}.pt", weights_only=True) for rank in range(world)]
    for name, part in zip(whole._fields, zip(*parts), strict=False):
        if not torch.equal(torch.cat(part), getattr(whole, name)):
            sys.exit(f"{world} processes found another {name} than knn")
    share = -(-args.rows // world)
    return {
        "processes": world,
        "MB of own rows": 4 * share * args.dim / 1e6,
        "MB beside them": max(figures["peak_bytes"] for *_, figures in parts) / 1e6,
        "MB sent": 4 * (args.rows - share) * args.dim / 1e6,
        "seconds": max(figures["seconds"] for *_, figures in parts),
    }


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=at_least(1), default=40_000, help="N")
    parser.add_argument("--dim", type=at_least(128), default=2048, help="D, at least 128")
    parser.add_argument("--k", type=at_least(1), default=30)
    parser.add_argument("--processes", type=at_least(1), nargs="+", default=[1, 2, 4])
    parser.add_argument("--max-memory", type=at_least(1), default=64, metavar="MB", help="for a block's search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


def main() -> None:
    """Measure, print, and write the JSON file."""
    args = argument_parser().parse_args()
    features = make_features(args.rows, args.dim, args.seed)[0]
    torch.set_num_threads(os.cpu_count() or 1)
    started = time.perf_counter()
    whole = mlt_ops.knn(features, args.k, max_memory=args.max_memory << 20)
    seconds = time.perf_counter() - started
    del features
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(world, args, whole, folder) for world in args.processes]
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".1f"))
    if args.json:
        shown = {name: getattr(args, name) for name in ("rows", "dim", "k", "max_memory", "seed")}
        result = {"command": sys.argv, "hardware": hardware("cpu"), **shown, "knn seconds": seconds, "shared": rows}
        with atomic(args.json) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
