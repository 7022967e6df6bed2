from __future__ import annotations

import pytest

from mlt.config import get_cfg
from mlt.config.config import CfgNode
from mlt.engine.fingerprint import fingerprint


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
