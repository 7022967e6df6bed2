"""What a new clustering does in a trainer: to classifiers of student and teacher, optimizer moments, and memories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlt.clustering.clusterings import Clustering
from mlt.engine.trainer import Trainer
from mlt.structures import SOURCE, TARGET, PseudoLabels

Build = Callable[..., Trainer]
ONE = ("PSEUDO_LABELS.NUM_CLUSTERS", (4,), "PSEUDO_LABELS.GROUP", 0)
CENTROIDS = ("MODEL.HEADS.INIT", "centroid", "MODEL.HEADS.MAX_CLUSTERS", 6, *ONE)
STRONG = ("MODEL.META_ARCHITECTURE", "PseudoLabelModel", "MODEL.HEADS.WITH_SOURCE", True, "MEMORY.NAME", "")
MMT = (
    *("MODEL.META_ARCHITECTURE", "MutualMeanTeaching", "MODEL.DSBN", False, "MEMORY.NAME", ""),
    *("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss", "SoftCrossEntropyLoss", "SoftTripletLoss")),
    *("PSEUDO_LABELS.WITH_SOURCE", False),
)
CONTRAST = (
    *("MODEL.META_ARCHITECTURE", "PseudoLabelModel", "MODEL.HEADS.NAME", "NeckHead", "MODEL.LOSSES.NAME", ()),
    *("MEAN_TEACHER.ENABLED", False, "MEMORY.FEATURE", "embedding", "LABEL_TRANSPORT.ENABLED", False),
)
SPCL = (
    *CONTRAST,
    "MEMORY.NAME",
    "HybridMemory",
    "PSEUDO_LABELS.FEATURES",
    "memory",
    "DATALOADER.PAD_SINGLETONS",
    False,
)
LABELS = PseudoLabels(torch.tensor([[0, 1, 2, 2, -1, 1, 0, 2, 1, 0, 0, -1, 2, 2, 1, 0]]), (3,))


def steps(trainer: Trainer, num: int = 2) -> None:
    for batch in list(trainer.epoch_batches(0, 0))[:num]:
        trainer.run_step(batch)
        trainer.iter += 1


def moments(trainer: Trainer, weight: Tensor) -> list[Tensor]:
    return [value for key, value in trainer.optimizer.state[weight].items() if key.startswith("exp_avg")]


def means_of(embeddings: Tensor) -> Tensor:
    """Unit mean of the unit features of each cluster of LABELS, image by image."""
    total = torch.zeros(3, embeddings.shape[1])
    for row, label in zip(embeddings, LABELS.targets.tolist(), strict=True):
        if label >= 0:
            total[label] += row / row.norm()
    return F.normalize(total)


class TestCentroids:
    def test_mean_features_stay_as_they_were_clustered(self, trainer_of: Build) -> None:
        """MMT's K-Means clusters the mean of both teachers' unit features, which is shorter than 1."""
        trainer = trainer_of(*CENTROIDS, *MMT, "PSEUDO_LABELS.UNIT_NORM", False)
        embeddings = torch.randn(16, 64)
        trainer.start_round(LABELS, embeddings, restart=False)
        wanted = F.normalize(torch.stack([embeddings[LABELS.targets == k].mean(0) for k in range(3)]))
        assert (wanted - means_of(embeddings)).abs().max() > 1e-3
        for net in trainer.adaptive.branches:
            torch.testing.assert_close(net.heads.classifiers[0][:3], wanted)

    @pytest.mark.parametrize("method", [(), STRONG, MMT], ids=["MLT", "strong", "MMT"])
    def test_rows_of_student_and_teacher_start_again_without_moments(
        self, trainer_of: Build, method: tuple[object, ...]
    ) -> None:
        trainer = trainer_of(*CENTROIDS, *method)
        steps(trainer)
        model = trainer.adaptive
        places = [id(weight) for weight in model.classifiers]
        assert len(places) == len(model.branches)
        assert all(value.any() for weight in model.classifiers for value in moments(trainer, weight))
        embeddings = torch.randn(16, 64)
        trainer.start_round(LABELS, embeddings, restart=False)
        for net in model.branches:
            for heads in (net.heads, net.teacher.heads) if net.teacher else (net.heads,):
                first = heads.num_source
                torch.testing.assert_close(heads.classifiers[0][first : first + 3], means_of(embeddings))
                assert heads.num_active == (3,)
            assert all(not value.any() for value in moments(trainer, net.heads.classifiers[0]))
            assert all(value.any() for value in moments(trainer, net.backbone.conv1.weight))
        assert [id(weight) for weight in model.classifiers] == places

    def test_source_rows_start_from_the_mean_of_each_identity(self, trainer_of: Build) -> None:
        trainer = trainer_of(*CENTROIDS, *STRONG)
        trainer.start_round(LABELS, torch.randn(16, 64), restart=False)
        model = trainer.model.eval()
        images = torch.stack([trainer.loader.source.untransformed()[i] for i in range(len(trainer.source))])
        v = model(images, net="student").detach()
        pids = torch.tensor([record.pid for record in trainer.source])
        expected = torch.stack([F.normalize(v[pids == k].mean(0), dim=0) for k in range(4)])
        torch.testing.assert_close(model.heads.classifiers[0][:4], expected, rtol=1e-3, atol=1e-5)

    def test_more_clusters_than_the_classifier_holds(self, trainer_of: Build) -> None:
        trainer = trainer_of(*CENTROIDS)
        many = PseudoLabels(torch.arange(16)[None] % 7, (7,))
        with pytest.raises(ValueError, match=r"6 rows and cannot hold 7 clusters; set MODEL\.HEADS\.MAX_CLUSTERS"):
            trainer.start_round(many, torch.randn(16, 64), restart=False)


class TestMemory:
    def test_the_first_labels_are_of_the_net_and_the_others_of_the_memory(
        self, trainer_of: Build, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calendar = ("PSEUDO_LABELS.SCHEDULE", "warm", "PSEUDO_LABELS.PERIOD", 1, "PSEUDO_LABELS.ROUNDS", 0)
        trainer = trainer_of(*SPCL, *ONE, *calendar, "SOLVER.MAX_EPOCH", 3, "SOLVER.STEPS", ())
        hook: Any = trainer.hooks["PseudoLabelHook"]
        clustered, memory, passes = [], [], []
        extract, cluster = trainer.embed_images, hook.clustering
        monkeypatch.setattr(trainer, "embed_images", lambda *args: passes.append(args[0]) or extract(*args))

        def record(features: Tensor) -> PseudoLabels:
            clustered.append(features.clone())
            memory.append(trainer.adaptive.memory.target_features().clone())
            return cluster(features)

        hook.clustering = type(
            "Recorded", (Clustering,), {"__call__": staticmethod(record), "report": {}, "state_dict": dict}
        )()
        trainer.train()
        assert len(clustered) == 3
        assert passes == [TARGET, SOURCE]  # once each, for the first round
        assert len(memory[0]) == 0
        for features, rows in zip(clustered[1:], memory[1:], strict=True):
            torch.testing.assert_close(features, rows)
        assert not torch.allclose(clustered[1], clustered[0], atol=1e-3)  # it has moved

    def test_a_method_without_source_rows_has_no_source_prototypes(self, trainer_of: Build) -> None:
        """DATASETS.NAMES may be there for Stage I alone."""
        words = ("MEMORY.NAME", "ClusterMemory", "MODEL.DSBN", False, "PSEUDO_LABELS.WITH_SOURCE", False)
        trainer = trainer_of(*CONTRAST, *words, *ONE)
        assert trainer.source
        embeddings = torch.randn(16, 64)
        trainer.start_round(LABELS, embeddings, restart=False)
        memory = trainer.adaptive.memory
        assert len(memory.prototypes) == 0
        torch.testing.assert_close(memory.centroids, means_of(embeddings))
        trainer.set_pseudo_labels(LABELS)
        steps(trainer, 1)
        assert trainer._losses.keys() == {"loss_target"}

    def test_spcl_has_both(self, trainer_of: Build) -> None:
        trainer = trainer_of(*SPCL, *ONE)
        embeddings = torch.randn(16, 64)
        trainer.start_round(LABELS, embeddings, restart=False)
        memory = trainer.adaptive.memory
        assert memory.prototypes.shape == (4, 64)
        torch.testing.assert_close(memory.instances, F.normalize(embeddings))
