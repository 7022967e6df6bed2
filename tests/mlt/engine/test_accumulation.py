"""A batch in parts: what a part holds, and that the parts' gradients and rows are those of one step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mlt.engine.accumulation import split_batch
from mlt.engine.trainer import Trainer
from mlt.structures import SOURCE, TARGET, Batch
from tests.mlt.engine.test_trainer import BASELINE

Build = Callable[..., Trainer]
PARTS = ("SOLVER.ACCUMULATION", 2, "SOLVER.IMS_PER_BATCH", 8)


def joint_batch(size: int) -> Batch:
    domains = torch.tensor([SOURCE] * size + [TARGET] * size)
    rows = torch.arange(2 * size)
    return {
        "images": rows.view(-1, 1, 1, 1),
        "indices": rows,
        "domains": domains,
        "img_paths": list(map(str, rows.tolist())),
    }


def test_a_part_is_source_rows_then_as_many_target_rows() -> None:
    first, second = split_batch(joint_batch(4), 2)
    assert first["indices"].tolist() == [0, 1, 4, 5]
    assert second["domains"].tolist() == [SOURCE, SOURCE, TARGET, TARGET]
    assert second["images"].flatten().tolist() == [2, 3, 6, 7]
    assert second["img_paths"] == ["2", "3", "6", "7"]


def test_one_part_is_the_batch() -> None:
    batch = joint_batch(3)
    assert split_batch(batch, 1) == [batch]


def test_parts_of_unlike_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SOLVER\.ACCUMULATION 2 does not divide the 3 and 3 rows"):
        split_batch(joint_batch(3), 2)


def gradients(trainer: Trainer, batch: Batch) -> list[Tensor]:
    trainer.optimizer.zero_grad(set_to_none=True)
    torch.stack(list(trainer.model(batch).values())).sum().backward()
    return [parameter.grad.clone() for parameter in trainer.model.parameters() if parameter.grad is not None]


def test_gradients_are_the_mean_of_the_parts(trainer_of: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(*BASELINE, *PARTS, "MODEL.LOSSES.NAME", ("CrossEntropyLoss",))
    batch = next(trainer.epoch_batches(0, 0))
    each = [gradients(trainer, part) for part in split_batch(batch, 2)]
    monkeypatch.setattr(trainer.scaler, "step", lambda _: None)
    trainer.run_step(batch)
    found = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
    assert len(found) == len(each[0]) > 30
    for gradient, parts in zip(found, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(gradient, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-6)


def test_the_memory_gets_the_rows_of_all_parts(trainer_of: Build) -> None:
    trainer = trainer_of(*PARTS)
    batch = next(trainer.epoch_batches(0, 0))
    trainer.run_step(batch)
    known = trainer.model.memory.queue_index
    assert sorted(known[known >= 0].unique().tolist()) == sorted(batch["indices"][8:].unique().tolist())
    assert int(trainer.model.teacher.ema_steps) == 1


def test_rows_of_a_step_that_was_not_taken_are_forgotten(trainer_of: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of()
    batch, other = (batch for batch, _ in zip(trainer.epoch_batches(0, 0), range(2), strict=False))
    monkeypatch.setattr(trainer.model, "after_step", lambda: None)
    trainer.run_step(batch)
    monkeypatch.undo()
    trainer.run_step(other)
    known = trainer.model.memory.queue_index
    assert sorted(known[known >= 0].unique().tolist()) == sorted(other["indices"][8:].unique().tolist())
