"""What all meta-architectures share: nets, pixels, and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from mlt.config import configurable
from mlt.modeling.backbones import build_backbone
from mlt.modeling.heads import HeadOutput
from mlt.modeling.layers import convert_batch_norm
from mlt.modeling.losses import MutualLoss, ReidLoss, build_losses
from mlt.modeling.mean_teacher import MeanTeacher
from mlt.modeling.pixels import normalize_pixels
from mlt.registry import HEADS, LOSSES
from mlt.structures import SOURCE, Batch
from mlt.utils.transfer import send

NORMS = ("BN", "SyncBN")
NETS = ("teacher", "student")


class ReidModel(nn.Module):
    """Backbone, head and losses behind one `forward`: a dict of losses in training, unit features in evaluation.

    Args:
        backbone: normalised images -> feature map.
        heads: feature map -> HeadOutput.
        losses: see losses.build_losses.
        pixel_mean: mean of R, G, B in 0..255.
        pixel_std: standard deviation of R, G, B in 0..255.
        teacher: average of backbone and heads, None for none; it is the net that is evaluated.

    Attributes:
        num_starts: nets that are trained, each from a Stage I of its own (PRETRAIN.SEEDS).
        num_views: augmentations of each training image in a batch.

    Raises:
        ValueError: not three means and three positive deviations.
    """

    num_starts: ClassVar[int] = 1
    num_views: ClassVar[int] = 1
    group = 0  # the row of labels that pair losses read
    pixel_mean: Tensor
    pixel_std: Tensor
    losses: Iterable[ReidLoss]

    @configurable
    def __init__(
        self,
        backbone: nn.Module,
        heads: nn.Module,
        losses: Iterable[ReidLoss],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        teacher: MeanTeacher | None = None,
    ) -> None:
        super().__init__()
        if (len(pixel_mean), len(pixel_std)) != (3, 3) or min(pixel_std) <= 0:
            raise ValueError(
                "MODEL.PIXEL_MEAN and PIXEL_STD must have a value for each of R, G, B, and the latter > 0; got "
                f"{list(pixel_mean)} and {list(pixel_std)}"
            )
        self.backbone = backbone
        self.heads = heads
        self.teacher = teacher
        self.losses = nn.ModuleList(losses)  # type: ignore[assignment]
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL, batch norms already converted.

        Args:
            cfg: the whole tree.

        Raises:
            ValueError: unknown MODEL.BACKBONE.NORM, no loss at all, or one between two nets where there is one.
        """
        norm = cfg.MODEL.BACKBONE.NORM
        if norm not in NORMS:
            raise ValueError(f"MODEL.BACKBONE.NORM must be one of {', '.join(NORMS)}, got {norm!r}")
        backbone = build_backbone(cfg)
        heads = HEADS.get(cfg.MODEL.HEADS.NAME)(cfg, backbone.out_channels)
        for net in (backbone, heads):
            convert_batch_norm(net, dsbn=cfg.MODEL.DSBN, group_size=cfg.MODEL.BN_GROUP, sync=norm == "SyncBN")
        losses = build_losses(cfg)
        mutual = [type(loss).__name__ for loss in losses if isinstance(loss, MutualLoss)]
        if mutual and cls.num_starts < 2:
            raise ValueError(f"MODEL.LOSSES.NAME: {' and '.join(mutual)} compare two nets, {cls.__name__} has one")
        if not losses and not cls.memory_name(cfg):
            raise ValueError(f"There is no loss: MODEL.LOSSES.NAME is empty; it takes names out of {', '.join(LOSSES)}")
        return {
            "backbone": backbone,
            "heads": heads,
            "losses": losses,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @classmethod
    def memory_name(cls, cfg: CfgNode) -> str:
        """The memory that the model has by this config, "" for none.

        Args:
            cfg: the whole tree.
        """
        return ""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    @property
    def branches(self) -> tuple[ReidModel, ...]:
        """The students, each with its teacher."""
        return (self,)

    @property
    def nets(self) -> tuple[str, ...]:
        """Names of the nets there are, the one to be used last."""
        return ("student",) if self.teacher is None else ("student", "teacher")

    @property
    def trains_classifiers(self) -> bool:
        """Whether a loss reads logits; else the classifiers get no gradient."""
        return any(loss.reads == "logits" for loss in self.losses)

    def preprocess(self, images: Tensor) -> Tensor:
        """Normalise images, on the model's device.

        Args:
            images: uint8 or float [B, 3, H, W], RGB in 0..255.

        Returns:
            [B, 3, H, W] of the model's precision, channels last in memory, as `build_model` lays out weights

        Raises:
            ValueError: images of another kind or shape.
        """
        if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != 3:
            found = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"images must be a tensor [B, 3, H, W], RGB in 0..255, got {found}")
        return normalize_pixels(images.to(self.device, non_blocking=True), self.pixel_mean, self.pixel_std)

    def unpack(self, batch: Batch | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parts of a training batch, on the model's device.

        Args:
            batch: a batch dict, source rows before target rows.

        Returns:
            normalised images [B, 3, H, W], identities of the A source rows int64 [A], dataset indices of the target
            rows int64 [B - A]

        Raises:
            TypeError: bare images, which are enough for evaluation only.
            ValueError: a source row behind a target row.
        """
        if isinstance(batch, Tensor):
            raise TypeError("Training takes a batch dict, got a tensor; call model.eval() first to get features")
        domains = batch["domains"].tolist()  # a batch comes on the CPU, where reading it waits for nothing
        num_source = domains.count(SOURCE)
        if SOURCE in domains[num_source:]:
            raise ValueError(f"A batch is source rows, then target rows; got domains {domains}")
        source_targets = send(batch["targets"][:num_source], self.device)
        target_indices = send(batch["indices"][num_source:], self.device)
        return self.preprocess(batch["images"]), source_targets, target_indices

    def net(self, name: str) -> tuple[nn.Module, nn.Module]:
        """Backbone and head of one net.

        Args:
            name: "teacher" (the student where there is no teacher) or "student".

        Raises:
            ValueError: another name.
        """
        if name not in NETS:
            raise ValueError(f"net must be one of {', '.join(NETS)}, got {name!r}")
        if name == "teacher" and self.teacher is not None:
            return self.teacher.backbone, self.teacher.heads
        return self.backbone, self.heads

    def run(self, images: Tensor, net: str = "teacher") -> HeadOutput:
        """All outputs of one net.

        Args:
            images: uint8 or float [B, 3, H, W], RGB in 0..255.
            net: see `net`.
        """
        backbone, heads = self.net(net)
        return heads(backbone(self.preprocess(images)))

    def reid_losses(self, out: HeadOutput, labels: Tensor) -> dict[str, Tensor]:
        """Each of `losses`, and with a shallow head each for it as well.

        Args:
            out: of B rows, from G classifiers.
            labels: int64 [G, B].
        """
        values = {loss.key: loss.of(out, labels, self.group) for loss in self.losses}
        if out.auxiliary is not None:
            values |= {f"{loss.key}_shallow": loss.of(out.auxiliary, labels, self.group) for loss in self.losses}
        return values

    def embed(self, images: Tensor, net: str = "teacher") -> Tensor:
        """Embeddings b after the BNNeck.

        Args:
            images: uint8 or float [B, 3, H, W], RGB in 0..255.
            net: see `net`.

        Returns:
            [B, C], not normalised
        """
        return self.run(images, net).embeddings

    def evaluate(self, batch: Batch | Tensor, net: str = "teacher") -> Tensor:
        """Retrieval features v.

        Args:
            batch: images, or a dict that has them under "images".
            net: see `net`.

        Returns:
            float32 [B, C], unit rows
        """
        images = batch["images"] if isinstance(batch, dict) else batch
        return F.normalize(self.embed(images, net).float())

    def before_step(self) -> None:
        """The trainer calls this before the forward passes of each step."""

    def after_step(self) -> None:
        """The trainer calls this after each step that the optimizer really took."""
