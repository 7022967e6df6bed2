"""FastReID's trainer as a host of the pseudo-label hook."""

from __future__ import annotations

import functools
import logging
import os
import weakref
from collections.abc import Callable
from typing import Any

import torch
from fastreid.data import build as host_data
from fastreid.engine import DefaultTrainer
from fastreid.engine.train_loop import HookBase
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.solver import build_optimizer
from torch import Tensor, nn
from yacs.config import CfgNode

from mlt.adapters.fastreid.components import NetConfig
from mlt.adapters.fastreid.data import embed_all, forking, load_all, load_identities, read_train, register_datasets
from mlt.adapters.fastreid.joint_loader import JointLoader
from mlt.data.build import iters_per_epoch, shuffled
from mlt.engine import hooks
from mlt.engine.extract import adapt_batch_norm
from mlt.engine.label_host import ModelLabelHost
from mlt.engine.start import load_start
from mlt.modeling.meta_arch import PseudoLabelModel
from mlt.registry import HOOKS
from mlt.solver.build import zero_moments
from mlt.structures import TARGET, UNKNOWN
from mlt.utils import comm

logger = logging.getLogger(__name__)


class ForeignHook(HookBase):
    """One of our hooks as a hook of FastReID's.

    Args:
        hook: has our six moments, which are FastReID's.
    """

    def __init__(self, hook: Any) -> None:
        self.hook = hook

    def before_train(self) -> None:
        """Once."""
        self.hook.trainer = self.trainer
        self.hook.before_train()

    def before_epoch(self) -> None:
        """Before each epoch."""
        self.hook.before_epoch()

    def before_step(self) -> None:
        """Before each step."""
        self.hook.before_step()

    def after_step(self) -> None:
        """After each step."""
        self.hook.after_step()

    def after_epoch(self) -> None:
        """After each epoch."""
        self.hook.after_epoch()

    def after_train(self) -> None:
        """Once."""
        self.hook.after_train()


class AfterStep(HookBase):
    """Teacher and memory follow each step that the optimizer took; numbers of the epoch go to FastReID's storage, which
    drops those that come before the first step."""

    scale = 0.0

    def before_step(self) -> None:
        """Remember the loss scale of mixed precision."""
        self.trainer.adaptive.before_step()
        scaler = self.trainer.grad_scaler
        self.scale = 0.0 if scaler is None else scaler.get_scale()

    def after_step(self) -> None:
        """Follow, unless float16 overflowed and the step was skipped."""
        scaler = self.trainer.grad_scaler
        if scaler is None or scaler.get_scale() >= self.scale:
            self.trainer.adaptive.after_step()
        self.trainer.storage.put_scalars(**self.trainer.numbers, smoothing_hint=False)
        self.trainer.numbers.clear()


