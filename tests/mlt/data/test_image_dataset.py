"""Decoding, keeping, seeds and broken files."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlt.data.image_dataset import ImageDataset, decode_image
from mlt.data.image_store import GREY, ImageStore
from mlt.data.samplers import Draw
from mlt.data.transforms import build_train_transform
from mlt.structures import ReidRecord

SIZE = (16, 8)
CHANGE = build_train_transform(SIZE, padding=3, jitter=0.5, erase=0.5)


def store_of(records: Sequence[ReidRecord]) -> ImageStore:
    return ImageStore([record.path for record in records], SIZE)


# --- decoding


def test_pixels_of_the_right_size_are_untouched(tmp_path: Path, picture: Callable[..., str]) -> None:
    path = picture(tmp_path / "a.png")
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    out = decode_image(path, SIZE)
    assert out.dtype == torch.uint8
    assert torch.equal(out, pixels)


def test_resize_is_bicubic_and_keeps_height_and_width_apart(tmp_path: Path, picture: Callable[..., str]) -> None:
    path = picture(tmp_path / "a.png", size=(40, 30))
    out = decode_image(path, (16, 8))
    wanted = np.array(Image.open(path).resize((8, 16), Image.Resampling.BICUBIC))
    assert out.shape == (3, 16, 8)
    assert torch.equal(out, torch.from_numpy(wanted).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (8, 16)).save(path)
    assert decode_image(str(path), SIZE).shape == (3, *SIZE)


def test_sixteen_bits_of_grey_keep_their_order(tmp_path: Path) -> None:
    grey = np.repeat(np.arange(0, 2**16, 2**12, dtype=np.uint16)[:, None], 8, axis=1)  # 16 steps from black to white
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert decode_image(str(tmp_path / "a.png"), SIZE)[:, :, 0].tolist() == [list(range(0, 256, 16))] * 3


def test_camera_rotation_is_undone(tmp_path: Path) -> None:
    upright = Image.new("RGB", (8, 16))
    upright.paste((255, 255, 255), (0, 0, 8, 8))  # white above black
    exif = Image.Exif()
    exif[0x0112] = 8  # as seen by a camera turned by 90 degrees
    upright.rotate(-90, expand=True).save(tmp_path / "a.png", exif=exif)
    assert decode_image(str(tmp_path / "a.png"), SIZE).float().mean((0, 2))[[0, -1]].tolist() == [255, 0]


# --- draws


def test_a_draw_is_decided_by_its_seed_alone(records: tuple[ReidRecord, ...]) -> None:
    images = ImageDataset(records, size=SIZE, transform=CHANGE)
    one = images[Draw(3, 77)]
    torch.rand(5)
    assert torch.equal(images[Draw(3, 77)], one)
    assert torch.equal(images.__getitems__([Draw(9, 1), Draw(3, 77)])["images"][1], one)
    outs = [images[Draw(3, seed)] for seed in range(8)]
    assert len({out.numpy().tobytes() for out in outs}) > 6


def test_a_bare_position_is_not_transformed(records: tuple[ReidRecord, ...]) -> None:
    images = ImageDataset(records, size=SIZE, transform=CHANGE)
    assert torch.equal(images[4], decode_image(records[4].path, SIZE))
    assert torch.equal(images[np.int64(4)], images[4])
    assert torch.equal(images.untransformed()[Draw(4, 5)], images[4])


def test_global_random_numbers_are_not_disturbed(records: tuple[ReidRecord, ...]) -> None:
    images = ImageDataset(records, size=SIZE, transform=CHANGE)
    before = torch.get_rng_state()
    images[Draw(0, 5)]
    images.__getitems__([Draw(0, 5), Draw(1, 6), 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_has_pixels_indices_and_flags_but_no_labels(records: tuple[ReidRecord, ...]) -> None:
    batch = ImageDataset(records, size=SIZE).__getitems__([5, 0, 5])
    assert sorted(batch) == ["images", "indices", "valid"]
    assert batch["images"].shape == (3, 3, *SIZE)
    assert batch["indices"].tolist() == [5, 0, 5]
    assert batch["valid"].all()


# --- store


def test_a_store_changes_no_pixel(records: tuple[ReidRecord, ...]) -> None:
    plain = ImageDataset(records, size=SIZE, transform=CHANGE)
    cached = ImageDataset(records, size=SIZE, transform=CHANGE, store=store_of(records))
    draws = [Draw(i, 10 + i) for i in range(len(records))]
    for _ in range(2):
        assert torch.equal(cached.__getitems__(draws)["images"], plain.__getitems__(draws)["images"])
        assert torch.equal(cached[-1], plain[-1])


def test_each_image_is_decoded_once(records: tuple[ReidRecord, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def count(path: str, size: tuple[int, int]) -> torch.Tensor:
        read.append(path)
        return decode_image(path, size)

    monkeypatch.setattr("mlt.data.image_dataset.decode_image", count)
    images = ImageDataset(records[:8], size=SIZE, store=store_of(records[:8]))
    assert images.missing() == list(range(8))
    images.__getitems__([3, 3])
    assert images.missing() == [0, 1, 2, 4, 5, 6, 7]
    assert not images.in_store
    images.__getitems__(range(8))
    images.untransformed().__getitems__(range(8))
    assert images.in_store
    assert sorted(read) == [r.path for r in records[:8]]


def test_records_in_another_order_read_the_same_store(records: tuple[ReidRecord, ...]) -> None:
    store = store_of(records)
    ImageDataset(records, size=SIZE, store=store).fill(range(len(records)))
    turned = ImageDataset([*records[::-1], records[2]], size=SIZE, store=store)
    assert turned.missing() == []
    assert torch.equal(turned[0], decode_image(records[-1].path, SIZE))
    assert torch.equal(turned[-1], decode_image(records[2].path, SIZE))


def test_nobody_can_write_into_the_store(records: tuple[ReidRecord, ...]) -> None:
    images = ImageDataset(records, size=SIZE, store=store_of(records))
    first = images[0].clone()
    images[0].zero_()
    images.__getitems__([0])["images"].zero_()
    assert torch.equal(images[0], first)


def test_pickled_for_a_spawned_worker_it_works_without_the_store(records: tuple[ReidRecord, ...]) -> None:
    images = ImageDataset(records, size=SIZE, transform=CHANGE, store=store_of(records))
    again = pickle.loads(pickle.dumps(images))  # noqa: S301
    assert torch.equal(again[Draw(1, 2)], images[Draw(1, 2)])


# --- broken files


@pytest.fixture
def broken(tmp_path: Path, picture: Callable[..., str]) -> list[ReidRecord]:
    """Good, cut off, not an image, missing."""
    paths = [picture(tmp_path / f"{name}.png", seed=1, size=(60, 60)) for name in ("good", "short")]
    Path(paths[1]).write_bytes(Path(paths[1]).read_bytes()[:2000])
    (tmp_path / "text.jpg").write_text("hello")
    return [ReidRecord(path) for path in [*paths, str(tmp_path / "text.jpg"), str(tmp_path / "gone.jpg")]]


@pytest.mark.parametrize("index", [1, 2, 3])
def test_broken_image_names_path_and_remedy(broken: list[ReidRecord], index: int) -> None:
    images = ImageDataset(broken, size=SIZE)
    for ask in (lambda: images[index], lambda: images.__getitems__([0, index])):
        with pytest.raises(OSError, match=rf"Cannot read image '{broken[index].path}'.*ON_BAD_IMAGE skip"):
            ask()


@pytest.mark.parametrize("kept", [False, True])
def test_skipped_images_are_grey_and_flagged(broken: list[ReidRecord], kept: bool) -> None:
    images = ImageDataset(broken, size=SIZE, on_bad_image="skip", store=store_of(broken) if kept else None)
    for _ in range(2):
        batch = images.__getitems__([0, 1, 2, 3, 0])
        assert batch["valid"].tolist() == [True, False, False, False, True]
        assert (batch["images"][1:4] == GREY).all()
        assert torch.equal(batch["images"][0], batch["images"][4])
        assert torch.equal(batch["images"][0], decode_image(broken[0].path, SIZE))
    with pytest.raises(OSError, match="Cannot read image"):
        images[2]


def test_what_one_run_skips_stops_another_that_asks_for_it(broken: list[ReidRecord]) -> None:
    store = store_of(broken)
    ImageDataset(broken, size=SIZE, on_bad_image="skip", store=store).fill(range(4))
    with pytest.raises(OSError, match="Cannot read image"):
        ImageDataset(broken, size=SIZE, store=store).__getitems__([1])


def test_unknown_policy(records: tuple[ReidRecord, ...]) -> None:
    with pytest.raises(ValueError, match="ON_BAD_IMAGE must be 'error' or 'skip', got 'ignore'"):
        ImageDataset(records, size=SIZE, on_bad_image="ignore")
