#!/usr/bin/env python
"""From JPEG files to the batches that a network sees: the peers' way, image by image, against the image store.

    python benchmarks/bench_data.py
    python benchmarks/bench_data.py --json benchmarks/results/data-cpu.json

Both give batches of 64 normalised float32 images of 256x128, flipped, padded and cropped, erased, out of the same JPEGs
of 128x64 (people of the synthetic benchmark), on the same cores: the peers' as many DataLoader workers as there are
threads for ours. The run fails if shapes, types or the mean and spread of the pixels differ. An epoch is every image
once; the first of ours starts its workers and decodes all files before its first batch, while the peers' workers run
already. Epochs of both alternate, and the fastest of each counts. Processor time, which other programs disturb less, is
that of all that is done for a batch, in one process with one thread. The floor is what it takes this machine to write a
batch's bytes once, into memory that it has just been given.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from arguments import at_least
from hardware import Figures, hardware, require, shortest
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from mlt.data.augment import BatchTransform
from mlt.data.image_dataset import ImageDataset, decode_image
from mlt.data.image_store import ImageStore
from mlt.data.samplers import BatchPlan
from mlt.data.synthetic import DomainSpec, render_domain
from mlt.data.train_loader import OnDevice, TrainLoader
from mlt.modeling.pixels import normalize_pixels
from mlt.structures import ReidRecord
from mlt.utils.files import atomic

SIZE, JPEG_SIZE, BATCH = (256, 128), (128, 64), 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXEL_MEAN, PIXEL_STD = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))


class PeerImages(Dataset[Tensor]):
    """What MMT, SpCL and their descendants do to each image in each epoch.

    Args:
        paths: JPEG files.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.transform = T.Compose(
            [
                T.Resize(SIZE, interpolation=T.InterpolationMode.BICUBIC),
                T.RandomHorizontalFlip(),
                T.Pad(10),
                T.RandomCrop(SIZE),
                T.ToTensor(),
                T.Normalize(MEAN, STD),
                T.RandomErasing(0.5, (0.02, 0.4), (0.3, 3.33), MEAN),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


class OurImages:
    """Normalised batches of the train loader, augmented on a device.

    Args:
        paths: JPEG files.
        folder: of the store's file.
        device: where batches are made.
        workers: processes that decode.
    """

    def __init__(self, paths: list[str], folder: str, device: torch.device, workers: int) -> None:
        self.store = ImageStore(paths, SIZE, folder=folder)
        images = ImageDataset([ReidRecord(path) for path in paths], size=SIZE, store=self.store)
        self.change = BatchTransform(SIZE, erase=0.5)
        self.device, self.epoch = device, 0
        self.mean, self.std = PIXEL_MEAN.to(device), PIXEL_STD.to(device)
        plan = BatchPlan(ims_per_batch=BATCH, num_batches=len(paths) // BATCH)
        on_device = OnDevice(self.change, device, keep_pixels=device.type != "cpu")
        self.loader = TrainLoader(None, images, plan=plan, num_workers=workers, on_device=on_device)

    def __iter__(self) -> Iterable[Tensor]:
        self.epoch += 1
        for batch in self.loader.epoch(self.epoch):
            yield normalize_pixels(batch["images"], self.mean, self.std)


def epoch_seconds(batches: Iterable[Tensor], device: torch.device) -> float:
    """Time of one pass.

    Args:
        batches: what gives the batches.
        device: where they are.
    """
    begin = time.perf_counter()
    for _ in batches:
        pass
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def milliseconds(function: Callable[[], Any], device: torch.device, repeats: int = 20) -> float:
    """Milliseconds of the fastest of several calls.

    Args:
        function: what to call.
        device: where it computes.
        repeats: calls.
    """
    return 1e3 * shortest(function, device, repeats)


def processor_time(peer: PeerImages, ours: OurImages) -> Figures:
    """Milliseconds of one core for the 64 images of a batch, the fastest of several.

    Args:
        peer: images of the peers.
        ours: batches of ours, on a CPU and all decoded.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    theirs = []
    for first in range(0, 8 * BATCH, BATCH):
        begin = time.process_time()
        torch.stack([peer[i % len(peer)] for i in range(first, first + BATCH)])
        theirs.append(time.process_time() - begin)
    mine, begin = [], time.process_time()
    for _ in ours:
        mine.append(time.process_time() - begin)
        begin = time.process_time()
    torch.set_num_threads(threads)
    return {
        "peers": 1e3 * min(theirs),
        "ours, cached": 1e3 * min(mine),
        "times less": min(theirs) / min(mine),
    }


def require_equal_batches(theirs: Iterable[Tensor], ours: Iterable[Tensor]) -> Figures:
    """Shape, type, and mean and spread of each channel, which no change of an image's place may touch.

    Args:
        theirs: batches of the peers.
        ours: batches of ours.

    Raises:
        RuntimeError: they differ.
    """
    sums, kinds = [], []
    for batches in (theirs, ours):
        rows = [(batch.double().mean((2, 3)).cpu(), batch.double().std((2, 3)).cpu()) for batch in batches]
        sums.append(torch.stack([torch.cat(part).mean(0) for part in zip(*rows)]))
        kinds.append({(tuple(batch.shape), batch.dtype) for batch in batches})
    difference = float((sums[0] - sums[1]).abs().max())
    if kinds[0] != kinds[1] or difference > 0.03:
        raise RuntimeError(f"The two ways do not give the same batches: {kinds}, means and spreads {sums}")
    return {"shape": [BATCH, 3, *SIZE], "largest difference of a mean or spread": difference}


def stages(peer: PeerImages, ours: OurImages) -> Figures:
    """Milliseconds for the 64 images of a batch, stage by stage, in one process.

    Args:
        peer: images of the peers.
        ours: images of ours, all decoded.
    """
    cpu, device = torch.device("cpu"), ours.device
    rows, seeds = torch.randint(len(peer), (BATCH,)), torch.randint(2**32, (BATCH,))
    paths = [peer.paths[row] for row in rows.tolist()]
    decoded = [Image.open(path).convert("RGB") for path in paths]
    tensors = [peer.transform(image) for image in decoded]
    images = ours.store.gather(rows).to(device)
    changed = ours.change(images, seeds)
    size = BATCH * 3 * SIZE[0] * SIZE[1]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker
    theirs = {
        "decode": milliseconds(lambda: [Image.open(path).convert("RGB") for path in paths], cpu, 5),
        "resize, augment, normalise": milliseconds(lambda: [peer.transform(image) for image in decoded], cpu, 5),
        "collate": milliseconds(lambda: torch.stack(tensors), cpu, 5),
    }
    first = {"decode and resize": milliseconds(lambda: [decode_image(path, SIZE) for path in paths], cpu, 5)}
    torch.set_num_threads(threads)
    mine = {
        "gather": milliseconds(lambda: ours.store.gather(rows), device),
        "augment": milliseconds(lambda: ours.change(images, seeds), device),
        "normalise": milliseconds(lambda: normalize_pixels(changed, ours.mean, ours.std), device),
    }
    floor = milliseconds(lambda: torch.ones(size, device=device), device)
    return {
        "theirs, one worker": theirs,
        "ours, once for an image, one worker": first,
        "ours": mine,
        "floor": floor,
        "ours in floors": sum(mine.values()) / floor,
        "share of each": {name: value / sum(mine.values()) for name, value in mine.items()},
    }


def measure(paths: list[str], folder: str, args: argparse.Namespace) -> Figures:
    """All figures.

    Args:
        paths: JPEG files.
        folder: for the store.
        args: command line.
    """
    device, cpu = torch.device(args.device), torch.device("cpu")
    peer = PeerImages(paths)
    theirs = DataLoader(
        peer, BATCH, shuffle=True, drop_last=True, num_workers=args.threads, persistent_workers=args.threads > 0
    )
    ours = OurImages(paths, folder, device, args.threads)
    images = len(paths) // BATCH * BATCH
    first = epoch_seconds(ours, device)
    equal = require_equal_batches(list(theirs), list(ours))
    times = [(epoch_seconds(theirs, cpu), epoch_seconds(ours, device)) for _ in range(args.repeats)]
    slow, fast = (min(column) for column in zip(*times))
    return {
        "images": images,
        "kB of a JPEG": sum(os.path.getsize(path) for path in paths) / len(paths) / 1e3,
        "batch": equal,
        "images/s": {
            "peers": images / slow,
            "ours, first epoch with decoding": images / first,
            "ours, cached": images / fast,
        },
        "times faster than peers": {"first epoch": slow / first, "cached": slow / fast},
        **({"processor ms of a batch": processor_time(peer, ours)} if device == cpu else {}),
        "ms of a batch": stages(peer, ours),
        "load average": os.getloadavg()[0],
    }


def main() -> None:
    """Render, measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=at_least(6), default=170, help="identities of 12 images each")
    parser.add_argument("--threads", type=at_least(1), default=2, help="threads of ours, workers of the peers'")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="epochs of each; the fastest counts")
    parser.add_argument("--device", default="cpu", help="of our batches; the peers' stay on the CPU")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    require(args.device)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        spec = DomainSpec("campus", num_train_ids=args.ids, num_test_ids=2, images_per_id=12, size=JPEG_SIZE)
        render_domain(Path(folder) / "campus", spec)
        paths = sorted(str(path) for path in (Path(folder) / "campus" / "bounding_box_train").iterdir())
        results = {"command": sys.argv, "hardware": hardware(args.device), **measure(paths, f"{folder}/store", args)}
    print(json.dumps(results, indent=1))
    if args.json:
        with atomic(args.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