class MLTTrainer(ModelLabelHost, DefaultTrainer):
    """FastReID's trainer for our meta-architectures; for FastReID's own it is DefaultTrainer.

    Batches are source rows and as many target rows, which the pseudo-label hook labels between epochs. The net that is
    evaluated is the teacher. Checkpoints hold labels, teacher and memory. FastReID resumes at the start of an epoch.

    Args:
        cfg: FastReID's tree with the keys of `add_mlt_config`.

    Raises:
        ValueError: what this host cannot do, or what does not fit the data.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if _adapts(cfg):
            _check(cfg)
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        self.start_state: dict[str, Tensor] = {}
        self.numbers: dict[str, float] = {}
        super().__init__(cfg)

    @property
    def adaptive(self) -> PseudoLabelModel:
        """The model, out of DDP."""
        return self.checkpointer.model  # which FastReID takes out of DDP, too

    # --- what DefaultTrainer builds -----------------------------------------------------------------------------------

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Joint batches; for a meta-architecture of FastReID's own those of DATASETS.NAMES.

        Args:
            cfg: the whole tree.

        Raises:
            ValueError: no target images, or too few identities for a batch.
        """
        register_datasets(cfg)
        if not _adapts(cfg):
            return super().build_train_loader(cfg)
        source = [r for r in read_train(cfg.DATASETS.NAMES, combineall=cfg.DATASETS.COMBINEALL) if r.pid != UNKNOWN]
        target = read_train(cfg.DATASETS.TARGETS)
        if not target:
            raise ValueError(f"{cfg.MODEL.META_ARCHITECTURE} labels target images, but DATASETS.TARGETS is empty")
        logger.info("%d source images, %d target images", len(source), len(target))
        num_views = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).num_views
        return JointLoader(
            source,
            target,
            functools.partial(load_identities, cfg, num_views=num_views),
            with_source=cfg.PSEUDO_LABELS.WITH_SOURCE,
            num_batches=iters_per_epoch(cfg, len(source), len(target)),
            ims_per_batch=cfg.SOLVER.IMS_PER_BATCH,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """FastReID's, for `Name@PATH` and the like too, with DATALOADER.NUM_WORKERS processes in place of always four.

        Args:
            cfg: the whole tree.
            dataset_name: one of DATASETS.TESTS.
        """
        register_datasets(cfg)
        parts = host_data._test_loader_from_config(cfg, dataset_name=dataset_name)
        loader, num_query = host_data.build_reid_test_loader(**parts, num_workers=cfg.DATALOADER.NUM_WORKERS)
        return forking(loader), num_query

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """FastReID's; classifiers that no loss trains are frozen, for DDP would wait for their gradients.

        Args:
            cfg: the whole tree.
        """
        model = super().build_model(cfg)
        if isinstance(model, PseudoLabelModel) and not model.trains_classifiers:
            for weight in model.classifiers:
                weight.requires_grad_(False)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Any:
        """FastReID's, with the parameters one by one: new clusters forget the moments of their classifiers alone.

        Args:
            cfg: the whole tree.
            model: the model.
        """
        return build_optimizer(cfg, model, contiguous=not _adapts(cfg))

    def build_hooks(self) -> list[HookBase]:
        """FastReID's, after the timer ours: labels first, statistics of batch norm before the evaluation."""
        timer, *others = super().build_hooks()
        if not _adapts(self.cfg):
            return [timer, *others]
        host = weakref.proxy(self)
        labels = HOOKS.get("PseudoLabelHook")(self.cfg, host)
        ours = [
            labels,
            hooks.PeriodicReset(lambda: zero_moments(host.optimizer), self.cfg.SOLVER.RESET_PERIOD),
            hooks.BatchNormAverage(self.adaptive),
        ]
        self.checkpointer.checkpointables |= {"pseudo_labels": labels, "config": NetConfig(self.cfg)}
        if self.grad_scaler is not None:
            self.checkpointer.checkpointables["grad_scaler"] = self.grad_scaler
        if self.adaptive.memory is not None and self.adaptive.memory.resized:  # FastReID skips tensors of a new shape
            self.checkpointer.checkpointables["memory"] = self.adaptive.memory
        return [timer, *map(ForeignHook, ours), AfterStep(), *others]

    def resume_or_load(self, resume: bool = True) -> None:
        """Start weights as our own engine loads them (any toolbox's), or the whole state of the newest checkpoint.

        Args:
            resume: go on with the run in OUTPUT_DIR, if there is one.

        Raises:
            ValueError: weights that do not fit.
            FileNotFoundError: they are not there.
        """
        if not _adapts(self.cfg):
            super().resume_or_load(resume)
            return
        paths = _start_weights(self.cfg)
        if paths:
            load_start(self.adaptive, paths, self.cfg.MODEL.WEIGHTS_DOMAIN)
        if self.cfg.PRETRAIN.ADAPT_BN:
            adapt_batch_norm(self.adaptive, load_all(self.cfg, shuffled(self.data_loader.records[TARGET])))
        if self.cfg.PSEUDO_LABELS.SCHEDULE == "restart":
            self.start_state = {k: v.cpu().clone() for k, v in self.adaptive.state_dict().items()}
        if resume and self.checkpointer.has_checkpoint():
            super().resume_or_load(resume=True)

    # --- what the label host asks of its trainer ----------------------------------------------------------------------

    def embed_images(self, domain: int, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """Rows of all training images of a domain, [N, C], in their order.

        Args:
            domain: SOURCE or TARGET.
            embed: float images [B, 3, H, W] -> [B, C].
        """
        return embed_all(self.cfg, self.data_loader.records[domain], self.adaptive, embed)

    def ids(self, domain: int) -> tuple[Tensor, Tensor]:
        """Camera ids and identities of all training images of a domain, int64 [N].

        Args:
            domain: SOURCE or TARGET.
        """
        return self.data_loader.ids(domain)

    def set_target_identities(self, targets: Tensor) -> None:
        """Hand the driving group's labels to the loader.

        Args:
            targets: int64 [N].
        """
        self.data_loader.set_target_identities(targets)

    def log(self, values: dict[str, float]) -> None:
        """Record numbers of this epoch.

        Args:
            values: name -> number.
        """
        self.numbers |= values
        if comm.is_main():
            logger.info("epoch %d: %s", self.epoch + 1, "  ".join(f"{k} {v:.4g}" for k, v in values.items()))


def _adapts(cfg: CfgNode) -> bool:
    return issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), PseudoLabelModel)


def _start_weights(cfg: CfgNode) -> list[str]:
    return list(cfg.PRETRAIN.WEIGHTS) or [cfg.MODEL.WEIGHTS] * bool(cfg.MODEL.WEIGHTS)


def _check(cfg: CfgNode) -> None:
    """Refuse what FastReID's trainer would stumble over hours later, or do without effect."""
    several = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE).num_starts > 1
    faults = {
        "TEST.PRECISE_BN.ENABLED needs batches of one labelled set; use PRETRAIN.ADAPT_BN": cfg.TEST.PRECISE_BN.ENABLED,
        "DATASETS.TESTS is empty, but FastReID's trainer evaluates": not cfg.DATASETS.TESTS,
        "TEST.EVAL_PERIOD and SOLVER.CHECKPOINT_PERIOD must be >= 1, FastReID divides by them": min(
            cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD
        )
        < 1,
        "PSEUDO_LABELS.SCHEDULE restart goes back to Stage I: give its weights by MODEL.WEIGHTS or PRETRAIN.WEIGHTS, "
        "or choose warm": cfg.PSEUDO_LABELS.SCHEDULE == "restart" and not _start_weights(cfg),
        'MODEL.DEVICE is cpu, but FastReID loads to the GPU where there is one: hide it by CUDA_VISIBLE_DEVICES=""': (
            cfg.MODEL.DEVICE == "cpu" and torch.cuda.is_available()
        ),
        "SOLVER.HEADS_LR_FACTOR and SOLVER.FREEZE_ITERS reach the first of two students only": several
        and (cfg.SOLVER.HEADS_LR_FACTOR != 1 or cfg.SOLVER.FREEZE_ITERS > 0),
    }
    for fault, there in faults.items():
        if there:
            raise ValueError(f"{cfg.MODEL.META_ARCHITECTURE} in FastReID: {fault}.")
