"""Which images make up a batch: pure functions of (seed, epoch, batch number), so that any batch can be rebuilt.

Every process computes the same global batch and takes its own contiguous share of it. Each draw carries the seed of its
own augmentation. The images of a run therefore depend neither on the number of processes nor of workers, and resuming
in the middle of an epoch means starting at a later batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlt.structures import UNKNOWN
from mlt.utils.log import log_once

logger = logging.getLogger(__name__)
Indices = NDArray[np.int64]
ORDER, PICK = 0, 1  # streams of random numbers: order of a pass, picks within a batch


class Draw(NamedTuple):
    """One image of a batch.

    Args:
        image: position in the records.
        seed: of this draw's random transforms, 0 <= seed < 2**32.
    """

    image: int
    seed: int


@dataclass(frozen=True)
class BatchPlan:
    """Size and number of the batches of an epoch, and the share of one process.

    Args:
        ims_per_batch: images of one domain in a global batch (SOLVER.IMS_PER_BATCH).
        num_batches: batches of an epoch.
        num_instances: images per identity (DATALOADER.NUM_INSTANCE).
        seed: of all choices, >= 0.
        rank: this process.
        world_size: number of processes.
        pad_singletons: repeat the only image of an identity (DATALOADER.PAD_SINGLETONS); False = one row for it.

    Raises:
        ValueError: the batch does not divide into identities and these into processes.
    """

    ims_per_batch: int
    num_batches: int
    num_instances: int = 4
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    pad_singletons: bool = True

    def __post_init__(self) -> None:
        if self.num_instances < 1 or min(self.num_batches, self.seed) < 0 or not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"BatchPlan: wanted num_instances >= 1, num_batches and seed >= 0, 0 <= rank < world_size; got {self}"
            )
        unit = self.num_instances * self.world_size
        if self.ims_per_batch < unit or self.ims_per_batch % unit:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH {self.ims_per_batch} must be a multiple of {unit} = "
                f"DATALOADER.NUM_INSTANCE {self.num_instances} times {self.world_size} process(es)"
            )

    def share(self, indices: Indices, seeds: Indices) -> list[Draw]:
        """This process's part of a global batch.

        Args:
            indices: [ims_per_batch] positions in the records.
            seeds: [ims_per_batch] seeds of the transforms.
        """
        size = self.ims_per_batch // self.world_size
        mine = slice(self.rank * size, (self.rank + 1) * size)
        return [Draw(image, seed) for image, seed in zip(indices[mine].tolist(), seeds[mine].tolist())]

    def random(self, *place: int) -> np.random.Generator:
        """The random numbers that belong to a place in the run.

        Args:
            place: epoch, stream and number, always as many.
        """
        return np.random.default_rng([self.seed, *place])


class Sampler(Protocol):
    """What the train loader asks for batches."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[Draw]]:
        """This process's share of batch `start` and later ones of an epoch."""


class ShuffleSampler:
    """Images in random order, each once before any comes again.

    Args:
        num_images: images to draw from, >= 1.
        plan: size and number of batches; may be larger than the number of images.

    Raises:
        ValueError: there is no image.
    """

    def __init__(self, num_images: int, plan: BatchPlan) -> None:
        if num_images < 1:
            raise ValueError("ShuffleSampler: no images to draw from")
        self.num_images = num_images
        self.plan = plan

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[Draw]]:
        """This process's share of each batch of an epoch.

        Args:
            epoch: counted from 0.
            start: first batch, for resuming.
        """
        plan, held, order = self.plan, -1, np.empty(0, dtype=np.int64)
        for batch in range(start, plan.num_batches):
            passes, places = np.divmod(np.arange(plan.ims_per_batch) + batch * plan.ims_per_batch, self.num_images)
            indices = np.empty_like(places)
            for number in range(passes[0], passes[-1] + 1):
                if number != held:
                    held, order = number, plan.random(epoch, ORDER, number).permutation(self.num_images)
                indices[passes == number] = order[places[passes == number]]
            yield plan.share(indices, plan.random(epoch, PICK, batch).integers(2**32, size=plan.ims_per_batch))


