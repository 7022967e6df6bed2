"""Two processes by FastReID's own launch(), and its command line: killed, resumed, evaluated."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mlt.adapters.fastreid as door  # before FastReID, in the processes too
from mlt.structures import TARGET

ROOT = Path(__file__).parents[2]
LIMIT = 180  # seconds of any command
MakeConfig = Callable[..., Any]


def train_and_tell(cfg: Any, out: str) -> None:
    """Train, and leave what this process has."""
    from fastreid.utils import comm

    torch.manual_seed(comm.get_rank())  # the fixture that seeds tests does not reach this process
    trainer = door.MLTTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    rows = trainer.embed_images(TARGET, trainer.adaptive.label_features)
    labels = trainer.checkpointer.checkpointables["pseudo_labels"].labels.labels
    batch = next(trainer.data_loader)["indices"]
    state = trainer.adaptive.state_dict() | {"rows": rows, "labels": labels, "batch": batch}
    torch.save(state, Path(out, f"rank{comm.get_rank()}.pt"))


@pytest.mark.parametrize(("method", "num_workers"), [("MLT", 0), ("MLT", 1), ("MMT", 0)])
def test_two_processes_train_one_model(make_cfg: MakeConfig, tmp_path: Path, method: str, num_workers: int) -> None:
    from fastreid.engine import launch

    options = {"SOLVER.MAX_EPOCH": 1, "TEST.EVAL_PERIOD": 1, "DATALOADER.NUM_WORKERS": num_workers}
    cfg = make_cfg(method, tmp_path, options)
    launch(train_and_tell, 2, dist_url="auto", args=(cfg, str(tmp_path)))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    batches = [state.pop("batch") for state in (first, second)]
    assert [len(batch) for batch in batches] == [16 if method == "MLT" else 8] * 2  # with source images, and without
    assert not set(batches[0][-8:].tolist()) & set(batches[1][-8:].tolist())
    assert [name for name in first if not torch.equal(first[name], second[name])] == []

    alone = door.MLTTrainer(make_cfg(method, tmp_path, options | {"DATALOADER.NUM_WORKERS": 0}))
    alone.resume_or_load(resume=True)
    rows = alone.embed_images(TARGET, alone.adaptive.label_features)
    torch.testing.assert_close(rows, first["rows"])
    assert first["rows"].std(dim=0).mean() > 0  # of images that differ; a channel may be dead


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("method", ["MLT", "MMT"])
def test_launch_trains_on_all_gpus(make_cfg: MakeConfig, tmp_path: Path, method: str, amp: bool) -> None:
    from fastreid.engine import launch

    options = {"SOLVER.MAX_EPOCH": 2, "TEST.EVAL_PERIOD": 1, "DATALOADER.NUM_WORKERS": 2}
    cfg = make_cfg(method, tmp_path, {**options, "MODEL.DEVICE": "cuda", "SOLVER.AMP.ENABLED": amp})
    num_gpus = torch.cuda.device_count()
    launch(train_and_tell, num_gpus, dist_url="auto", args=(cfg, str(tmp_path)))
    states = [torch.load(tmp_path / f"rank{rank}.pt", map_location="cpu") for rank in range(num_gpus)]
    for state in states:
        assert [name for name, value in state.items() if not bool(value.isfinite().all())] == []
        assert int(state["teacher.ema_steps"]) > 0
        assert state["rows"].std(dim=0).mean() > 0
        del state["batch"]
        assert [name for name in state if not torch.equal(state[name], states[0][name])] == []


def command(config: Path, *words: str) -> list[str]:
    script = "projects/MLT/fastreid_train_net.py"
    code = f"import sys, runpy; sys.path[:0] = {sys.path!r}; runpy.run_path({script!r}, run_name='__main__')"
    return [sys.executable, "-c", code, "--config-file", str(config), *words]


def call(config: Path, *words: str) -> str:
    done = subprocess.run(command(config, *words), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def last_map(printed: str) -> str:
    return re.findall(r"\| \S+station +\|.*?\|.*?\|.*?\| (\d+\.\d+)", printed)[-1]


def start_and_kill(config: Path, out: Path) -> int:
    """The command line, killed once two epochs are saved. Number of the saved epochs."""
    killed = subprocess.Popen(command(config), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + LIMIT
    while not (out / "model_0001.pth").exists() and time.monotonic() < end:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    return int(re.findall(r"\d+", (out / "last_checkpoint").read_text())[0]) + 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["MLT", "MMT"])
def test_the_command_line_is_killed_and_goes_on(make_cfg: MakeConfig, tmp_path: Path, method: str) -> None:
    out = tmp_path / "run"
    config = tmp_path / "config.yml"
    config.write_text(make_cfg(method, out, {"SOLVER.MAX_EPOCH": 200}).dump())
    done = start_and_kill(config, out)

    saved = torch.load(out / (out / "last_checkpoint").read_text(), weights_only=False)
    again = door.MLTTrainer(make_cfg(method, out, {"SOLVER.MAX_EPOCH": done + 1}))
    again.resume_or_load(resume=True)
    assert again.start_epoch == done
    labels = again.checkpointer.checkpointables["pseudo_labels"].labels.labels
    assert torch.equal(labels, saved["pseudo_labels"]["labels"])
    teachers = {name: value for name, value in again.adaptive.state_dict().items() if "teacher." in name}
    assert len(teachers) > 40
    assert [name for name, value in teachers.items() if not torch.equal(value, saved["model"][name])] == []
    if method == "MMT":
        return

    printed = call(config, "--resume", "SOLVER.MAX_EPOCH", str(done + 1), "TEST.EVAL_PERIOD", "1")
    assert f"Starting training from epoch {done}" in printed
    assert "model_final" in (out / "last_checkpoint").read_text()

    evaluated = call(config, "--eval-only", "MODEL.WEIGHTS", str(out / "model_final.pth"))
    assert last_map(evaluated) == last_map(printed)


def test_a_mistake_ends_in_one_message(make_cfg: MakeConfig, tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(make_cfg("MLT", tmp_path / "run").dump())
    words = ["DATASETS.TARGETS", "('Folder@/nowhere',)"]
    done = subprocess.run(command(config, *words), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert "error: Folder@/nowhere: no such folder" in done.stderr
    assert "Traceback" not in done.stderr
