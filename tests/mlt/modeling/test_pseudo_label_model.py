"""One step of the strong baseline, of SpCL and of ClusterContrast by hand, and how classifiers start again."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlt.modeling import build_model
from mlt.modeling.meta_arch import PseudoLabelModel
from mlt.structures import Batch

NUM_SOURCE, NUM_CLUSTERS = 6, 5  # of conftest.py


def one_step(model: PseudoLabelModel, batch: Batch, rate: float = 0.1) -> dict[str, Tensor]:
    """As the trainer does it: forward, backward, optimizer, then teacher and memory."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    losses = model(batch)
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    model.after_step()
    return losses


def embeddings_of(model: PseudoLabelModel, batch: Batch) -> Tensor:
    """b of all rows, as the next forward pass will see them; the model stays as it is."""
    twin = copy.deepcopy(model)
    return twin.heads(twin.backbone(twin.preprocess(batch["images"]))).embeddings.detach()


def smoothed_cross_entropy(logits: Tensor, labels: list[int]) -> Tensor:
    """The formula, row by row; -1 does not count."""
    rows = [
        -(0.9 * z.log_softmax(0)[y] + 0.1 * z.log_softmax(0).mean())
        for z, y in zip(logits, labels, strict=True)
        if y >= 0
    ]
    return torch.stack(rows).mean()


def soft_triplet(features: Tensor, labels: list[int]) -> Tensor:
    """The formula, anchor by anchor; rows of -1 are nothing to anybody."""
    rows = []
    for f, y in zip(features, labels, strict=True):
        distance = [(f - other).norm().clamp(min=1e-6) for other in features]
        own = [d for d, z in zip(distance, labels, strict=True) if z == y >= 0]
        others = [d for d, z in zip(distance, labels, strict=True) if z >= 0 and z != y]
        rows.append(F.softplus(max(own) - min(others)) if own else 0 * f.sum())
    return torch.stack(rows).mean()


def move(bank: Tensor, places: list[int], rows: Tensor, momentum: float) -> Tensor:
    """One row after the other."""
    bank = bank.clone()
    for place, row in zip(places, F.normalize(rows), strict=True):
        bank[place] = F.normalize(momentum * bank[place] + (1 - momentum) * row, dim=0)
    return bank


class TestSourceIdentities:
    """MODEL.HEADS.WITH_SOURCE: classes are source identities, then clusters."""

    def test_losses_by_hand(self, method_of, batch_of, labels):
        model, batch = method_of("PseudoLabelModel"), batch_of(8, 8)
        table = labels[:1].clone()
        table[0, batch["indices"][9]] = -1  # an outlier in the second target row
        model.set_pseudo_labels(table, 0)
        twin = copy.deepcopy(model)
        out = twin.heads(twin.backbone(twin.preprocess(batch["images"])))
        clusters = table[0, batch["indices"][8:]].tolist()
        joint = batch["targets"][:8].tolist() + [y + NUM_SOURCE if y >= 0 else -1 for y in clusters]
        assert out.logits[0].shape == (16, NUM_SOURCE + NUM_CLUSTERS)
        losses = model(batch)
        assert losses.keys() == {"loss_cls", "loss_triplet"}
        torch.testing.assert_close(losses["loss_cls"], smoothed_cross_entropy(out.logits[0], joint))
        torch.testing.assert_close(losses["loss_triplet"], soft_triplet(out.features, joint), rtol=1e-4, atol=1e-5)

    def test_transport_sees_the_clusters_alone(self, method_of, batch_of):
        model = method_of("PseudoLabelModel").eval()
        out = model.run(batch_of(0, 4)["images"])
        assert torch.equal(model.classify(out.embeddings)[0], out.logits[0][:, NUM_SOURCE:])

    def test_both_kinds_of_rows_start_from_means(self, method_of):
        model = method_of("PseudoLabelModel", "MODEL.HEADS.MAX_CLUSTERS", 9, "MEAN_TEACHER.ENABLED", True)
        spare = model.heads.classifiers[0][NUM_SOURCE + 4 :].clone()
        clusters, source = torch.randn(4, 64), torch.randn(NUM_SOURCE, 64)
        model.reset_classifiers((4,), (clusters,), source)
        for heads in (model.heads, model.teacher.heads):
            assert heads.num_active == (4,)
            torch.testing.assert_close(heads.classifiers[0][:NUM_SOURCE], F.normalize(source))
            torch.testing.assert_close(heads.classifiers[0][NUM_SOURCE : NUM_SOURCE + 4], F.normalize(clusters))
        assert torch.equal(model.heads.classifiers[0][NUM_SOURCE + 4 :], spare)

    def test_later_rounds_leave_the_source_rows(self, method_of):
        model = method_of("PseudoLabelModel")
        before = model.heads.classifiers[0].clone()
        model.reset_classifiers((5,), (torch.randn(5, 64),))
        assert torch.equal(model.heads.classifiers[0][:NUM_SOURCE], before[:NUM_SOURCE])
        assert not torch.isclose(model.heads.classifiers[0][NUM_SOURCE:], before[NUM_SOURCE:]).any(1).all()

    @pytest.mark.parametrize("name", ["PseudoLabelModel", "MixtureLabelTransport", "MutualMeanTeaching"])
    def test_more_clusters_than_rows(self, method_of, name):
        model = method_of(name, "MODEL.HEADS.MAX_CLUSTERS", 9)
        fitting, too_many = [(k,) * len(model.heads.num_active) for k in (9, 10)]
        model.reset_classifiers(fitting)
        with pytest.raises(ValueError, match=r"9 rows and cannot hold 10 clusters; set MODEL\.HEADS\.MAX_CLUSTERS"):
            model.reset_classifiers(too_many)

    @pytest.mark.parametrize("key", ["MODEL.DSBN", "MODEL.HEADS.WITH_SOURCE"])
    @pytest.mark.parametrize("off", [("DATASETS.NAMES", ()), ("PSEUDO_LABELS.WITH_SOURCE", False)])
    def test_they_need_source_images(self, cfg_of, key, off):
        options = {"MODEL.META_ARCHITECTURE": "PseudoLabelModel", "MODEL.DSBN": False} | {key: True}
        with pytest.raises(ValueError, match=rf"{key} needs source images in every batch.*set it False"):
            build_model(cfg_of(*(word for item in options.items() for word in item), *off))


