"""Joint batches of both domains for training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mlt.data.augment import BatchTransform
from mlt.data.image_dataset import ImageDataset
from mlt.data.samplers import BatchPlan, Draw, IdentitySampler, Sampler, ShuffleSampler
from mlt.data.transforms import second_seed
from mlt.data.workers import SkippedImages, batch_loader
from mlt.structures import SOURCE, TARGET, UNKNOWN, Batch
from mlt.utils.transfer import send

DECODED_AT_ONCE = 64  # images that a worker decodes before it asks for more


class _Domain:
    """One domain's images, the labels that the main process holds for them, and who chooses among them."""

    def __init__(self, number: int, images: ImageDataset, plan: BatchPlan) -> None:
        self.number = number
        self.images = images
        # source and target draw from different random streams
        self.plan = replace(plan, seed=2 * plan.seed + number)
        self.labels = torch.full((len(images),), UNKNOWN)
        self.sampler: Sampler = ShuffleSampler(len(images), self.plan)

    def set_labels(self, labels: Tensor) -> None:
        labels = labels.detach().cpu()
        if labels.shape != self.labels.shape or labels.dtype != torch.int64:
            raise ValueError(
                f"TrainLoader: {'source' if self.number == SOURCE else 'target'} labels must be int64 "
                f"[{len(self.labels)}], one for each image; got {labels.dtype} {list(labels.shape)}"
            )
        self.sampler = IdentitySampler(labels, self.images.camids, self.plan)
        self.labels = labels.clone()


