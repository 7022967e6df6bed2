"""Data sets and images between the two toolboxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from fastreid.data import build as host
from fastreid.data.common import CommDataset
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from fastreid.data.transforms import build_transforms
from fastreid.evaluation.evaluator import inference_context
from torch import Tensor, nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from mlt.data.datasets import read_dataset
from mlt.data.samplers import BatchPlan, IdentitySampler
from mlt.data.workers import START_METHOD
from mlt.engine.extract import extract
from mlt.registry import DATASETS
from mlt.structures import UNKNOWN, Batch, ReidRecord, ReidSet
from mlt.utils import comm

NOBODY = "unknown"  # identity or camera of an image in FastReID's lists, in which all are strings


def register_known_datasets() -> None:
    """Sets that we have and FastReID has not."""
    for name in DATASETS:
        if name not in DATASET_REGISTRY._obj_map:
            DATASET_REGISTRY.register(_dataset(name))


def register_datasets(cfg: CfgNode) -> None:
    """Make `Name@PATH`, `Folder@PATH` and `csv@FILE` of a config known to FastReID, whose registry takes names only.

    Args:
        cfg: a tree with DATASETS.{NAMES, TESTS, TARGETS, CAMERA_REGEX}; the expression of the last call counts.
    """
    for name in (*cfg.DATASETS.NAMES, *cfg.DATASETS.TARGETS, *cfg.DATASETS.TESTS):
        if "@" in name:
            if name not in DATASET_REGISTRY._obj_map:
                DATASET_REGISTRY.register(_dataset(name))
            DATASET_REGISTRY.get(name).camera_regex = cfg.DATASETS.CAMERA_REGEX


def _dataset(name: str) -> type:
    """A class of FastReID's kind that reads by our reader."""

    def init(self: Any, root: str = "datasets", **options: Any) -> None:
        found = read_dataset(name, root=root, camera_regex=self.camera_regex)
        train = [(r.path, _named(name, r.pid), _named(name, r.camid)) for r in found.train]
        query, gallery = (lambda: _test_items(found)[0]), (lambda: _test_items(found)[1])
        ImageDataset.__init__(self, train, query, gallery, **options)

    members = {"__init__": init, "dataset_name": name, "camera_regex": "", "__module__": __name__}
    return type(name, (ImageDataset,), members)


def _named(name: str, number: int) -> str:
    return NOBODY if number == UNKNOWN else f"{name}_{number}"


def _test_items(found: ReidSet) -> tuple[list[Any], list[Any]]:
    """Query and gallery. Every unknown camera is one of its own, so that no match is left out because of it."""
    if found.random_galleries:
        raise ValueError(
            f"{found.name} is evaluated on several random galleries, which FastReID cannot do: use FastReID's own set "
            "of that name, or tools/train_net.py --eval-only"
        )
    records = found.query + found.gallery
    items = [(r.path, r.pid, -1 - i if r.camid == UNKNOWN else r.camid) for i, r in enumerate(records)]
    return items[: len(found.query)], items[len(found.query) :]


def read_train(names: Sequence[str], **options: Any) -> list[ReidRecord]:
    """Training images of sets in FastReID's registry, with identities and cameras in one numbering by sorted names.

    Args:
        names: of the sets.
        **options: arguments of the sets besides root.

    Raises:
        KeyError: no such set.
    """
    sets = [DATASET_REGISTRY.get(name)(root=host._root, **options) for name in names]
    items = [item for one in sets for item in one.train]
    pids, camids = ({k: n for n, k in enumerate(sorted({i[c] for i in items} - {NOBODY}, key=str))} for c in (1, 2))
    return [ReidRecord(path, pids.get(pid, UNKNOWN), camids.get(camid, UNKNOWN)) for path, pid, camid in items]


