from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import mlt_ops
from mlt.config import CfgNode, get_cfg
from mlt.engine.evaluate import evaluate, refinement
from mlt.evaluation.metrics import rank_queries, summarize
from mlt.evaluation.query_expansion import expand_features
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


def test_a_set_without_any_match_is_named(cfg: CfgNode, records: tuple[ReidRecord, ...]) -> None:
    sets = [ReidSet("a", (), records, records), ReidSet("lone", (), records[:3], records[3:])]
    with pytest.raises(ValueError, match=r"^lone: None of the 3 queries has a match in the gallery"):
        evaluate(cfg, build_model(cfg), sets)


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


def test_more_than_plain_distances(cfg: CfgNode, records: tuple[ReidRecord, ...]) -> None:
    """Mirror images in every row; expanded and re-ranked rows beside the plain ones, by the operators' definitions."""
    cfg.merge_from_list(["TEST.FLIP.ENABLED", True, "TEST.AQE.ENABLED", True, "TEST.AQE.QE_K", 3])
    cfg.merge_from_list(["TEST.RERANK.ENABLED", True, "TEST.RERANK.K1", 5, "TEST.RERANK.K2", 2])
    model = build_model(cfg).eval()
    found = evaluate(cfg, model, [ReidSet("a", (), records[:6], records)])["a"]
    kinds = ("", " expanded", " re-ranked")
    assert list(found) == [net + kind for net in ("student", "student centred") for kind in kinds]

    test = records[:6] + records
    pixels = [np.asarray(Image.open(record.path)) for record in test]
    images = torch.from_numpy(np.stack(pixels)).movedim(3, 1)
    with torch.no_grad():
        both = normalize(model.evaluate(images, net="student") + model.evaluate(images.flip(3), net="student"))
    pids, camids = (torch.tensor([getattr(record, name) for record in test]) for name in ("pid", "camid"))

    def results(query: torch.Tensor, gallery: torch.Tensor, distance: torch.Tensor) -> dict[str, float]:
        return summarize(rank_queries(distance, pids[:6], pids[6:], camids[:6], camids[6:]))

    plain, expanded = both.split([6, 12]), expand_features(both, num_neighbors=3).split([6, 12])
    again = mlt_ops.rerank(*expanded, k1=5, k2=2, lambda_value=0.3)
    assert found["student"] == pytest.approx(results(*plain, torch.cdist(*plain)))
    assert found["student expanded"] == pytest.approx(results(*expanded, torch.cdist(*expanded)))
    assert found["student re-ranked"] == pytest.approx(results(*expanded, again))
    assert len({figures["mAP"] for figures in found.values()}) >= 4  # they do differ


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("AQE.QE_K", 0, "TEST.AQE.QE_K must be >= 1, got 0"),
        ("AQE.ALPHA", -1.0, "TEST.AQE.ALPHA must be >= 0"),
        ("RERANK.K1", 0, "TEST.RERANK.K1 must be >= 1"),
        ("RERANK.LAMBDA", 1.5, "TEST.RERANK.LAMBDA must be between 0 and 1, got 1.5"),
    ],
)
def test_numbers_out_of_range(cfg: CfgNode, key: str, value: float, message: str) -> None:
    cfg.merge_from_list([f"TEST.{key}", value])
    with pytest.raises(ValueError, match=message):
        refinement(cfg)
