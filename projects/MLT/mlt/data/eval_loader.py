"""Every image once, for features."""

from __future__ import annotations

from collections.abc import Iterator

from mlt.data.image_dataset import ImageDataset
from mlt.data.workers import SkippedImages, batch_loader
from mlt.structures import Batch


class TestLoader:
    """Every image once, in order, without random changes. Whole batches are dealt to the processes in turn.

    A batch is the same whatever the number of processes, and so are the bits of its features, which depend on the
    size of a batch.

    Args:
        images: what to load.
        ims_per_batch: images of a batch, >= 1.
        num_workers: processes that load; 0 = this one, as always when the store has all images.
        rank: this process.
        world_size: number of processes.
        pin_memory: page-locked batches, for copies to a GPU.
    """

    __test__ = False  # not a test, whatever pytest reads into the name

    def __init__(
        self,
        images: ImageDataset,
        *,
        ims_per_batch: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.images = images
        starts = range(0, len(images), ims_per_batch)
        batches = [list(range(i, min(i + ims_per_batch, len(images)))) for i in starts][rank::world_size]
        if images.in_store:  # there is nothing to decode, and pixels may be on a GPU already
            num_workers, pin_memory = 0, False
        self._loader = batch_loader(images, batches, num_workers=min(num_workers, len(batches)), pin_memory=pin_memory)
        self._skipped = SkippedImages()

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            batch["camids"] = self.images.camids[batch["indices"]]
            batch["img_paths"] = [self.images.paths[i] for i in batch["indices"].tolist()]
            self._skipped.report([path for path, good in zip(batch["img_paths"], batch["valid"].tolist()) if not good])
            yield batch
        if self.images.store is not None:
            self.images.store.seal()
