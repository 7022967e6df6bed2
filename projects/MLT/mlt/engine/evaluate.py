"""Features of the test sets to a table of metrics, for every net of a model."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize
from yacs.config import CfgNode

from mlt.clustering.camera_centering import center_cameras
from mlt.config import check_least
from mlt.data.build import build_test_loader
from mlt.data.image_dataset import ImageDataset
from mlt.engine.extract import extract
from mlt.evaluation.trials import Refinement, evaluate_trials
from mlt.modeling.meta_arch import ReidModel
from mlt.structures import UNKNOWN, ReidSet
from mlt.utils import comm
from mlt.utils.log import warn_once

logger = logging.getLogger(__name__)
Results = dict[str, dict[str, dict[str, float]]]  # set -> net -> metric -> value


def evaluate(
    cfg: CfgNode, model: ReidModel, sets: Sequence[ReidSet], images: Mapping[str, ImageDataset] | None = None
) -> Results:
    """Evaluate every net of `model` on every set that has a query and a gallery.

    All processes extract features, the main one computes the metrics, and all get its results.

    Args:
        cfg: TEST.* and the loader's keys are read.
        model: a meta-architecture; put into eval mode for the call.
        sets: data sets; those without a test split are skipped with a message.
        images: of some sets, by name, if they are kept from one evaluation to the next (`keep_test_images`).

    Returns:
        set name -> net name ("student", "teacher"; with " centred" behind it for features from which each
        camera's mean was taken, and the names of `evaluate_trials` behind that) -> metrics in percent, means over the
        trials of a set with random galleries.

    Raises:
        ValueError: a key of TEST out of range, or a set without any match; it is named.
    """
    mode = model.training
    model.eval()
    results: Results = {}
    for data in sets:
        if data.has_test:
            try:
                results[data.name] = _evaluate_set(cfg, model, data, (images or {}).get(data.name))
            except ValueError as error:
                raise ValueError(f"{data.name}: {error}") from error
        else:
            warn_once(logger, f"{data.name} has no query or no gallery: not evaluated")
    model.train(mode)
    return results


def _evaluate_set(
    cfg: CfgNode, model: ReidModel, data: ReidSet, images: ImageDataset | None
) -> dict[str, dict[str, float]]:
    records = data.query + data.gallery
    pids = torch.tensor([r.pid for r in records])
    camids = torch.tensor([r.camid for r in records])
    centre = cfg.TEST.CAMERA_CENTERING
    if centre and bool((camids == UNKNOWN).any()):
        warn_once(logger, f"{data.name} has images of unknown cameras: no centred results (TEST.CAMERA_CENTERING)")
        centre = False
    rows: dict[str, dict[str, float]] = {}
    for net in model.nets:
        embed = functools.partial(model.evaluate, net=net)
        if cfg.TEST.FLIP.ENABLED:
            embed = functools.partial(_both_sides, embed)
        features = extract(embed, build_test_loader(cfg, records, shared=images), len(records), model.device)
        variants = {net: features} | ({f"{net} centred": center_cameras(features, camids)} if centre else {})
        for name, variant in variants.items():
            compute = functools.partial(evaluate_trials, variant, pids, camids, data.trials(), refinement(cfg))
            rows |= {name + suffix: metrics for suffix, metrics in comm.on_main(compute).items()}
    return rows


def _both_sides(embed: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Unit mean of the features of images and of their mirror images."""
    return normalize(embed(images) + embed(images.flip(-1)))


def refinement(cfg: CfgNode) -> Refinement:
    """What TEST.AQE and TEST.RERANK add to the plain ranking.

    Args:
        cfg: TEST.* is read.

    Raises:
        ValueError: a number out of range.
    """
    aqe, again = cfg.TEST.AQE, cfg.TEST.RERANK
    keys = [f"TEST.{key}" for key in ("AQE.QE_TIME", "AQE.QE_K", "RERANK.K1", "RERANK.K2")]
    check_least(cfg, dict.fromkeys(keys, 1) | {"TEST.AQE.ALPHA": 0})
    if not 0 <= again.LAMBDA <= 1:
        raise ValueError(f"TEST.RERANK.LAMBDA must be between 0 and 1, got {again.LAMBDA}")
    return Refinement(
        {"num_neighbors": aqe.QE_K, "alpha": aqe.ALPHA, "times": aqe.QE_TIME} if aqe.ENABLED else None,
        {"k1": again.K1, "k2": again.K2, "lambda_value": again.LAMBDA} if again.ENABLED else None,
    )
