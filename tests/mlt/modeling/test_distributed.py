"""Two processes with half of the batch each learn exactly what one process learns from all of it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import mlt.components  # noqa: F401  fills the registries in each process
from mlt.config import CfgNode
from mlt.modeling import MixtureLabelTransport, build_model
from mlt.modeling.meta_arch import ReidModel
from mlt.structures import Batch

BASELINE = ("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.NAME", "EmbeddingHead", "MODEL.DSBN", False)
SHARE = 4  # rows of each domain in a process, and in a batch norm group


def share_of(batch: Batch, rank: int) -> Batch:
    """A process's rows: its source share, then its target share."""
    first = rank * SHARE
    rows = torch.cat([torch.arange(first, first + SHARE), torch.arange(first, first + SHARE) + 2 * SHARE])
    return {key: value[rows] for key, value in batch.items() if isinstance(value, torch.Tensor)}


def build(cfg: CfgNode, labels: torch.Tensor) -> ReidModel:
    torch.manual_seed(0)
    model = build_model(cfg).double().train()
    if isinstance(model, MixtureLabelTransport):
        model.set_pseudo_labels(labels, group=1)
        model.memory.set_prototypes(torch.randn(model.memory.prototypes.shape))
    return model


def two_steps(model: ReidModel, wrapped: Any, batches: list[Batch]) -> dict[str, Any]:
    """Gradients of the second step, when the queue holds the first batch; and the memory after it."""
    for batch in batches:
        wrapped.zero_grad()
        losses = wrapped(batch)
        sum(losses.values()).backward()
        model.after_step()
    return {
        "losses": torch.stack(list(losses.values())).detach(),
        "grads": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "memory": model.memory.state_dict() if isinstance(model, MixtureLabelTransport) else {},
    }


def work(rank: int, port: int, cfgs: list[CfgNode], labels: torch.Tensor, batches: list[Batch], folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for number, cfg in enumerate(cfgs):
        model = build(cfg, labels)
        found = two_steps(model, DistributedDataParallel(model), [share_of(batch, rank) for batch in batches])
        torch.save(found, f"{folder}/{number}_{rank}.pth")
    dist.destroy_process_group()


def test_losses_gradients_and_memory_are_those_of_one_process(cfg_of, batch_of, labels, tmp_path: Path):
    """Of Stage II, and of Stage I, whose triplets are mined over all processes too."""
    cfgs = [cfg_of("MODEL.BN_GROUP", SHARE), cfg_of("MODEL.BN_GROUP", SHARE, *BASELINE)]
    batches = [batch_of(2 * SHARE, 2 * SHARE, seed) for seed in (1, 2)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(port, cfgs, labels, batches, str(tmp_path)), nprocs=2)
    for number, cfg in enumerate(cfgs):
        ranks = [torch.load(tmp_path / f"{number}_{rank}.pth", weights_only=True) for rank in range(2)]
        model = build(cfg, labels)
        compare(ranks, two_steps(model, model, batches))


def compare(ranks: list[dict[str, Any]], one: dict[str, Any]) -> None:
    """What two processes found, with what one did."""
    assert one["losses"].all()  # every loss takes part
    torch.testing.assert_close((ranks[0]["losses"] + ranks[1]["losses"]) / 2, one["losses"])
    for rank in ranks:
        assert rank["grads"].keys() == one["grads"].keys()
        for name, grad in one["grads"].items():
            torch.testing.assert_close(rank["grads"][name], grad, msg=name)
        for name, value in one["memory"].items():
            assert torch.equal(rank["memory"][name], ranks[0]["memory"][name])
            torch.testing.assert_close(rank["memory"][name], value)