class _JointImages(Dataset[Batch]):
    """Source rows, then target rows, of one batch, and the seeds of their draws."""

    def __init__(self, parts: list[ImageDataset]) -> None:
        self.parts = parts

    def __getitems__(self, draws: list[list[Draw]]) -> Batch:
        batches = [part.__getitems__(chosen) for part, chosen in zip(self.parts, draws, strict=True)]
        seeds = torch.tensor([draw.seed for chosen in draws for draw in chosen])
        return {"seeds": seeds} | {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


class _Decoding(Dataset[None]):
    """Puts images into their store, and gives nothing back."""

    def __init__(self, images: ImageDataset) -> None:
        self.images = images

    def __getitems__(self, indices: list[int]) -> None:
        self.images.fill(indices)


class _Gathering:
    """Batches of images that are decoded already, from this process."""

    def __init__(self, images: _JointImages, batches: Iterable[list[list[Draw]]]) -> None:
        self.images = images
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return map(self.images.__getitems__, self.batches)


class _EpochBatches:
    """The batch sampler of one long-lived DataLoader: what it yields changes from epoch to epoch."""

    def __init__(self) -> None:
        self.batches: Iterator[list[list[Draw]]] = iter(())

    def __iter__(self) -> Iterator[list[list[Draw]]]:
        return self.batches


@dataclass(frozen=True)
class OnDevice:
    """Augmentation of whole batches on a device, in place of that of each image where it is loaded.

    All images are decoded before the first epoch if they have a store; from then on no other process is needed.

    Args:
        transform: random change of a batch.
        device: where batches are changed, and stay.
        num_views: 2 adds a second random change of every image to a batch, as "views".
        keep_pixels: keep all decoded images on the device, too.
    """

    transform: BatchTransform
    device: torch.device
    num_views: int = 1
    keep_pixels: bool = False


class TrainLoader:
    """Batches of source rows, then as many target rows; either domain may be missing.

    A domain with labels gives identities (see IdentitySampler), one without gives images at random with target
    UNKNOWN. Labels stay in this process and are looked up by index; identities of target records are never read.
    An image that is skipped is replaced by a copy of another row of the batch, of the same identity if one is there.

    Args:
        source: source images.
        target: target images.
        source_targets: int64 [len(source)], 0 .. S-1, negative ones are never drawn; None = draw at random.
        plan: size and number of batches.
        num_workers: processes that load; 0 = this one. They live as long as the loader.
        pin_memory: page-locked batches, for copies to a GPU.
        on_device: change batches on a device; the images then have no transform of their own.

    Raises:
        ValueError: no images at all, or fewer identities than a batch needs.
    """

    def __init__(
        self,
        source: ImageDataset | None,
        target: ImageDataset | None,
        *,
        source_targets: Tensor | None = None,
        plan: BatchPlan,
        num_workers: int = 0,
        pin_memory: bool = False,
        on_device: OnDevice | None = None,
    ) -> None:
        pairs = ((SOURCE, source), (TARGET, target))
        self._domains = {number: _Domain(number, images, plan) for number, images in pairs if images is not None}
        if not self._domains:
            raise ValueError("TrainLoader: neither source nor target images; set DATASETS.NAMES or DATASETS.TARGETS")
        if source is not None and source_targets is not None:
            self._domains[SOURCE].set_labels(source_targets)
        self.source, self.target, self.plan, self.on_device = source, target, plan, on_device
        self.num_workers = num_workers
        self._batches = _EpochBatches()
        self._joint = _JointImages([domain.images for domain in self._domains.values()])
        self._loader: Iterable[Batch] = batch_loader(
            self._joint, self._batches, num_workers=num_workers, pin_memory=pin_memory, persistent=True
        )
        self._skipped = SkippedImages()

    def set_target_labels(self, labels: Tensor) -> None:
        """New identities of the target images, from the next epoch on.

        Args:
            labels: int64 [len(target)]; negative ones are never drawn.

        Raises:
            ValueError: wrong length, or fewer identities than a batch needs.
        """
        if TARGET not in self._domains:
            raise ValueError("TrainLoader: there are no target images to label; set DATASETS.TARGETS")
        self._domains[TARGET].set_labels(labels)

    def __len__(self) -> int:
        return self.plan.num_batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, with the labels of now. Only the latest call's iterator may be used.

        Args:
            epoch: counted from 0.
            start: first batch, for resuming in the middle of an epoch.

        Returns:
            len(self) - start batches as `mlt.structures` describes them.
        """
        domains = list(self._domains.values())
        labels = [domain.labels for domain in domains]
        self._prepare_images()
        self._batches.batches = map(list, zip(*(domain.sampler.batches(epoch, start) for domain in domains)))
        return (self._complete(batch, domains, labels) for batch in self._loader)

    def _prepare_images(self) -> None:
        """Decode what is missing and leave the workers, where batches are augmented on a device."""
        for images in self._joint.parts:
            if self.on_device is not None:
                self._decode(images)
            if images.store is not None:
                images.store.seal()
        if self.on_device is None or not all(images.in_store for images in self._joint.parts):
            return
        self._loader = _Gathering(self._joint, self._batches)
        for images in self._joint.parts:
            if self.on_device.keep_pixels and images.store is not None:
                images.store.move_to(self.on_device.device)

    def _decode(self, images: ImageDataset) -> None:
        """Fill a store. Processes begin at different places; whoever comes to an image that is there goes on."""
        missing = images.missing()
        start = len(missing) * self.plan.rank // self.plan.world_size
        missing = missing[start:] + missing[:start]
        chunks = [missing[i : i + DECODED_AT_ONCE] for i in range(0, len(missing), DECODED_AT_ONCE)]
        workers = min(self.num_workers, len(chunks))
        for _ in batch_loader(_Decoding(images), chunks, num_workers=workers, pin_memory=False):
            pass

    def _complete(self, batch: Batch, domains: list[_Domain], labels: list[Tensor]) -> Batch:
        """Replace skipped rows and look up everything but the pixels."""
        valid, seeds = batch.pop("valid").chunk(len(domains)), batch.pop("seeds")
        indices = batch["indices"].chunk(len(domains))
        size = len(indices[0])
        if not all(bool(part.all()) for part in valid):
            for domain, part, good in zip(domains, indices, valid):
                self._skipped.report([domain.images.paths[i] for i in part[~good].tolist()])
            shown = [substitutes(good, self.plan.num_instances) for good in valid]
            order = torch.cat([rows + i * size for i, rows in enumerate(shown)])
            batch |= {key: batch[key][order] for key in ("images", "views") if key in batch}
            seeds = seeds[order]
            indices = tuple(part[rows] for part, rows in zip(indices, shown))
        batch |= self._changed(batch["images"], seeds)
        batch["indices"] = torch.cat(indices)
        batch["targets"] = torch.cat([table[part] for table, part in zip(labels, indices)])
        batch["camids"] = torch.cat([domain.images.camids[part] for domain, part in zip(domains, indices)])
        batch["domains"] = torch.tensor([domain.number for domain in domains]).repeat_interleave(size)
        batch["img_paths"] = [domain.images.paths[i] for domain, part in zip(domains, indices) for i in part.tolist()]
        return batch

    def _changed(self, images: Tensor, seeds: Tensor) -> Batch:
        """What augmentation on a device makes of a batch."""
        if self.on_device is None:
            return {}
        images, change = send(images, self.on_device.device), self.on_device.transform
        views = {"views": change(images, second_seed(seeds))} if self.on_device.num_views > 1 else {}
        return {"images": change(images, seeds), **views}


def substitutes(valid: Tensor, num_instances: int) -> Tensor:
    """For each row of a domain the row to show in its place, so that training goes on where an image is skipped.

    A valid row stays. Another one shows the next valid row of its identity or, if that has none, of the domain's
    rows in the batch; after the last comes the first.

    Args:
        valid: bool [B], identities in consecutive blocks of `num_instances` rows.
        num_instances: rows of an identity.

    Returns:
        int64 [B], rows of the domain.

    Raises:
        OSError: no row is valid.
    """
    if not bool(valid.any()):
        raise OSError("No image of a whole batch can be read; DATALOADER.ON_BAD_IMAGE error tells why")
    rows = torch.arange(len(valid))
    good = rows[valid]
    for row in rows[~valid].tolist():
        block = good[good // num_instances == row // num_instances]
        choice = block if len(block) else good
        rows[row] = choice[torch.searchsorted(choice, row) % len(choice)]
    return rows
