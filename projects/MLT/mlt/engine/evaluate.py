"""Features of the test sets to a table of metrics, for every net of a model."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch
from yacs.config import CfgNode

from mlt.clustering.camera_centering import center_cameras
from mlt.data.build import build_test_loader
from mlt.engine.extract import extract
from mlt.evaluation.trials import evaluate_trials
from mlt.modeling.meta_arch import ReidModel
from mlt.structures import UNKNOWN, ReidSet
from mlt.utils import comm
from mlt.utils.log import warn_once

logger = logging.getLogger(__name__)
Results = dict[str, dict[str, dict[str, float]]]  # set -> net -> metric -> value


def evaluate(cfg: CfgNode, model: ReidModel, sets: Sequence[ReidSet]) -> Results:
    """Evaluate every net of `model` on every set that has a query and a gallery.

    All processes extract features, the main one computes the metrics, and all get its results.

    Args:
        cfg: TEST.* and the loader's keys are read.
        model: a meta-architecture; put into eval mode for the call.
        sets: data sets; those without a test split are skipped with a message.

    Returns:
        set name -> net name ("student", "teacher"; with " centred" behind it for features from which each
        camera's mean was taken) -> metrics in percent, means over the trials of a set with random galleries.
    """
    mode = model.training
    model.eval()
    results: Results = {}
    for data in sets:
        if data.has_test:
            results[data.name] = _evaluate_set(cfg, model, data)
        else:
            warn_once(logger, f"{data.name} has no query or no gallery: not evaluated")
    model.train(mode)
    return results


def _evaluate_set(cfg: CfgNode, model: ReidModel, data: ReidSet) -> dict[str, dict[str, float]]:
    records = data.query + data.gallery
    pids = torch.tensor([r.pid for r in records])
    camids = torch.tensor([r.camid for r in records])
    centre = cfg.TEST.CAMERA_CENTERING
    if centre and bool((camids == UNKNOWN).any()):
        warn_once(logger, f"{data.name} has images of unknown cameras: no centred results (TEST.CAMERA_CENTERING)")
        centre = False
    rows = {}
    for net in model.nets:
        embed = functools.partial(model.evaluate, net=net)
        features = extract(embed, build_test_loader(cfg, records), len(records), model.device)
        variants = {net: features} | ({f"{net} centred": center_cameras(features, camids)} if centre else {})
        for name, variant in variants.items():
            rows[name] = comm.on_main(functools.partial(evaluate_trials, variant, pids, camids, data.trials()))
    return rows
