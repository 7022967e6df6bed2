"""The example that puts two of our parts into FastReID's Baseline."""

from __future__ import annotations

import runpy
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


def test_a_baseline_learns_by_clusters(make_cfg: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    trainer = runpy.run_path(str(EXAMPLE))["ClusterTrainer"](make_cfg("Baseline", tmp_path, CHANGES))
    before = trainer.model.backbone.conv1.conv.weight.clone()
    assert trainer.train()["mAP"] > 0
    assert not torch.equal(before, trainer.model.backbone.conv1.conv.weight)
    assert capsys.readouterr().out.count("labels/ARI") == 2
    assert type(trainer.model).__module__.startswith("fastreid.")