class TestOneStep:
    def test_spcl(self, method_of, batch_of):
        """One softmax over source identities, clusters of instances as they are, and nothing else."""
        model, batch = method_of("SpCL"), batch_of(8, 8)
        table = torch.arange(24).clamp(min=6)  # one cluster of seven images, the others alone
        table = torch.where(table > 6, table - 6, 0)
        model.set_pseudo_labels(table[None], 0)
        memory = model.memory
        b = embeddings_of(model, batch)
        source, images = batch["targets"][:8].tolist(), batch["indices"][8:].tolist()
        means = [memory.instances[table == k].mean(0) for k in range(int(table.max()) + 1)]
        vectors = torch.stack([*memory.prototypes, *means])
        log_p = (F.normalize(b) @ vectors.T / 0.05).log_softmax(1)
        own = source + [NUM_SOURCE + int(table[i]) for i in images]
        each = -(log_p[torch.arange(16), own].exp() + 1e-6).log()
        prototypes, instances = memory.prototypes.clone(), memory.instances.clone()
        losses = one_step(model, batch)
        assert losses.keys() == {"loss_source", "loss_target"}
        torch.testing.assert_close(losses["loss_source"], each[:8].mean(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses["loss_target"], each[8:].mean(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(memory.prototypes, move(prototypes, source, b[:8], 0.2))
        torch.testing.assert_close(memory.instances, move(instances, images, b[8:], 0.2))

    @pytest.mark.parametrize("hard", [False, True])
    def test_cluster_contrast(self, method_of, batch_of, labels, hard):
        model = method_of("ClusterContrast", "MEMORY.PROTOTYPE_MOMENTUM", 0.1, "MEMORY.HARD", hard)
        batch = batch_of(0, 12)
        memory, b = model.memory, embeddings_of(model, batch)
        centroids = memory.centroids.clone()
        own = labels[0, batch["indices"]].tolist()
        logits = F.normalize(b) @ centroids.T / 0.05
        losses = one_step(model, batch)
        assert losses.keys() == {"loss_target"}
        torch.testing.assert_close(losses["loss_target"], F.cross_entropy(logits, torch.tensor(own)))
        rows = range(12)
        if hard:
            rows = [min((i for i in rows if own[i] == k), key=lambda i: float(logits[i, own[i]])) for k in set(own)]
        expected = move(centroids, [own[i] for i in rows], b[list(rows)], 0.1)
        torch.testing.assert_close(memory.centroids, expected)

    @pytest.mark.parametrize("ramp", [True, False])
    def test_teacher(self, method_of, batch_of, ramp):
        """alpha_t = min(1 - 1/(t+1), 0.999) with the ramp, of the student after its step."""
        model = method_of("MixtureLabelTransport", "MEAN_TEACHER.RAMP", ramp)
        for alpha in (0.0, 0.5, 2 / 3) if ramp else (0.999, 0.999):
            before = [p.clone() for p in model.teacher.parameters()]
            one_step(model, batch_of(8, 8))
            student = [*model.backbone.parameters(), *model.heads.parameters()]
            for teacher, old, new in zip(model.teacher.parameters(), before, student, strict=True):
                torch.testing.assert_close(teacher, alpha * old + (1 - alpha) * new.detach())

    def test_a_step_that_is_skipped_leaves_no_trace(self, method_of, batch_of):
        """As float16 does when it overflows: forward without after_step."""
        model = method_of("SpCL")
        before = {name: value.clone() for name, value in model.memory.state_dict().items()}
        model(batch_of(8, 8))
        assert all(torch.equal(value, before[name]) for name, value in model.memory.state_dict().items())


def test_outliers_are_no_rows_of_a_contrast(method_of, batch_of):
    model, batch = method_of("ClusterContrast"), batch_of(0, 8)
    alone = {key: value[:4] for key, value in batch.items() if key != "img_paths"}
    table = model.labels.clone()
    table[0, batch["indices"][4:]] = -1
    model.set_pseudo_labels(table, 0)
    b = embeddings_of(model, batch)
    twin = copy.deepcopy(model)
    loss = model(batch)["loss_target"]
    logits = F.normalize(b[:4]) @ twin.memory.centroids.T / 0.05
    torch.testing.assert_close(loss, F.cross_entropy(logits, table[0, alone["indices"]]))


def test_without_classifiers_any_number_of_clusters_will_do(method_of):
    model = method_of("ClusterContrast")
    model.set_pseudo_labels(torch.arange(24)[None], 0)
    model.reset_classifiers((24,))
    assert model.classifiers == []
    with pytest.raises(TypeError, match="NeckHead has no classifiers, which LABEL_TRANSPORT needs: switch it off"):
        model.classify(torch.randn(2, 64))