class TrainImages(CommDataset):
    """Some images of a domain with identities, and their positions in the domain as "indices".

    Args:
        records: of the whole domain.
        transform: PIL image -> float [3, H, W].
        positions: int64 [n], the images; None = all.
        targets: int64 [n], their identities; None = the records'.
        num_views: 2 adds a second random change of every image, as "views".
    """

    def __init__(
        self,
        records: Sequence[ReidRecord],
        transform: Callable[[Any], Tensor],
        positions: Tensor | None = None,
        targets: Tensor | None = None,
        num_views: int = 1,
    ) -> None:
        self.positions = list(range(len(records))) if positions is None else positions.tolist()
        pids = [records[i].pid for i in self.positions] if targets is None else targets.tolist()
        items = [(records[i].path, pid, records[i].camid) for i, pid in zip(self.positions, pids, strict=True)]
        super().__init__(items, _Views(transform, num_views), relabel=False)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = super().__getitem__(index)
        images, *views = row["images"]
        return {**row, "images": images, "indices": self.positions[index], **({"views": views[0]} if views else {})}


class _Views:
    """Several random changes of one image, [views, 3, H, W]."""

    def __init__(self, transform: Callable[[Any], Tensor], number: int) -> None:
        self.transform, self.number = transform, number

    def __call__(self, image: Any) -> Tensor:
        return torch.stack([self.transform(image) for _ in range(self.number)])


def load_identities(
    cfg: CfgNode, records: Sequence[ReidRecord], positions: Tensor, targets: Tensor, num_views: int = 1
) -> Iterable[Batch]:
    """Endless training batches of some images by FastReID's transforms and DATALOADER.SAMPLER_TRAIN.

    Args:
        cfg: the whole tree; SOLVER.IMS_PER_BATCH images of all processes make a batch.
        records: of the whole domain.
        positions: int64 [n], the images.
        targets: int64 [n], their identities.
        num_views: see TrainImages.

    Raises:
        ValueError: no whole number of identities in a batch, or fewer identities than that: FastReID's identity
            samplers would search for ever.
    """
    if "Identity" in cfg.DATALOADER.SAMPLER_TRAIN:
        plan = BatchPlan(cfg.SOLVER.IMS_PER_BATCH, 1, cfg.DATALOADER.NUM_INSTANCE, world_size=comm.world_size())
        IdentitySampler(targets, torch.tensor([records[i].camid for i in positions.tolist()]), plan)
    images = TrainImages(records, build_transforms(cfg, is_train=True), positions, targets, num_views)
    return forking(host.build_reid_train_loader(cfg, train_set=images))


def load_all(cfg: CfgNode, records: Sequence[ReidRecord]) -> Iterable[Batch]:
    """Batches of all images once, in order, without random changes; each process has a share.

    Args:
        cfg: the whole tree; TEST.IMS_PER_BATCH images of all processes make a batch.
        records: what to load.
    """
    images = TrainImages(records, build_transforms(cfg, is_train=False))
    size, workers = cfg.TEST.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS
    return forking(host.build_reid_test_loader(images, test_batch_size=size, num_query=0, num_workers=workers)[0])


def forking(loader: DataLoader[Any]) -> DataLoader[Any]:
    """One of FastReID's loaders, its workers forked where the system can. Processes that launch() started would spawn
    them, and each worker would import everything anew for every pass over the images.

    Args:
        loader: changed in place.
    """
    if loader.num_workers:
        loader.multiprocessing_context = START_METHOD
    return loader


def embed_all(
    cfg: CfgNode, records: Sequence[ReidRecord], model: nn.Module, embed: Callable[[Tensor], Tensor]
) -> Tensor:
    """Rows of all images, [N, C], in their order, by a model in evaluation mode; every process gets all of them.

    Args:
        cfg: the whole tree.
        records: the images.
        model: goes into evaluation mode and back.
        embed: float images [B, 3, H, W] -> [B, C], by the model.
    """
    with inference_context(model):
        return extract(embed, load_all(cfg, records), len(records), torch.device(cfg.MODEL.DEVICE))
