"""MLT / GLT, Stage II: a mixture of clusterings, one classifier each, and a memory of queue and prototypes."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from mlt.modeling.heads import MixtureLabelHead
from mlt.modeling.meta_arch.pseudo_label_model import PseudoLabelModel
from mlt.registry import META_ARCHS


@META_ARCHS.register()
class MixtureLabelTransport(PseudoLabelModel):
    """Loss = identification over all clusterings + triplet + circle losses against prototypes and queue.

    Identification, triplet and queue are on target rows, the prototypes on source rows. The re-labelling by transport
    is the pseudo-label hook's. Source: Zheng et al., CVPR 2021.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from MODEL, MEAN_TEACHER and MEMORY.

        Args:
            cfg: the whole tree.

        Raises:
            ValueError: a head without classifiers; further see PseudoLabelModel.
        """
        parts = super().from_config(cfg)
        if not isinstance(parts["heads"], MixtureLabelHead):
            raise ValueError(
                f"MixtureLabelTransport needs MODEL.HEADS.NAME MixtureLabelHead, got {cfg.MODEL.HEADS.NAME!r}"
            )
        return parts
