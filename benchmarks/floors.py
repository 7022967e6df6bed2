#!/usr/bin/env python
"""What needs no learning gives on a set: a network with random weights, and colour histograms of horizontal stripes.

A benchmark on which these score is no benchmark. Prints one line of JSON, mAP in percent.

    python benchmarks/floors.py Market1501@datasets/synthetic/station
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

import mlt.components  # noqa: F401  fills the registries
from mlt.config import get_cfg
from mlt.data.datasets import read_dataset
from mlt.engine.evaluate import evaluate
from mlt.evaluation.metrics import evaluate_features
from mlt.modeling.build import build_model
from mlt.structures import ReidSet

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "Pretrain" / "synthetic.yml"
STRIPES, BINS = 6, (8, 4, 4)  # hue, saturation, value


def random_network(data: ReidSet) -> float:
    """mAP of the synthetic recipe's network before any training.

    Args:
        data: a set with a test split.
    """
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list(["MODEL.HEADS.NUM_CLASSES", "1", "TEST.CAMERA_CENTERING", "False"])
    torch.manual_seed(0)
    return evaluate(cfg, build_model(cfg), [data])[data.name]["student"]["mAP"]


def stripe_histograms(paths: list[str]) -> Tensor:
    """Unit rows: the square roots of HSV histograms of six stripes.

    Args:
        paths: N images.

    Returns:
        [N, 6 * 8 * 4 * 4]
    """
    rows = []
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("HSV"))
        stripes = [part.reshape(-1, 3) for part in np.array_split(pixels, STRIPES)]
        counts = [np.histogramdd(part, BINS, [(0, 256)] * 3)[0].ravel() / len(part) for part in stripes]
        rows.append(np.sqrt(np.concatenate(counts)))
    return normalize(torch.from_numpy(np.stack(rows)).float())


def colour_stripes(data: ReidSet) -> float:
    """mAP of `stripe_histograms`.

    Args:
        data: a set with a test split.
    """
    records = data.query + data.gallery
    features, num_query = stripe_histograms([r.path for r in records]), len(data.query)
    ids = [torch.tensor([getattr(r, name) for r in records]) for name in ("pid", "camid")]
    halves = [(values[:num_query], values[num_query:]) for values in (features, *ids)]
    return evaluate_features(*(half for pair in halves for half in pair))["mAP"]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a set as DATASETS.TESTS names it")
    data = read_dataset(parser.parse_args().name, root="datasets")
    print(json.dumps({"random network": random_network(data), "colour stripes": colour_stripes(data)}))


if __name__ == "__main__":
    main()
