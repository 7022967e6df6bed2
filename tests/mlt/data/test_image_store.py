"""Decoded images: found again by those who may, whole whatever happens to whoever writes them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mlt.data import image_store
from mlt.data.image_dataset import ImageDataset, decode_image
from mlt.data.image_store import GREY, ImageStore, affordable
from mlt.structures import ReidRecord

SIZE = (16, 8)
Records = tuple[ReidRecord, ...]


def images_in(folder: Path | str, records: Records, size: tuple[int, int] = SIZE, **options: Any) -> ImageDataset:
    store = ImageStore([record.path for record in records], size, folder=str(folder))
    return ImageDataset(records, size=size, store=store, **options)


def fill(images: ImageDataset) -> None:
    images.fill(range(len(images)))
    assert images.store is not None
    images.store.seal()


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir() if path.name != "lock")


@pytest.fixture
def own(records: Records, tmp_path: Path) -> Records:
    """Copies of six pictures, to be damaged."""
    copies = []
    for record in records[:6]:
        path = tmp_path / "own" / Path(record.path).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(Path(record.path).read_bytes())
        copies.append(ReidRecord(str(path)))
    return tuple(copies)


@pytest.mark.parametrize("folder", [True, False])
def test_what_was_put_is_gathered(records: Records, tmp_path: Path, folder: bool) -> None:
    store = ImageStore([r.path for r in records], SIZE, folder=str(tmp_path) if folder else "")
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    store.put(4, image)
    store.put(2, None)
    rows = torch.tensor([4, 2, 4, 0])
    out = store.gather(rows)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, torch.stack([image, torch.full_like(image, GREY), image, torch.zeros_like(image)]))
    assert store.flags[rows].tolist() == [1, 2, 1, 0]
    out.zero_()
    assert torch.equal(store.gather(rows)[0], image)
    assert not store.full


def test_a_path_that_comes_twice_has_one_row(records: Records) -> None:
    store = ImageStore([records[1].path, records[0].path, records[1].path], SIZE)
    assert store.rows == {records[0].path: 0, records[1].path: 1}
    assert len(store.pixels) == 2


def test_pixels_on_a_device_are_the_same(records: Records, device: torch.device) -> None:
    images = images_in("", records)
    fill(images)
    assert images.store is not None
    rows = torch.tensor([3, 3, 0])
    before = images.store.gather(rows)
    images.store.move_to(device)
    assert images.store.device.type == device.type
    assert torch.equal(images.store.gather(rows).cpu(), before)
    assert images.load([1, 2])[0].device.type == device.type
    copied = images.store.pixels.data_ptr()
    images.store.move_to(torch.device(device.type, 0))  # the same, but not equal to what has no index
    images.store.move_to(torch.device(device.type))
    assert images.store.pixels.data_ptr() == copied


def test_no_store_travels_by_pickle(records: Records) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(ImageStore([records[0].path], SIZE))


@pytest.mark.parametrize(("num", "gb", "fits"), [(10, 1.0, True), (10, 0.0, False), (10, 1e-6, False), (0, 1.0, False)])
def test_budget(num: int, gb: float, fits: bool) -> None:
    assert affordable(num, SIZE, gb) is fits


def test_a_budget_that_is_too_small_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlt.utils.log._said", set())
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert not affordable(20_000, (256, 128), 1.5)
    assert len(caplog.records) == 1
    assert "20000 images of 256x128 take 1.97 GB, DATALOADER.CACHE_GB is 1.5: none are kept" in caplog.text


# --- files


def test_a_full_file_is_renamed_and_found_again(records: Records, tmp_path: Path) -> None:
    images = images_in(tmp_path, records)
    images.fill([0, 1])
    assert images.store is not None
    images.store.seal()
    assert files(tmp_path) == [".part"]
    same = images_in(tmp_path, records[::-1])
    assert len(same.missing()) == len(records) - 2
    fill(same)
    assert files(tmp_path) == [".u8"]
    assert images.in_store  # one memory
    images.store.seal()  # another process has done it
    again = images_in(tmp_path, records)
    assert again.in_store
    assert torch.equal(again[5], decode_image(records[5].path, SIZE))


def test_other_images_sizes_and_times_have_other_files(own: Records, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    fill(images_in(folder, own))
    assert images_in(folder, own[:5]).missing()
    assert images_in(folder, own, size=(8, 8)).missing()
    os.utime(own[2].path, ns=(1, 1))
    assert len(images_in(folder, own).missing()) == 6
    Path(own[3].path).write_bytes(Path(own[4].path).read_bytes())
    changed = images_in(folder, own)
    assert torch.equal(changed[3], changed[4])


def test_another_decoder_has_another_file(own: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(images_in(tmp_path / "cache", own))
    monkeypatch.setattr(image_store, "__version__", "0")
    assert images_in(tmp_path / "cache", own).missing()


def test_after_a_power_loss_half_a_file_is_not_trusted(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_in(tmp_path, records)
    images.fill([0, 1])
    (tmp_path / "boot_id").write_text("another-boot")
    monkeypatch.setattr(image_store, "BOOT_ID", tmp_path / "boot_id")
    held = images_in(tmp_path, records)  # as by another machine, which has a boot of its own
    assert len(held.missing()) == len(records)
    assert len(list(tmp_path.glob("*.part"))) == 2
    del images
    (tmp_path / "boot_id").write_text("third-boot")
    images_in(tmp_path, records)
    assert sorted(path.name.split(".")[1] for path in tmp_path.glob("*.part")) == ["another-", "third-bo"]


def test_a_copy_that_was_cut_off_is_not_used(records: Records, tmp_path: Path) -> None:
    fill(images_in(tmp_path, records))
    (full,) = tmp_path.glob("*.u8")
    os.truncate(full, 1000)
    images = images_in(tmp_path, records)
    assert len(images.missing()) == len(records)
    fill(images)
    assert images_in(tmp_path, records).in_store


def test_unreadable_images_are_looked_at_again(own: Records, tmp_path: Path) -> None:
    Path(own[1].path).write_text("no picture")
    folder = tmp_path / "cache"
    images = images_in(folder, own, on_bad_image="skip")
    fill(images)
    assert images.in_store
    assert files(folder) == [".part"]  # a later run may be luckier
    assert images_in(folder, own, on_bad_image="skip").missing() == [1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_without_room_memory_takes_its_place(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    def no_room(*_: int) -> None:
        raise error

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    images = images_in(tmp_path, records)
    assert "DATALOADER.CACHE_DIR: no file of" in caplog.text
    assert str(error) in caplog.text
    assert not list(tmp_path.glob("*.part*"))
    fill(images)
    assert torch.equal(images[3], decode_image(records[3].path, SIZE))


# --- several processes


LARGE = (256, 128)


def put_and_wipe(folder: str, paths: list[str], begin: Any, first: int) -> None:
    """Fill every second row without end, each image of one value that depends on its row, and wipe them again."""
    store = ImageStore(paths, LARGE, folder=folder)
    begin.wait()
    while True:
        for row in range(first, len(paths), 2):
            store.flags[row] = 0
            store.pixels[row] = 0
            store.put(row, torch.full((3, *LARGE), row + 1, dtype=torch.uint8))


def test_killed_writers_leave_whole_images_only(records: Records, tmp_path: Path) -> None:
    """Two at once; whenever they are killed, an image with a flag is whole."""
    paths, context = sorted(record.path for record in records), multiprocessing.get_context("fork")
    for trial in range(12):
        begin = context.Barrier(3)
        writers = [context.Process(target=put_and_wipe, args=(str(tmp_path), paths, begin, n)) for n in (0, 1)]
        for writer in writers:
            writer.start()
        begin.wait()
        time.sleep(0.01 + 0.007 * trial)
        for writer in writers:
            os.kill(writer.pid or 0, signal.SIGKILL)
            writer.join()
        store = ImageStore(paths, LARGE, folder=str(tmp_path))
        for row in store.flags.nonzero().flatten().tolist():
            assert (store.pixels[row] == row + 1).all()
    assert len(list(tmp_path.glob("*.part"))) == 1


def fill_and_seal(folder: str, records: Records, begin: Any) -> None:
    begin.wait()
    fill(images_in(folder, records))


def test_ranks_that_start_together_make_one_file(records: Records, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begin = context.Barrier(4)
    ranks = [context.Process(target=fill_and_seal, args=(str(tmp_path), records, begin)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    assert files(tmp_path) == [".u8"]
    images = images_in(tmp_path, records)
    assert images.in_store
    assert all(torch.equal(images[i], decode_image(r.path, SIZE)) for i, r in enumerate(records))


def test_a_lock_of_a_killed_process_is_free(records: Records, tmp_path: Path) -> None:
    def hold(locked: Any) -> None:
        with image_store._StoreFile(str(tmp_path), "x")._locked():
            locked.set()
            time.sleep(60)

    context = multiprocessing.get_context("fork")
    locked = context.Event()
    holder = context.Process(target=hold, args=(locked,))
    holder.start()
    assert locked.wait(30)
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()
    fill(images_in(tmp_path, records))
    assert files(tmp_path) == [".u8"]
