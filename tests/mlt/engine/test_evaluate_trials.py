"""VehicleID from its files to its result: features are extracted once, metrics are means over the galleries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mlt.config import get_cfg
from mlt.data.datasets import read_dataset
from mlt.engine.evaluate import evaluate
from mlt.evaluation.metrics import evaluate_features
from mlt.structures import UNKNOWN, ReidRecord, ReidSet


class MeanColour(nn.Module):
    """Has what `evaluate` asks of a model; counts the images it sees."""

    nets = ("student",)
    device = torch.device("cpu")
    seen = 0

    def evaluate(self, images: Tensor, net: str) -> Tensor:
        self.seen += len(images)
        return images.float().mean(dim=(2, 3))


@pytest.fixture
def small(tmp_path: Path) -> ReidSet:
    """Four vehicles of five images whose colours overlap, so that galleries differ in how hard they are."""
    draw = np.random.default_rng(0)
    lines = []
    (tmp_path / "image").mkdir()
    for number in range(20):
        colour = draw.normal(40 + 40 * (number % 4), 15, 3).clip(0, 255).astype(np.uint8)
        Image.fromarray(np.broadcast_to(colour, (8, 8, 3)).copy()).save(tmp_path / f"image/{number:07d}.jpg")
        lines.append(f"{number:07d} {number % 4}\n")
    lists = tmp_path / "train_test_split"
    lists.mkdir()
    (lists / "train_list.txt").write_text(lines[0])
    (lists / "test_list_800.txt").write_text("".join(lines))
    return read_dataset(f"SmallVehicleID@{tmp_path}", root="")


def rows(image: list[ReidRecord], features: dict[str, Tensor]) -> Tensor:
    return torch.stack([features[record.path] for record in image])


def test_mean_over_ten_galleries(small: ReidSet) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 0, "INPUT.SIZE_TEST", (8, 8)])
    model = MeanColour()
    results = evaluate(cfg, model, [small])  # type: ignore[arg-type]
    pool = [*small.query, *small.gallery]
    assert model.seen == len(pool) == 20

    features = {r.path: torch.from_numpy(np.array(Image.open(r.path))).float().mean(dim=(0, 1)) for r in pool}
    singles = []
    for gallery_rows in small.random_galleries:
        gallery = [pool[i] for i in gallery_rows]
        query = [r for r in pool if r not in gallery]
        pids = [torch.tensor([r.pid for r in part]) for part in (query, gallery)]
        cameras = [torch.full_like(part, UNKNOWN) for part in pids]
        singles.append(evaluate_features(rows(query, features), rows(gallery, features), *pids, *cameras))
    assert len(singles) == 10
    assert len({single["mAP"] for single in singles}) > 1
    for metric in ("mAP", "Rank-1", "Rank-5", "mINP", "metric"):
        mean = sum(single[metric] for single in singles) / 10
        assert results[small.name]["student"][metric] == pytest.approx(mean, rel=1e-6)
    assert results[small.name]["student"]["mAP"] != singles[0]["mAP"]
