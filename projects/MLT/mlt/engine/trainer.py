"""One trainer for all methods: builds the parts from a cfg, runs the step, hosts the label hook, saves and resumes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from yacs.config import CfgNode

from mlt.data.build import build_test_loader, build_train_loader, keep_test_images
from mlt.data.datasets import read_datasets
from mlt.engine import hooks
from mlt.engine.accumulation import split_batch
from mlt.engine.evaluate import Results, evaluate
from mlt.engine.extract import extract
from mlt.engine.fingerprint import data_fingerprint
from mlt.engine.label_host import ModelLabelHost
from mlt.engine.start import (
    build_start_model,
    compile_backbones,
    complete_config,
    mixed_precision,
    parallelize,
    read_train_images,
)
from mlt.engine.train_loop import HookBase, TrainLoop
from mlt.modeling.layers import running_statistics
from mlt.modeling.meta_arch import PseudoLabelModel
from mlt.modeling.net_config import describe_net
from mlt.registry import HOOKS
from mlt.solver.build import build_optimizer, zero_moments
from mlt.solver.lr_schedule import build_lr_scheduler, restore_optimizer
from mlt.structures import SOURCE, Batch
from mlt.utils import comm
from mlt.utils.checkpoint import Checkpointer, load_checkpoint
from mlt.utils.events import EventStorage
from mlt.utils.finite import check_finite
from mlt.utils.seed import rng_state, seed_everything, set_rng_state

logger = logging.getLogger(__name__)
LOG_PERIOD = 20  # steps between written points; on CUDA also between checks for NaN, so that no step waits
RUN_STATE = ("model", "optimizer", "scheduler", "scaler", "hooks", "iteration", "processes")  # what resuming needs


class Trainer(ModelLabelHost, TrainLoop):
    """Trains a meta-architecture on labelled source and unlabelled target images.

    Args:
        cfg: config; PRETRAIN.WEIGHTS or MODEL.WEIGHTS name what to start from.

    Attributes:
        cfg: as given, with the numbers that the data decide filled in.
        model: the meta-architecture, unwrapped.

    Raises:
        ValueError: no training images, or weights that do not fit.
        FileNotFoundError: a data set or a weights file is not there.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.source, self.target = read_train_images(cfg)
        self.test_sets = read_datasets(cfg, cfg.DATASETS.TESTS)
        self.cfg = cfg = complete_config(cfg, self.source, self.target)
        super().__init__(cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.ITERS_PER_EPOCH)
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.model = build_start_model(cfg, self.target)
        restarts = cfg.PSEUDO_LABELS.SCHEDULE == "restart"  # only then is the start needed again
        self.start_state = {k: v.cpu().clone() for k, v in self.model.state_dict().items()} if restarts else {}
        self.optimizer = build_optimizer(cfg, self.model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer, iters_per_epoch=self.iters_per_epoch)
        self.amp_dtype = mixed_precision(cfg)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)
        compile_backbones(self.model, cfg.MODEL.COMPILE)
        self.net = parallelize(self.model, accumulates=cfg.SOLVER.ACCUMULATION > 1)
        self.loader = build_train_loader(cfg, self.source, self.target, num_views=self.model.num_views)
        self.test_images = keep_test_images(cfg, self.test_sets, self.loader)
        self.events = EventStorage(cfg.OUTPUT_DIR)
        self.checkpointer = Checkpointer(cfg.OUTPUT_DIR)
        self._losses: dict[str, Tensor] = {}
        self.register_hooks(self._build_hooks())
        if comm.active():  # all processes were built alike; from here on each draws its own dropout masks
            seed_everything(cfg.SEED + comm.rank())

    def _build_hooks(self) -> list[HookBase]:
        cfg = self.cfg
        kind = self.model.nets[-1].split()[0]  # MMT keeps the better one of two teachers
        choosers = [net for net in self.model.nets if net.split()[0] == kind]
        chooser = next(((s.name, choosers) for s in self.test_sets[:1] if s.has_test), None)
        evaluation = hooks.EvalHook(self.evaluate, cfg.TEST.EVAL_PERIOD, chooser)
        checkpoints = hooks.CheckpointHook(self.save, lambda: evaluation.is_best, cfg.SOLVER.CHECKPOINT_PERIOD)
        adapts = isinstance(self.model, PseudoLabelModel)
        return [
            hooks.StopOnSignal(),
            *([HOOKS.get("PseudoLabelHook")(cfg, self)] if adapts else []),
            hooks.PeriodicReset(lambda: zero_moments(self.optimizer), cfg.SOLVER.RESET_PERIOD),
            hooks.BatchNormAverage(self.model),  # before evaluation: all processes must evaluate one model
            evaluation,
            hooks.Progress(self.events, self.summary, cfg.OUTPUT_DIR, LOG_PERIOD),
            checkpoints,  # last: what it saves includes the evaluation, and a run killed before it redoes the epoch
        ]

    def epoch_batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from the `start`-th on.

        Args:
            epoch: epoch number.
            start: steps of this epoch that are done already.
        """
        self.model.train()
        return self.loader.epoch(epoch, start)

    def run_step(self, batch: Batch) -> None:
        """Forward, backward, optimizer, then teacher and memory.

        Args:
            batch: see mlt.structures.

        Raises:
            FloatingPointError: a loss is NaN or infinite (on CUDA noticed within LOG_PERIOD steps).
        """
        self.model.before_step()
        self.optimizer.zero_grad(set_to_none=True)
        parts = split_batch(batch, self.cfg.SOLVER.ACCUMULATION)
        losses = [self._backward(part, len(parts), last=part is parts[-1]) for part in parts]
        self._watch({name: torch.stack([part[name] for part in losses]).mean() for name in losses[0]})
        if self.cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
        scale = self.scaler.get_scale()  # waits for the GPU with float16 alone; else it is 1
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.scaler.get_scale() >= scale:  # else float16 overflowed and the step was skipped
            self.model.after_step()

    def _backward(self, part: Batch, num_parts: int, *, last: bool) -> dict[str, Tensor]:
        """Add a part's share to the gradients; several processes average them with the last part."""
        alone = isinstance(self.net, DistributedDataParallel) and not last
        with self.net.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
            with self._mixed():
                losses = self.net(part)
            self.scaler.scale(torch.stack(list(losses.values())).sum() / num_parts).backward()
        return {name: value.detach() for name, value in losses.items()}

    def _mixed(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def _watch(self, losses: dict[str, Tensor]) -> None:
        self._losses = losses
        self.events.put(self._losses | {"lr": self.optimizer.param_groups[0]["lr"]})
        if self.device.type == "cpu" or self.iter % LOG_PERIOD == 0:
            check_finite(self._losses, self.iter)

    # --- what the label host asks of its trainer, see label_host.py ---------------------------------------------

    @property
    def adaptive(self) -> PseudoLabelModel:
        """The model, known to be one that learns from pseudo labels."""
        if not isinstance(self.model, PseudoLabelModel):
            raise TypeError(f"{type(self.model).__name__} takes no pseudo labels")
        return self.model

    def embed_images(self, domain: int, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """Rows of all training images of a domain, [N, C], in their order; in mixed precision, as the steps are.

        Args:
            domain: SOURCE or TARGET.
            embed: uint8 images [B, 3, H, W] -> [B, C].
        """
        source = domain == SOURCE
        records, decoded = (self.source, self.loader.source) if source else (self.target, self.loader.target)
        mode = self.model.training
        self.model.eval()
        with self._mixed():
            rows = extract(embed, build_test_loader(self.cfg, records, shared=decoded), len(records), self.device)
        self.model.train(mode)
        return rows

    def ids(self, domain: int) -> tuple[Tensor, Tensor]:
        """Camera ids and identities of all training images of a domain, int64 [N].

        Args:
            domain: SOURCE or TARGET.
        """
        records = self.source if domain == SOURCE else self.target
        return torch.tensor([r.camid for r in records]), torch.tensor([r.pid for r in records])

    def set_target_identities(self, targets: Tensor) -> None:
        """Hand the driving group's labels to the loader.

        Args:
            targets: int64 [N].
        """
        self.loader.set_target_labels(targets)

    def log(self, values: dict[str, float]) -> None:
        """Record numbers of this epoch.

        Args:
            values: name -> number.
        """
        self.events.put(values)
        if comm.is_main():
            logger.info("epoch %d: %s", self.epoch + 1, "  ".join(f"{k} {v:.4g}" for k, v in values.items()))

    # --- evaluation, checkpoints ---------------------------------------------------------------------------------

    def evaluate(self) -> Results:
        """All nets on all test sets."""
        results = evaluate(self.cfg, self.model, self.test_sets, self.test_images)
        for name, nets in results.items():
            self.events.put({f"{name}/{net}/{k}": v for net, row in nets.items() for k, v in row.items()})
        return results

    @property
    def last_results(self) -> Results:
        """The newest evaluation."""
        return self.hooks["EvalHook"].last  # type: ignore[attr-defined]

    def summary(self) -> dict[str, Any]:
        """Last and best results and the last label quality, for results.json."""
        hook: Any = self.hooks.get("PseudoLabelHook")
        return self.hooks["EvalHook"].summary() | {"labels": hook.quality if hook else {}}  # type: ignore[attr-defined]

    def save(self, names: Sequence[str]) -> None:
        """Write all state to OUTPUT_DIR under some names. Called by every process; the main one writes.

        Args:
            names: file names without suffix; the run goes on from the last.

        Raises:
            FloatingPointError: a loss or a weight is no number. Nothing is written then.
        """
        check_finite(self._losses, self.iter)
        weights = {key: value for key, value in self.model.state_dict().items() if value.is_floating_point()}
        if not bool(torch.stack([value.sum(dtype=torch.float32) for value in weights.values()]).isfinite().all()):
            check_finite({key: value.sum() for key, value in weights.items()}, self.iter)  # says which
        own = {name: value.cpu() for name, value in running_statistics(self.model).items()} if comm.active() else {}
        processes = comm.gather_object({"rng": rng_state(), "model": own})
        if not comm.is_main():
            return
        state = {
            "model": self.model.state_dict(),
            "config": describe_net(self.cfg),
            "images": self.images_hash,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "hooks": {key: hook.state_dict() for key, hook in self.hooks.items()},
            "iteration": self.iter,
            "epoch": self.epoch,
            "processes": processes,  # what differs from one to the other
        }
        self.checkpointer.save(names, state)

    @cached_property
    def images_hash(self) -> str:
        """Of names and order of the training images: labels and memories are kept by an image's number."""
        return data_fingerprint(self.source, self.target, sizes=False)

    def resume(self) -> None:
        """Go on from the newest checkpoint in OUTPUT_DIR, if there is one.

        Raises:
            ValueError: it is of another model or of other training images, or holds weights alone.
        """
        path = self.checkpointer.last()
        if path is None:
            logger.info("nothing to resume in %s: starting from the beginning", self.cfg.OUTPUT_DIR)
            return
        state = load_checkpoint(path)
        lacking = [key for key in RUN_STATE if key not in state]
        if lacking:
            raise ValueError(
                f"{path} has no {', '.join(lacking)}: weights may start a run (MODEL.WEIGHTS, in another OUTPUT_DIR), "
                "but not resume one"
            )
        try:
            self.model.load_state_dict(state["model"])
            restore_optimizer(self.optimizer, self.scheduler, state["optimizer"], state["scheduler"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} does not fit this config, so it cannot be resumed: {error}") from error
        if state.get("images", self.images_hash) != self.images_hash:
            raise ValueError(
                f"{path} was trained on other images: names or identities of DATASETS.NAMES or TARGETS have changed "
                "since. Put them back as they were, or start anew in another OUTPUT_DIR"
            )
        if state["scaler"]:  # empty where float16 was off
            self.scaler.load_state_dict(state["scaler"])
        for key, hook in self.hooks.items():
            hook.load_state_dict(state["hooks"][key])
        self.iter = state["iteration"]
        self.finished = self.iter >= self.max_iter
        processes = state["processes"]
        if len(processes) == comm.world_size():
            self.model.load_state_dict(processes[comm.rank()]["model"], strict=False)
            set_rng_state(processes[comm.rank()]["rng"])
        else:
            text = "the run had %d processes and now has %d: not bit for bit the same from here"
            logger.warning(text, len(processes), comm.world_size())
        self.events.rewind(self.iter)
        logger.info("resumed from %s after step %d of %d", path, self.iter, self.max_iter)
