"""The trainer on a handful of pictures: its step waits for no GPU, and it saves no weights that are no numbers."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mlt.engine.trainer import LOG_PERIOD, Trainer
from mlt.utils.checkpoint import load_checkpoint
from tests.emulate.device import Device
from tests.mlt.engine.test_rounds import CONTRAST, MMT, ONE, SPCL

BASELINE = ("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.DSBN", False, "MODEL.HEADS.NAME", "EmbeddingHead")


UNCERTAIN = (
    *("MODEL.META_ARCHITECTURE", "UncertaintyGuided", "MODEL.BACKBONE.NAME", "TwoDepthResNet"),
    *("MODEL.HEADS.NAME", "TwoDepthMixtureHead"),
)
CLUSTER_CONTRAST = (*CONTRAST, "MEMORY.NAME", "ClusterMemory", "MODEL.DSBN", False, "PSEUDO_LABELS.WITH_SOURCE", False)
OPTIONS = [
    (),
    BASELINE,
    (*MMT, *ONE),
    (*UNCERTAIN, *ONE),
    (*SPCL, *ONE),
    (*CLUSTER_CONTRAST, *ONE),
    ("MEAN_TEACHER.BN_BUFFERS", "ema", "MODEL.BN_GROUP", 4, "SOLVER.OPT", "SGD"),
    ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.AMP.ENABLED", True, "MODEL.LOSSES.TRI.MARGIN", 0.3),
]


def labelled(trainer: Trainer) -> Trainer:
    """With a first clustering, where the method has one."""
    if "PseudoLabelHook" in trainer.hooks:
        trainer.hooks["PseudoLabelHook"].before_epoch()
    return trainer


@pytest.mark.parametrize("options", OPTIONS)
def test_a_step_waits_for_no_pretended_gpu(trainer_of: Callable[..., Trainer], options: tuple[object, ...]) -> None:
    with Device() as device:
        trainer = labelled(trainer_of("MODEL.DEVICE", "cuda", *options))
        trainer.iter = 1  # between two checks for NaN
        device.waits.clear()
        for batch in trainer.epoch_batches(0, 0):
            trainer.run_step(batch)
        assert device.waits == []
        trainer.iter = LOG_PERIOD
        trainer.run_step(batch)
        assert len(device.waits) > 0


@pytest.mark.parametrize("keep_on", ["host", "device"])
def test_a_run_on_a_pretended_gpu_is_one_on_the_cpu(trainer_of: Callable[..., Trainer], keep_on: str) -> None:
    """To the bit, without groups of batch norm, which go side by side on a GPU."""
    weights = []
    for name, pretended in (("cpu", contextlib.nullcontext()), ("cuda", Device())):
        with pretended:
            torch.manual_seed(0)
            where = ("MODEL.DEVICE", name, "DATALOADER.CACHE_ON", keep_on if name == "cuda" else "host")
            trainer = trainer_of(*where, "SOLVER.MAX_EPOCH", 2, "SOLVER.STEPS", ())
            trainer.train()
            assert next(trainer.model.parameters()).is_cuda == (name == "cuda")
            weights.append({key: value.cpu() for key, value in trainer.model.state_dict().items()})
    for key, value in weights[0].items():
        assert torch.equal(weights[1][key], value), key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", OPTIONS)
def test_a_step_waits_for_no_gpu(trainer_of: Callable[..., Trainer], options: tuple[object, ...]) -> None:
    trainer = labelled(trainer_of("MODEL.DEVICE", "cuda", *options))
    batches = [next(trainer.epoch_batches(0, 0)) for _ in range(3)]
    trainer.iter = 1  # between two checks for NaN
    trainer.run_step(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:]:
            trainer.run_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_weights_that_are_no_numbers_are_not_saved(trainer_of: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = trainer_of(*BASELINE)
    trainer.train()
    before = {path: path.read_bytes() for path in sorted(tmp_path.iterdir()) if path.is_file()}
    assert {"model_last.pth", "model_best.pth", "last_checkpoint"} <= {path.name for path in before}
    with torch.no_grad():
        trainer.model.heads.bottleneck[0].running_var[3] = float("inf")
    with pytest.raises(
        FloatingPointError, match=r"heads\.bottleneck\.0\.running_var is inf at step \d+\. The last checkpoint is from"
    ):
        trainer.save(["model_best", "model_last"])
    assert {path: path.read_bytes() for path in sorted(tmp_path.iterdir()) if path.is_file()} == before


def test_one_file_is_the_best_the_final_and_the_last(trainer_of: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = trainer_of(*BASELINE, "SOLVER.MAX_EPOCH", 2, "SOLVER.STEPS", (1,), "SOLVER.CHECKPOINT_PERIOD", 1)
    trainer.train()
    epochs = {path.stem: load_checkpoint(path)["epoch"] for path in tmp_path.glob("*.pth")}
    assert epochs == {"model_0000": 0, "model_0001": 1, "model_best": 1, "model_final": 1, "model_last": 1}
    assert len({path.stat().st_ino for path in tmp_path.glob("*.pth")}) == 2


def test_a_run_goes_on_with_the_images_that_it_began_with(
    trainer_of: Callable[..., Trainer], pictures: Path, tmp_path: Path
) -> None:
    trainer_of("SOLVER.MAX_EPOCH", 1, "SOLVER.STEPS", ()).train()
    shutil.copytree(pictures, tmp_path / "moved")
    target = ("DATASETS.TARGETS", (f"Market1501@{tmp_path}/moved",))
    again = trainer_of(*target)
    again.resume()
    assert again.iter == 2
    image = sorted((tmp_path / "moved" / "bounding_box_train").iterdir())[0]
    image.write_bytes(image.read_bytes() + b"repaired")
    trainer_of(*target).resume()
    image.rename(image.with_name("9" + image.name[1:]))  # as many images, of which the numbers are now others'
    with pytest.raises(
        ValueError, match=r"model_last\.pth was trained on other images: .*start anew in another OUTPUT"
    ):
        trainer_of(*target).resume()


def test_weights_alone_cannot_be_resumed(trainer_of: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = trainer_of()
    trainer.checkpointer.save(["model_last"], {"model": trainer.model.state_dict()})
    with pytest.raises(ValueError, match=r"model_last\.pth has no optimizer, scheduler, .*MODEL\.WEIGHTS"):
        trainer.resume()


@pytest.mark.parametrize("was_on", [True, False])
def test_float16_may_be_switched_when_a_run_goes_on(trainer_of: Callable[..., Trainer], was_on: bool) -> None:
    options = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "float16")
    trainer_of(*options * was_on).save(["model_last"])
    again = trainer_of(*options * (not was_on))
    again.resume()
    assert again.scaler.is_enabled() is not was_on
