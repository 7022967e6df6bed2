from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from mlt.config import get_cfg
from mlt.engine.extract import adapt_batch_norm, extract
from mlt.modeling.build import build_model
from mlt.modeling.meta_arch import ReidModel

CPU = torch.device("cpu")


def embed(images: Tensor) -> Tensor:
    """The first pixel, twice."""
    return images[:, :1, 0, 0].double().repeat(1, 2)


def loader(*batches: list[int]) -> list[dict[str, Tensor]]:
    """Images whose first pixel is their index."""
    return [
        {"images": torch.tensor(rows, dtype=torch.uint8).view(-1, 1, 1, 1), "indices": torch.tensor(rows)}
        for rows in batches
    ]


class TestExtract:
    def test_rows_lie_where_their_images_belong(self):
        rows = extract(embed, loader([3, 0], [4, 1], [2]), 5, CPU)
        assert rows.dtype == torch.float32
        assert rows.tolist() == [[i, i] for i in range(5)]

    def test_it_builds_no_graph(self):
        weight = torch.ones(1, 2, requires_grad=True)
        rows = extract(lambda images: embed(images).float() * weight, loader([0, 1]), 2, CPU)
        assert not rows.requires_grad

    @pytest.mark.parametrize(
        ("batches", "message"),
        [
            (([0, 1], [3]), r"1 of 4 images have no row or several, first indices \[2\]"),
            (([0, 1], [1, 2, 3]), r"1 of 4 images have no row or several, first indices \[1\]"),
            (([0], [2]), r"2 of 4 images .* \[1, 3\]"),
            ((), r"4 of 4 images"),
        ],
    )
    def test_an_image_without_a_row_or_with_two(self, batches, message):
        with pytest.raises(RuntimeError, match=message):
            extract(embed, loader(*batches), 4, CPU)


BATCHES = {"one has more": ([[3, 0], [4]], [[1, 2]]), "one has none": ([[1, 0], [2, 4], [3]], [])}


def extract_in_group(rank: int, folder: str) -> None:
    """One process of two; what it found, how many rows it sent, and what it says when both have image 1."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    broadcast, found = dist.broadcast, {}

    def watched(rows: Tensor, src: int) -> None:
        found["sent"] = found.get("sent", 0) + rows.numel() * (src == rank)
        broadcast(rows, src=src)

    dist.broadcast = watched
    for name, batches in BATCHES.items():
        found[name] = extract(embed, loader(*batches[rank]), 5, CPU)
    with pytest.raises(RuntimeError, match=r"2 of 3 images have no row or several, first indices \[1, 2\]"):
        extract(embed, loader([rank, 1] if rank == 0 else [1]), 3, CPU)
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def test_each_process_sends_its_own_rows_and_has_all(tmp_path):
    mp.spawn(extract_in_group, args=(str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for rank, found in enumerate(results):
        assert found["sent"] == 2 * sum(len(batch) for batches in BATCHES.values() for batch in batches[rank])
        for name in BATCHES:
            assert found[name].dtype == torch.float32
            assert found[name].tolist() == [[i, i] for i in range(5)]


def model(**keys: object) -> ReidModel:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "10x", "MODEL.BACKBONE.WIDTH", "8"])
    cfg.MODEL.HEADS.NUM_CLASSES = 4
    cfg.merge_from_list([str(word) for pair in keys.items() for word in (pair[0].replace("__", "."), pair[1])])
    return build_model(cfg)


def adaptive(**keys: object) -> ReidModel:
    given = {"MODEL__META_ARCHITECTURE": "MixtureLabelTransport", "MODEL__HEADS__NAME": "MixtureLabelHead"}
    return model(**given, PSEUDO_LABELS__NUM_CLUSTERS="(3, 4)", **keys)


def images(*sizes: int) -> list[dict[str, Tensor]]:
    return [{"images": torch.randint(0, 256, (size, 3, 16, 8), dtype=torch.uint8)} for size in sizes]


def statistics(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items() if "running" in key}


def stem_means(net: ReidModel, batches: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean over batches of what the stem's batch norm sees: mean, and variance as batch norm stores it."""
    with torch.no_grad():
        maps = [net.backbone.conv1(net.preprocess(batch["images"])).transpose(0, 1).flatten(1) for batch in batches]
    return torch.stack([m.mean(1) for m in maps]).mean(0), torch.stack([m.var(1) for m in maps]).mean(0)


