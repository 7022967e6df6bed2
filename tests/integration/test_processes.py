"""Two processes do what one does, wherever the mathematics says that they must."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import LIMIT, ROOT, call, call_python, free_port, start

from mlt.utils.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
TRAIN_NET = "tools/train_net.py"
TWO = ("--num-gpus", 2)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
# batch norm sees the same rows in both; no dropout, whose masks are each process's own
EQUAL = ("MODEL.BN_GROUP", 8, "MODEL.HEADS.DROPOUT", 0.0, "SOLVER.OPT", "SGD")
EQUAL += ("SOLVER.MAX_EPOCH", 1, "PSEUDO_LABELS.ROUNDS", 1)


def evaluation(run: Path) -> Any:
    return json.loads((run / "evaluation.json").read_text())


def last_results(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())["last"]["results"]


@pytest.fixture(scope="module")
def runs(stage_two: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same epoch by one and by two processes."""
    one, two = (tmp_path_factory.mktemp(name) / "run" for name in ("one", "two"))
    call_python(TRAIN_NET, *stage_two, *EQUAL, "OUTPUT_DIR", one)
    printed = call_python(TRAIN_NET, *stage_two[:2], *TWO, *stage_two[2:], *EQUAL, "OUTPUT_DIR", two)
    assert "Warning" not in printed
    return one, two


def test_training_agrees(runs: tuple[Path, Path]) -> None:
    one, two = (load_checkpoint(run / "model_final.pth") for run in runs)
    first, second = (state["hooks"]["PseudoLabelHook"]["labels"] for state in (one, two))
    assert torch.equal(first, second)
    assert list(one["model"]) == list(two["model"])
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert [len(state["processes"]) for state in (one, two)] == [1, 2]


def test_losses_and_label_quality_agree(runs: tuple[Path, Path]) -> None:
    one, two = (json.loads((run / "metrics.json").read_text()) for run in runs)
    assert list(one) == list(two)
    for name in (n for n in one if n.startswith("labels/")):
        assert two[name] == one[name]


@pytest.mark.parametrize("launcher", [(TRAIN_NET, *TWO), (*TORCHRUN, TRAIN_NET)], ids=["own", "torchrun"])
def test_evaluation_agrees_to_the_last_digit(
    full_run: Path, world: Path, tmp_path: Path, launcher: tuple[Any, ...]
) -> None:
    words = ("--config-file", world / "mlt.yml", "--eval-only", "MODEL.WEIGHTS", full_run / "model_final.pth")
    call_python(*launcher, *words, "OUTPUT_DIR", tmp_path)
    assert evaluation(tmp_path) == last_results(full_run)


@pytest.mark.parametrize("launcher", ["own", "torchrun"])
def test_two_machines_evaluate_to_the_last_digit(full_run: Path, world: Path, tmp_path: Path, launcher: str) -> None:
    """Both of them here, each with a launcher and a process of its own."""
    port = free_port()
    words = ["--config-file", world / "mlt.yml", "--eval-only", "MODEL.WEIGHTS", full_run / "model_final.pth"]
    words += ["OUTPUT_DIR", tmp_path]
    machines = []
    for rank in range(2):
        if launcher == "own":
            head = [TRAIN_NET, "--num-machines", 2, "--machine-rank", rank, "--dist-url", f"tcp://127.0.0.1:{port}"]
        else:
            head = ["-m", "torch.distributed.run", "--nnodes", 2, "--node-rank", rank, "--nproc-per-node", 1]
            head += ["--master-addr", "127.0.0.1", "--master-port", port, TRAIN_NET]
        command = [sys.executable, *map(str, [*head, *words])]
        with (tmp_path / f"log{rank}").open("w") as log:
            machines.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT))
    assert [machine.wait(LIMIT) for machine in machines] == [0, 0], (tmp_path / "log0").read_text()
    assert evaluation(tmp_path) == last_results(full_run)


def test_what_two_processes_trained_is_evaluated_by_one(
    runs: tuple[Path, Path], stage_two: list[str], tmp_path: Path
) -> None:
    run = runs[1]
    words = (*stage_two[:2], "--eval-only", *EQUAL, "MODEL.WEIGHTS", run / "model_final.pth", "OUTPUT_DIR", tmp_path)
    call(tmp_path / "log", *words)
    assert evaluation(tmp_path) == last_results(run)


@pytest.mark.parametrize("more", [(), ("SOLVER.ACCUMULATION", 2, "MODEL.BN_GROUP", 4)], ids=["whole", "in parts"])
def test_classifiers_that_no_loss_trains(stage_two: list[str], tmp_path: Path, more: tuple[Any, ...]) -> None:
    """Nor the BNNeck, without a memory: processes must not wait for gradients that never come."""
    run = tmp_path / "run"
    words = ("MODEL.LOSSES.NAME", "('TripletLoss',)", "MEMORY.NAME", "", "LABEL_TRANSPORT.ENABLED", False)
    words += (*EQUAL, *more)
    printed = call_python(TRAIN_NET, *stage_two[:2], *TWO, *stage_two[2:], *words, "OUTPUT_DIR", run)
    assert "unused" not in printed
    assert load_checkpoint(run / "model_final.pth")["iteration"] == 3


def test_torchrun_starts_again_where_a_process_died(stage_two: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = [sys.executable, *map(str, TORCHRUN[:-2]), "--nproc-per-node=2", "--max-restarts=1", TRAIN_NET]
    words = (*stage_two[:2], "--resume", *stage_two[2:], "SOLVER.MAX_EPOCH", "40", "OUTPUT_DIR", str(run))
    log = tmp_path / "log"
    with log.open("w") as file:
        torchrun = subprocess.Popen([*launcher, *words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    while torchrun.poll() is None and not (run / "last_checkpoint").exists():
        time.sleep(0.02)
    os.kill(workers_of(torchrun.pid)[0], signal.SIGKILL)
    assert torchrun.wait(LIMIT) == 0, log.read_text()
    assert "resumed from" in log.read_text()
    assert load_checkpoint(run / "model_final.pth")["epoch"] == 39


def workers_of(parent: int) -> list[int]:
    """The processes of the training that a process has started."""
    status = {path.parent: path.read_text() for path in Path("/proc").glob("[0-9]*/status")}
    started = [folder for folder, text in status.items() if f"PPid:\t{parent}\n" in text]
    return [int(folder.name) for folder in started if TRAIN_NET in (folder / "cmdline").read_text()]


@pytest.mark.parametrize(("send", "signum"), [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)])
def test_signals_stop_both_processes(
    stage_two: list[str], tmp_path: Path, send: Callable[[int, int], None], signum: int
) -> None:
    """Sent to the launcher alone, which tells the others, or to all, as a terminal's Ctrl-C is."""
    words = [*stage_two[:2], *TWO, *stage_two[2:], "OUTPUT_DIR", tmp_path / "run", "SOLVER.MAX_EPOCH", 1000]
    command = start(tmp_path / "log", *words)
    command.wait_for(tmp_path / "run" / "last_checkpoint")
    send(command.process.pid or 0, signum)
    assert command.wait() == 143, command.text
    assert "go on with --resume" in command.text
    assert "Traceback" not in command.text
    assert load_checkpoint(tmp_path / "run" / "model_last.pth")["iteration"] < 300
