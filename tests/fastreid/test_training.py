"""Whole runs in FastReID's own loop, and how they go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.engine import DefaultTrainer

from mlt.adapters.fastreid import MLTTrainer
from mlt.structures import SOURCE, TARGET


@pytest.fixture(params=["mlt_run", "mmt_run"])
def finished(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def label_hook(trainer: Any) -> Any:
    return trainer.checkpointer.checkpointables["pseudo_labels"]


def teachers(trainer: Any) -> dict[str, torch.Tensor]:
    return {k: v for k, v in trainer.adaptive.state_dict().items() if "teacher." in k}


def test_every_weight_moves_in_fastreids_loop(finished: Any) -> None:
    assert isinstance(finished, DefaultTrainer)
    now = finished.adaptive.state_dict()
    trained = [name for name, value in finished.adaptive.named_parameters() if value.requires_grad]
    assert len(trained) > 40
    assert [name for name in trained if torch.equal(now[name], finished.at_start[name])] == []


def test_teachers_follow_their_students(finished: Any) -> None:
    steps = [value for name, value in teachers(finished).items() if name.endswith("ema_steps")]
    assert [int(value) for value in steps] == [9] * len(finished.adaptive.branches)


def test_the_teacher_is_what_is_evaluated(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    evaluate = type(finished.adaptive).evaluate

    def watch(model: Any, batch: Any, net: str = "teacher") -> torch.Tensor:
        seen.append(net)
        return evaluate(model, batch, net)

    monkeypatch.setattr(type(finished.adaptive), "evaluate", watch)
    results = MLTTrainer.test(finished.cfg, finished.model)
    assert set(seen) == {"teacher"}
    assert results == finished._last_eval_results


def test_batches_are_source_rows_then_as_many_target_rows(mlt_run: Any) -> None:
    batch = next(mlt_run.data_loader)
    assert batch["domains"].tolist() == [SOURCE] * 16 + [TARGET] * 16
    source, target = batch["indices"].split(16)
    pids = mlt_run.ids(SOURCE)[1]
    assert torch.equal(batch["targets"][:16], pids[source])
    assert torch.equal(batch["targets"][16:], label_hook(mlt_run).labels.targets[target])
    assert batch["targets"][:16].unique().tolist() == sorted(set(batch["targets"][:16].tolist()))
    assert batch["images"].shape == (32, 3, 64, 32)
    paths = [record.path for record in mlt_run.data_loader.records[TARGET]]
    assert batch["img_paths"][16:] == [paths[i] for i in target.tolist()]


def test_two_views_of_target_rows_alone(mmt_run: Any) -> None:
    batch = next(mmt_run.data_loader)
    assert batch["domains"].tolist() == [TARGET] * 16
    assert batch["views"].shape == batch["images"].shape
    assert not torch.equal(batch["views"], batch["images"])


def test_numbers_of_the_labels_are_in_fastreids_files(mlt_run: Any) -> None:
    lines = Path(mlt_run.cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    names = set().union(*map(json.loads, lines))
    assert {"labels/ARI", "labels/NMI", "loss_cls"} <= names, names


def test_labels_and_teachers_are_restored(finished: Any, make_cfg: Any) -> None:
    method = {"MixtureLabelTransport": "MLT", "MutualMeanTeaching": "MMT"}[finished.cfg.MODEL.META_ARCHITECTURE]
    changes = {"SOLVER.MAX_EPOCH": 4, "TEST.EVAL_PERIOD": 4}
    again = MLTTrainer(make_cfg(method, Path(finished.cfg.OUTPUT_DIR), changes))
    assert label_hook(again).labels is None
    again.resume_or_load(resume=True)
    assert again.start_epoch == 3
    assert torch.equal(label_hook(again).labels.labels, label_hook(finished).labels.labels)
    before = teachers(finished)
    assert before.keys() == teachers(again).keys()
    assert all(torch.equal(value, before[name]) for name, value in teachers(again).items())
    assert again.optimizer.state_dict()["state"].keys() == finished.optimizer.state_dict()["state"].keys()
    again.checkpointer.save_dir = ""  # the other tests read what is there
    again.train()
    assert int(again.adaptive.teacher.ema_steps) == 12
    assert label_hook(again).labelled_epoch == 3


def test_a_memory_with_a_row_for_each_image_is_restored(make_cfg: Any, tmp_path: Path) -> None:
    cfg = make_cfg("SpCL", tmp_path, {"SOLVER.MAX_EPOCH": 1, "TEST.EVAL_PERIOD": 1})
    trainer = MLTTrainer(cfg)
    trainer.train()
    again = MLTTrainer(cfg)
    name = trainer.adaptive.memory.resized[0]
    held, new = (getattr(t.adaptive.memory, name) for t in (trainer, again))
    assert held.shape != new.shape  # FastReID alone would leave such a tensor out
    again.resume_or_load(resume=True)
    for name, value in trainer.adaptive.memory.state_dict().items():
        assert torch.equal(value, again.adaptive.memory.state_dict()[name]), name


def test_restart_goes_back_to_the_weights_that_it_was_given(make_cfg: Any, mlt_run: Any, tmp_path: Path) -> None:
    weights = str(Path(mlt_run.cfg.OUTPUT_DIR, "model_final.pth"))
    changes = {"PSEUDO_LABELS.SCHEDULE": "restart", "MODEL.WEIGHTS": weights, "PRETRAIN.ADAPT_BN": True}
    trainer = MLTTrainer(make_cfg("MLT", tmp_path, changes))
    trainer.resume_or_load(resume=False)
    student = "backbone.layer1.0.conv1.weight"
    assert torch.equal(trainer.start_state[student], mlt_run.adaptive.state_dict()[student])
    mean = "backbone.bn1.BN_T.running_mean"
    assert not torch.equal(trainer.start_state[mean], mlt_run.adaptive.state_dict()[mean])
    assert int(trainer.start_state["teacher.ema_steps"]) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"TEST.PRECISE_BN.ENABLED": True}, "PRECISE_BN.*PRETRAIN.ADAPT_BN"),
        ({"DATASETS.TESTS": ()}, "DATASETS.TESTS is empty"),
        ({"TEST.EVAL_PERIOD": 0}, "EVAL_PERIOD and SOLVER.CHECKPOINT_PERIOD must be >= 1"),
        ({"PSEUDO_LABELS.SCHEDULE": "restart"}, "goes back to Stage I: give its weights"),
        ({"DATASETS.TARGETS": ()}, "DATASETS.TARGETS is empty"),
        ({"SOLVER.IMS_PER_BATCH": 64}, "8 identities with images, but a batch needs 16"),
        ({"DATALOADER.NUM_INSTANCE": 3}, "must be a multiple of 3"),
    ],
)
def test_what_cannot_be_trained_says_so(make_cfg: Any, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MLTTrainer(make_cfg("MLT", tmp_path, changes))


def test_a_gpu_that_is_not_used_must_be_hidden(make_cfg: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r'MODEL.DEVICE is cpu.*hide it by CUDA_VISIBLE_DEVICES=""'):
        MLTTrainer(make_cfg("MLT", tmp_path))


def test_a_rate_that_would_reach_one_student_only_is_refused(make_cfg: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first of two students"):
        MLTTrainer(make_cfg("MMT", tmp_path, {"SOLVER.HEADS_LR_FACTOR": 10.0}))
