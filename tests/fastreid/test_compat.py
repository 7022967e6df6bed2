"""Each mend of FastReID: that it is needed here, and that what it mends works."""

from __future__ import annotations

import collections
import functools
import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastreid.data.transforms import build_transforms
from fastreid.engine import DefaultTrainer
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.evaluation import reid_evaluation
from fastreid.solver import build_optimizer
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.compute_dist import build_dist
from fastreid.utils.events import EventStorage
from PIL import Image
from torch import nn

from mlt.adapters import compat

MakeConfig = Callable[..., Any]
ALL = compat.IMPORT_TIME + compat.RUN_TIME
OSNET = {
    "MODEL.BACKBONE.NAME": "build_osnet_backbone",
    "MODEL.BACKBONE.DEPTH": "x0_25",
    "MODEL.BACKBONE.FEAT_DIM": 128,
}


@pytest.mark.parametrize("mend", ALL, ids=lambda mend: mend.name)
def test_the_line_is_there(mend: compat.Mend) -> None:
    (folder,) = importlib.util.find_spec("fastreid").submodule_search_locations
    lines = Path(folder, mend.file).read_text(encoding="utf-8").splitlines()
    assert mend.line.strip() in lines[mend.number - 1]
    assert compat._is_in(Path(folder), mend)


def test_a_mend_is_applied_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A module that is imported anew finds what the former one did."""
    again = importlib.util.module_from_spec(importlib.util.find_spec("mlt.adapters.compat"))
    monkeypatch.setitem(sys.modules, "mlt.adapters.compat", again)
    again.__spec__.loader.exec_module(again)
    caplog.set_level("INFO")
    before = SimpleTrainer.__init__
    assert again.enable_modern_runtime()[-1] == "DDP"
    assert SimpleTrainer.__init__ is before
    assert "mended: " in caplog.text


def test_a_folder_of_that_name_is_no_fastreid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fastreid").mkdir()
    spec = importlib.machinery.PathFinder.find_spec("fastreid", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ImportError, match="make fastreid"):
        compat.enable_modern_runtime.__wrapped__()


def test_nothing_outside_of_fastreid_stays_changed() -> None:
    assert compat.enable_modern_runtime() is compat.enable_modern_runtime()
    assert "Mapping" in compat.enable_modern_runtime()
    assert not hasattr(collections, "Mapping")
    assert "torch._six" not in sys.modules
    assert importlib.import_module("torchvision.transforms").RandomAffine.__module__.startswith("torchvision.")


def printed_with_first_on_path(folder: Path, code: str) -> str:
    """What a fresh interpreter prints that looks for modules in a folder before all others."""
    paths = [str(folder), *map(str, filter(None, sys.path))]
    words = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {code}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_a_fastreid_that_needs_nothing_is_left_alone(tmp_path: Path) -> None:
    package = tmp_path / "fastreid"
    (package / "engine").mkdir(parents=True)
    for folder in (package, package / "engine"):
        (folder / "__init__.py").touch()
    code = "from mlt.adapters.compat import enable_modern_runtime as e; print(e(), __import__('fastreid').__file__)"
    assert printed_with_first_on_path(tmp_path, code).strip() == f"() {package}/__init__.py"


def test_a_git_checkout_on_the_path(tmp_path: Path) -> None:
    """Its data/build.py asks for the version of torch, which the published one does not; all else is the same."""
    (folder,) = importlib.util.find_spec("fastreid").submodule_search_locations
    package = shutil.copytree(folder, tmp_path / "fastreid", ignore=shutil.ignore_patterns("__pycache__"))
    loader = package / "data/build.py"
    asked = "from torch._six import string_classes\n"
    guarded = f"if torch.__version__ < '2':\n    {asked}else:\n    string_classes = str\n"
    loader.write_text(loader.read_text().replace(asked, guarded))
    code = "import mlt.adapters.fastreid, fastreid; from mlt.adapters.compat import enable_modern_runtime as e"
    printed = printed_with_first_on_path(tmp_path, f"{code}; print(fastreid.__file__, *e())")
    where, *mended = printed.splitlines()[-1].split(" ", 1)
    assert where == f"{package}/__init__.py"
    assert "flat gradients" in mended[0]
    assert "torch._six" not in mended[0]


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Linear(3, 2)

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.heads(batch).square().sum()}


@pytest.mark.parametrize("mended", [True, False])
def test_flat_gradients(make_cfg: MakeConfig, tmp_path: Path, mended: bool) -> None:
    model = Toy()
    optimizer, params = build_optimizer(make_cfg("Baseline", tmp_path), model)  # FastReID's default: one flat buffer
    init = SimpleTrainer.__init__ if mended else SimpleTrainer.__init__.__wrapped__
    trainer = SimpleTrainer.__new__(SimpleTrainer)
    init(trainer, model, [torch.ones(4, 3)] * 3, optimizer, params)
    before = model.heads.weight.clone()
    with EventStorage():
        for trainer.iter in range(3):
            trainer.run_step()
    assert torch.equal(before, model.heads.weight) != mended


def test_fastreids_own_trainer_trains_evaluates_and_goes_on(make_cfg: MakeConfig, tmp_path: Path) -> None:
    """Its Baseline, optimizer with flat parameters and loop, without anything of ours but the data."""
    from mlt.adapters.fastreid import register_datasets

    def make(epochs: int) -> DefaultTrainer:
        cfg = make_cfg("Baseline", tmp_path, OSNET | {"SOLVER.MAX_EPOCH": epochs, "TEST.EVAL_PERIOD": epochs})
        register_datasets(cfg)
        return DefaultTrainer(cfg)

    def train(trainer: DefaultTrainer) -> float:
        before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
        results = trainer.train()
        now = dict(trainer.model.named_parameters())
        still = [name for name in before if torch.equal(before[name], now[name])]
        assert all(".gate." in name for name in still), still  # a gate may be shut: no gradient
        assert len(still) < len(before) / 10
        return results["mAP"]

    first = make(1)
    assert train(first) > 0
    again = make(2)
    again.resume_or_load(resume=True)
    assert again.start_epoch == 1
    restored = again.model.state_dict()
    assert [name for name, value in first.model.state_dict().items() if not torch.equal(value, restored[name])] == []
    assert train(again) > 0


def test_ranking_goes_on_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "Cython" else find(name))
    compat.warn_once.__globals__["_said"].clear()
    reid_evaluation.compile_helper()
    assert "Python one is used" in caplog.text


def test_affine(make_cfg: MakeConfig, tmp_path: Path) -> None:
    transform = build_transforms(make_cfg("MLT", tmp_path, {"INPUT.AFFINE.ENABLED": True}))
    assert transform(Image.new("RGB", (40, 80))).shape == (3, 64, 32)


def test_reranking_without_a_gpu() -> None:
    rows = nn.functional.normalize(torch.randn(60, 8))
    distance = build_dist(rows[:10], rows[10:], metric="jaccard", k1=10, k2=3)
    assert distance.shape == (10, 50)
    assert 0 <= distance.min() < distance.max() <= 1


def test_files_with_numbers_load_and_files_with_code_do_not(tmp_path: Path) -> None:
    model = Toy()
    numbers = {"model": model.state_dict(), "metric": np.float64(0.5), "pid": np.int64(3)}
    torch.save(numbers, tmp_path / "numbers.pth")
    assert Checkpointer(Toy()).load(str(tmp_path / "numbers.pth"))["metric"] == 0.5
    torch.save({"model": model.state_dict(), "hook": functools.partial(print)}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="could run code"):
        Checkpointer(Toy()).load(str(tmp_path / "code.pth"))
