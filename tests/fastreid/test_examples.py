"""The example that puts two of our parts into FastReID's Baseline."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

EXAMPLE = Path(__file__).parents[2] / "projects/MLT/examples/labels_in_fastreid_baseline.py"
CHANGES = {
    "MODEL.BACKBONE.NAME": "build_osnet_backbone",
    "MODEL.BACKBONE.DEPTH": "x0_25",
    "MODEL.BACKBONE.FEAT_DIM": 128,
    "MODEL.HEADS.NAME": "MixtureLabelHead",
    "PSEUDO_LABELS.NUM_CLUSTERS": (6,),
    "PSEUDO_LABELS.GROUP": 0,
    "PSEUDO_LABELS.PERIOD": 1,
    "MEMORY.NAME": "",
    "LABEL_TRANSPORT.ENABLED": False,
    "SOLVER.MAX_EPOCH": 2,
    "TEST.EVAL_PERIOD": 2,
}


def test_a_baseline_learns_by_clusters_and_goes_on_as_a_script(
    make_cfg: Callable[..., Any], tmp_path: Path, capsys: Any
) -> None:
    trainer = runpy.run_path(str(EXAMPLE))["ClusterTrainer"](make_cfg("Baseline", tmp_path, CHANGES))
    before = trainer.model.backbone.conv1.conv.weight.clone()
    assert trainer.train()["mAP"] > 0
    assert not torch.equal(before, trainer.model.backbone.conv1.conv.weight)
    assert capsys.readouterr().out.count("labels/ARI") == 2
    assert type(trainer.model).__module__.startswith("fastreid.")

    config = tmp_path / "config.yml"
    more = {"SOLVER.MAX_EPOCH": 3, "TEST.EVAL_PERIOD": 3, "PSEUDO_LABELS.PERIOD": 10}
    config.write_text(make_cfg("Baseline", tmp_path, CHANGES | more).dump())
    code = f"import sys, runpy; sys.path[:0] = {sys.path!r}; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, "--config-file", str(config), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Starting training from epoch 2" in done.stdout + done.stderr
    assert "labels/ARI" not in done.stdout  # no new clusters
    saved = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert saved["epoch"] == 2
    assert torch.equal(saved["pseudo_labels"]["labels"], label_hook(trainer).labels.labels)


def label_hook(trainer: Any) -> Any:
    return trainer.checkpointer.checkpointables["pseudo_labels"]