class IdentitySampler:
    """P identities times K images: an anchor and K - 1 images of the same identity from other cameras.

    Identities come in random order without replacement; what does not fill a batch at the end of a pass is left out
    of it, so that no identity is twice in a batch. The other K - 1 images are drawn without replacement from other
    cameras if the identity was seen by any, else from its other images; where these are too few they are repeated, so
    that each identity always has K rows, one after another. Without `plan.pad_singletons` an identity of one image has
    one row, and a batch holds as many identities as fill it, the last one perhaps in part (SpCL).

    Args:
        labels: int64 [N], identity of each image; negative ones are never drawn.
        camids: int64 [N], camera of each image; UNKNOWN counts as one camera.
        plan: size and number of batches.

    Raises:
        ValueError: fewer identities than one batch needs.

    Source: RandomMultipleGallerySampler of the MMT and UDAStrongBaseline code, with its short identities padded.
    """

    def __init__(self, labels: Tensor, camids: Tensor, plan: BatchPlan) -> None:
        ids: Indices = labels.cpu().numpy()
        cams: Indices = camids.cpu().numpy()
        if ids.ndim != 1 or ids.shape != cams.shape:
            raise ValueError(
                f"IdentitySampler: labels {list(ids.shape)} and camids {list(cams.shape)} must both be [N]"
            )
        order = np.argsort(ids, kind="stable")
        order = order[ids[order] >= 0]
        members = np.split(order, np.flatnonzero(np.diff(ids[order])) + 1) if len(order) else []
        self.identities = [(group, cams[group]) for group in members]
        self.plan = plan
        singletons = np.array([len(group) == 1 for group in members], dtype=bool)
        self.sizes = np.where(singletons & (not plan.pad_singletons), 1, plan.num_instances)
        wanted = plan.ims_per_batch // plan.num_instances
        if self.sizes.sum() < plan.ims_per_batch:
            raise ValueError(
                f"{len(members)} identities with images, but a batch needs {wanted} = "
                f"SOLVER.IMS_PER_BATCH {plan.ims_per_batch} / DATALOADER.NUM_INSTANCE {plan.num_instances}; "
                "lower IMS_PER_BATCH, or find more clusters"
            )
        if bool((cams[order] == UNKNOWN).any()):
            log_once(logger, "Some cameras are unknown: their images are drawn without regard to cameras")

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[Draw]]:
        """This process's share of each batch of an epoch.

        Args:
            epoch: counted from 0.
            start: first batch, for resuming.
        """
        plan, held, order = self.plan, -1, np.empty(0, dtype=np.int64)
        batches_per_pass = self.sizes.sum() // plan.ims_per_batch
        ends = self.sizes
        for batch in range(start, plan.num_batches):
            number, place = divmod(batch, batches_per_pass)
            if number != held:
                held, order = number, plan.random(epoch, ORDER, number).permutation(len(self.identities))
                ends = self.sizes[order].cumsum()
            random = plan.random(epoch, PICK, batch)
            first = place * plan.ims_per_batch
            begin, end = np.searchsorted(ends, [first + 1, first + plan.ims_per_batch])
            rows = [self._pick(self.identities[i], random)[: self.sizes[i]] for i in order[begin : end + 1]]
            done = first - ends[begin] + self.sizes[order[begin]]  # rows of the first that the last batch has shown
            indices = np.concatenate(rows)[done : done + plan.ims_per_batch]
            yield plan.share(indices, random.integers(2**32, size=plan.ims_per_batch))

    def _pick(self, identity: tuple[Indices, Indices], random: np.random.Generator) -> Indices:
        images, cams = identity
        anchor = random.integers(len(images))
        others = images[cams != cams[anchor]]
        if not len(others):
            others = np.delete(images, anchor) if len(images) > 1 else images
        others = random.permutation(others)
        return np.append(images[anchor], np.resize(others, self.plan.num_instances - 1))