class TestAdaptBatchNorm:
    @pytest.mark.parametrize("start", [0.0, 7.0])
    def test_is_the_plain_mean_over_batches_whatever_was_there(self, start):
        net, batches = model(), images(4, 4, 4)
        net.backbone.bn1.running_mean.fill_(start)
        adapt_batch_norm(net, batches)
        mean, variance = stem_means(net, batches)
        torch.testing.assert_close(net.backbone.bn1.running_mean, mean)
        torch.testing.assert_close(net.backbone.bn1.running_var, variance)

    def test_a_smaller_last_batch_is_left_out_unless_it_is_the_only_one(self):
        net, batches = model(), images(4, 4, 1)
        adapt_batch_norm(net, batches)
        torch.testing.assert_close(net.backbone.bn1.running_mean, stem_means(net, batches[:2])[0])
        adapt_batch_norm(net, images(3))

    def test_groups(self):
        net, batches = model(MODEL__BN_GROUP=2), images(4, 4, 3)
        adapt_batch_norm(net, batches)
        torch.testing.assert_close(net.backbone.bn1.running_mean, stem_means(net, batches[:2])[0])

    @pytest.mark.parametrize("training", [True, False])
    def test_weights_modes_and_momenta_stay(self, training):
        net = model()
        net.train(training)
        net.heads.eval()
        weights = {name: value.clone() for name, value in net.named_parameters()}
        modes = {name: module.training for name, module in net.named_modules()}
        adapt_batch_norm(net, images(4))
        assert all(torch.equal(value, weights[name]) for name, value in net.named_parameters())
        assert {name: module.training for name, module in net.named_modules()} == modes
        assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)} == {0.1}

    def test_student_and_teacher_are_both_adapted(self):
        net = adaptive()
        before = statistics(net)
        adapt_batch_norm(net, images(4, 4))
        after = statistics(net)
        assert all(not torch.equal(before[key], after[key]) for key in after)
        for key in after:
            if key.startswith("teacher."):
                assert torch.equal(after[key], after[key.removeprefix("teacher.")])

    def test_two_domains(self):
        """The target's norms see every row, an odd number of them too; the source's stay."""
        net, batches = adaptive(MODEL__DSBN=True), images(5, 5)
        before = statistics(net)
        adapt_batch_norm(net, batches)
        after = statistics(net)
        for key in after:
            assert torch.equal(before[key], after[key]) is (".BN_S." in key), key
        torch.testing.assert_close(net.backbone.bn1.BN_T.running_mean, stem_means(net, batches)[0])

    def test_no_batch(self):
        with pytest.raises(ValueError, match=r"no batch of at least 1 images.*set DATASETS\.TARGETS"):
            adapt_batch_norm(model(), [])

    def test_rows_that_do_not_fill_a_group_are_left_out(self):
        """6 + 6 + 3 images in groups of 4: the statistics of the first 4 of two batches."""
        batches = [{"images": torch.randint(256, (n, 3, 16, 8), dtype=torch.uint8)} for n in (6, 6, 3)]
        grouped, cropped = model(MODEL__BN_GROUP=4), model(MODEL__BN_GROUP=4)
        cropped.load_state_dict(grouped.state_dict())
        adapt_batch_norm(grouped, batches)
        adapt_batch_norm(cropped, [{"images": batch["images"][:4]} for batch in batches[:2]])
        for name, value in cropped.state_dict().items():
            assert torch.equal(grouped.state_dict()[name], value), name
        assert grouped.backbone.bn1.num_batches_tracked == 2

    def test_batches_smaller_than_a_group(self):
        batch = {"images": torch.zeros(6, 3, 16, 8, dtype=torch.uint8)}
        with pytest.raises(ValueError, match=r"at least 8 images \(MODEL\.BN_GROUP\).*TEST\.IMS_PER_BATCH.*ADAPT_BN"):
            adapt_batch_norm(model(MODEL__BN_GROUP=8), [batch])


SHARES = {"one has none": (2, 3, 0), "one has the short one alone": (1, 2, -1), "all have one": (1, 1, 1)}


def batches_of(name: str, rank: int) -> list[dict[str, Tensor]]:
    """Batches of 4 images of one of three processes, -1 for one of 2 images; the same whoever asks."""
    torch.manual_seed(rank)
    share = SHARES[name][rank]
    return images(*[4] * share) if share >= 0 else images(2)


def adapt_in_group(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    torch.manual_seed(7)
    found, net = {}, model(MODEL__BACKBONE__NORM="SyncBN")  # which waits in each batch, and on a CPU is refused
    for name in SHARES:
        adapt_batch_norm(net, batches_of(name, rank))
        found[name] = statistics(net)
    assert "forward" not in vars(net.backbone.bn1)
    with pytest.raises(ValueError, match="no batch of at least 1 images"):
        adapt_batch_norm(net, [])
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def test_processes_adapt_as_one(tmp_path):
    """Each batch counts once, whoever has it, and one that is short for all of them does not."""
    mp.spawn(adapt_in_group, args=(str(tmp_path),), nprocs=3)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    torch.manual_seed(7)
    net = model()
    for name in SHARES:
        whole = [batch for rank in range(3) for batch in batches_of(name, rank) if len(batch["images"]) == 4]
        adapt_batch_norm(net, whole)
        for found in results:
            for key, value in statistics(net).items():
                torch.testing.assert_close(found[name][key], value, msg=lambda m, k=key: f"{k}: {m}")
