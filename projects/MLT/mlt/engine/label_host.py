"""The label hook's host for a PseudoLabelModel: mixed into our trainer, and into that of another toolbox."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize
from yacs.config import CfgNode

from mlt.clustering.centroids import cluster_means
from mlt.modeling.meta_arch import PseudoLabelModel
from mlt.solver.build import zero_moments
from mlt.structures import SOURCE, TARGET, PseudoLabels
from mlt_ops import segment_mean


class ModelLabelHost:
    """What a trainer answers the label hook, in terms of its model and optimizer.

    Attributes:
        cfg: the whole tree, MODEL.HEADS.NUM_CLASSES counted.
        iter: steps done.
        optimizer: of the model.
        start_state: the model's tensors at the end of Stage I, to which rounds return; {} where they do not.
    """

    cfg: CfgNode
    iter: int
    optimizer: torch.optim.Optimizer
    start_state: dict[str, Tensor]

    @property
    def adaptive(self) -> PseudoLabelModel:
        """The model, unwrapped.

        Raises:
            TypeError: it takes no pseudo labels.
        """
        raise NotImplementedError

    def embed_images(self, domain: int, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """Rows of all training images of a domain, [N, C], in their order, by the model in evaluation mode.

        Args:
            domain: SOURCE or TARGET.
            embed: images [B, 3, H, W] -> [B, C].
        """
        raise NotImplementedError

    def ids(self, domain: int) -> tuple[Tensor, Tensor]:
        """Camera ids and identities of all training images of a domain, int64 [N]; UNKNOWN where nobody knows.

        Args:
            domain: SOURCE or TARGET.
        """
        raise NotImplementedError

    def set_target_identities(self, targets: Tensor) -> None:
        """Hand the driving group's labels to the loader.

        Args:
            targets: int64 [N], -1 for an outlier.
        """
        raise NotImplementedError

    def extract_target(self) -> Tensor:
        """What is clustered, [N, D], all target images in their order: the memory's rows, once it has some, or a pass
        of the net that labels."""
        memory = self.adaptive.memory
        if self.cfg.PSEUDO_LABELS.FEATURES == "memory" and memory is not None and self.iter > 0:
            return memory.target_features()
        return self.embed_images(TARGET, self.adaptive.label_features)

    def classify(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        """Logits [N, K_g] of each group's classifier, by the net that labels.

        Args:
            embeddings: [N, D].
        """
        with torch.no_grad():
            return self.adaptive.classify(embeddings)

    def target_ids(self) -> tuple[Tensor, Tensor]:
        """Camera ids, and the identities that only logged quality may see; int64 [N]."""
        return self.ids(TARGET)

    def start_round(self, labels: PseudoLabels, embeddings: Tensor, restart: bool) -> None:
        """New clusters: optionally back to Stage I, then new classifier rows, prototypes and optimizer moments.

        Args:
            labels: the clustering.
            embeddings: [N, D], what was clustered.
            restart: put the nets back to the end of Stage I first.
        """
        model = self.adaptive
        if restart:
            model.load_state_dict(self.start_state)
            zero_moments(self.optimizer)
        source = self._source_means() if restart or self.iter == 0 else None
        centroids: tuple[Tensor, ...] = ()
        if self.cfg.MODEL.HEADS.INIT == "centroid":
            # what was clustered: the mean of both teachers' unit features is no unit feature (MMT with K-Means)
            centroids = cluster_means(normalize(embeddings) if self.cfg.PSEUDO_LABELS.UNIT_NORM else embeddings, labels)
        generator = torch.Generator().manual_seed(self.cfg.SEED + self.iter)
        model.reset_classifiers(labels.num_clusters, centroids, source if centroids else None, generator)
        zero_moments(self.optimizer, model.classifiers)
        if model.memory is not None:
            model.memory.start_round(labels.targets, embeddings, source)

    def _source_means(self) -> Tensor | None:
        """Mean unit feature of each source identity, [S, C], in the memory's space; None where none are trained on."""
        model, (_, pids) = self.adaptive, self.ids(SOURCE)
        if not (len(pids) and self.cfg.PSEUDO_LABELS.WITH_SOURCE and (model.memory or model.heads.num_source)):
            return None
        rows = normalize(self.embed_images(SOURCE, model.source_features))
        return segment_mean(rows, pids.to(rows.device), self.cfg.MODEL.HEADS.NUM_CLASSES)[0]

    def set_pseudo_labels(self, labels: PseudoLabels) -> None:
        """Hand labels to loader and model.

        Args:
            labels: of all target images.
        """
        self.set_target_identities(labels.targets)
        self.adaptive.set_pseudo_labels(labels.labels, labels.group)
