from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlt.config import CfgNode, get_cfg
from mlt.engine.evaluate import evaluate
from mlt.modeling.build import build_model
from mlt.structures import UNKNOWN, ReidRecord, ReidSet
from mlt.utils import log


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "10x", "MODEL.BACKBONE.WIDTH", "8"])
    cfg.merge_from_list(["MODEL.HEADS.NUM_CLASSES", "4", "INPUT.SIZE_TEST", "(16, 8)", "DATALOADER.NUM_WORKERS", "0"])
    cfg.merge_from_list(["TEST.CAMERA_CENTERING", "True"])
    return cfg


@pytest.fixture
def records(tmp_path: Path) -> tuple[ReidRecord, ...]:
    """Three pictures of four identities, by three cameras."""
    found = []
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        found.append(ReidRecord(str(tmp_path / f"{number}.png"), number // 3, number % 3))
    return tuple(found)


def test_plain_and_centred_results_of_each_set(cfg: CfgNode, records: tuple[ReidRecord, ...]) -> None:
    model = build_model(cfg).train()
    found = evaluate(cfg, model, [ReidSet("a", (), records[:6], records), ReidSet("train only", records)])
    assert list(found) == ["a"]
    assert list(found["a"]) == ["student", "student centred"]
    assert found["a"]["student"] != found["a"]["student centred"]
    assert model.training


def test_a_set_with_unknown_cameras_has_no_centred_results_and_says_so_once(
    cfg: CfgNode, records: tuple[ReidRecord, ...], caplog: pytest.LogCaptureFixture
) -> None:
    log._said.clear()
    gallery = (*records[:-1], ReidRecord(records[-1].path, records[-1].pid, UNKNOWN))
    sets = [ReidSet("known", (), records[:6], records), ReidSet("unknown", (), records[:6], gallery)]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = evaluate(cfg, build_model(cfg), sets)
    assert list(found["known"]) == ["student", "student centred"]
    assert list(found["unknown"]) == ["student"]
    said = [r.message for r in caplog.records if "TEST.CAMERA_CENTERING" in r.message]
    assert said == ["unknown has images of unknown cameras: no centred results (TEST.CAMERA_CENTERING)"]
