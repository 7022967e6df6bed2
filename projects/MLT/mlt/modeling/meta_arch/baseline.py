"""Supervised re-ID: identification and triplet loss on labelled images. Stage I of the adaptation methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from mlt.modeling.meta_arch.reid_model import ReidModel
from mlt.registry import META_ARCHS
from mlt.structures import Batch


@META_ARCHS.register()
class Baseline(ReidModel):
    """One net with one classifier (Luo et al., CVPRW 2019).

    Target rows in a batch give no loss: they only pass through the net after the source rows, so that its batch norm
    statistics become a mix of both domains, as in MMT's source pre-training.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL.

        Args:
            cfg: the whole tree.

        Raises:
            ValueError: MODEL.DSBN, which needs both domains in one forward pass.
        """
        if cfg.MODEL.DSBN:
            raise ValueError(
                "Baseline trains on one domain and cannot use MODEL.DSBN; "
                "it is for MODEL.META_ARCHITECTURE MixtureLabelTransport"
            )
        return super().from_config(cfg)

    def forward(self, batch: Batch | Tensor, net: str = "teacher") -> dict[str, Tensor] | Tensor:
        """Losses of the source rows in training, unit features [B, C] in evaluation.

        Args:
            batch: a batch dict; in evaluation the images [B, 3, H, W] are enough.
            net: there is one net, which answers to "teacher" and "student" alike.
        """
        if not self.training:
            return self.evaluate(batch, net)
        images, targets, _ = self.unpack(batch)
        source, target = images.split([len(targets), len(images) - len(targets)])
        out = self.heads(self.backbone(source))
        losses = self.reid_losses(out, targets[None])
        if len(target):
            with torch.no_grad():
                self.heads(self.backbone(target))
        return losses
