from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlt.config import get_cfg
from mlt.config.config import CfgNode
from mlt.engine.fingerprint import data_fingerprint, fingerprint
from mlt.structures import ReidRecord


def config(*words: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list([*words])
    cfg.freeze()
    return cfg


@pytest.mark.parametrize("words", [("OUTPUT_DIR", "x"), ("MODEL.DEVICE", "cpu"), ("DATALOADER.NUM_WORKERS", 7)])
def test_where_and_how_a_run_is_made_does_not_matter(words):
    assert fingerprint(config(*words)) == fingerprint(config())


@pytest.mark.parametrize(
    "words",
    [
        ("SOLVER.BASE_LR", 0.5),
        ("TEST.ADAPT_BN", True),
        ("DATASETS.TESTS", ("VeRi",)),
        ("SEED", 3),
        ("MODEL.WEIGHTS", "a"),
    ],
)
def test_what_its_numbers_depend_on_does(words):
    assert fingerprint(config(*words)) != fingerprint(config())


@pytest.mark.parametrize("key", ["MODEL.WEIGHTS", "MODEL.BACKBONE.PRETRAIN_PATH", "PRETRAIN.WEIGHTS"])
def test_weights_count_by_their_content(tmp_path, key):
    for name, content in (("a", b"1"), ("b", b"2"), ("copy of a", b"1")):
        (tmp_path / name).write_bytes(content)
    a, b, copy = (fingerprint(config(key, str(tmp_path / name))) for name in ("a", "b", "copy of a"))
    assert a == copy
    assert a != b
    (tmp_path / "a").write_bytes(b"3")
    assert fingerprint(config(key, str(tmp_path / "a"))) not in (a, b)


def test_the_tree_is_left_as_it_was(tmp_path):
    (tmp_path / "a").touch()
    cfg = config("MODEL.WEIGHTS", str(tmp_path / "a"), "OUTPUT_DIR", "x")
    before = cfg.dump()
    fingerprint(cfg)
    assert cfg.is_frozen()
    assert cfg.dump() == before


class TestData:
    @pytest.fixture
    def images(self, tmp_path: Path) -> list[ReidRecord]:
        return self.write(tmp_path / "here")

    @staticmethod
    def write(folder: Path) -> list[ReidRecord]:
        for number in range(3):
            path = folder / f"c{number}" / f"{number}.jpg"
            path.parent.mkdir(parents=True)
            path.write_bytes(b"x" * (number + 1))
        return [ReidRecord(str(path), pid, pid) for pid, path in enumerate(sorted(folder.rglob("*.jpg")))]

    def test_the_same_files_elsewhere_are_the_same_data(self, images, tmp_path):
        moved = self.write(tmp_path / "else" / "where")
        assert data_fingerprint(moved, images) == data_fingerprint(images, moved)

    @pytest.mark.parametrize("domain", ["source", "target"])
    def test_files_count_by_number_name_and_size(self, images, domain):
        def digest(records):
            return data_fingerprint(records, ()) if domain == "source" else data_fingerprint((), records)

        seen = {digest(images), digest(images[:2]), digest([replace(images[0], path="/a/b.jpg"), *images[1:]])}
        Path(images[1].path).write_bytes(b"another size")
        seen.add(digest(images))
        Path(images[1].path).unlink()
        seen.add(digest(images))
        assert len(seen) == 5

    def test_sizes_may_be_left_out(self, images):
        before = data_fingerprint(images, images, sizes=False)
        Path(images[1].path).write_bytes(b"another size")
        assert data_fingerprint(images, images, sizes=False) == before
        assert data_fingerprint(images[:2], images, sizes=False) != before

    def test_the_domains_are_told_apart(self, images):
        assert data_fingerprint(images, ()) != data_fingerprint((), images)
        assert data_fingerprint(images[:1], images[1:]) != data_fingerprint(images[:2], images[2:])

    def test_identities_count_in_the_source_alone(self, images):
        others = [replace(record, pid=9) for record in images]
        assert data_fingerprint(images, images) == data_fingerprint(images, others)
        assert data_fingerprint(images, images) != data_fingerprint(others, images)
