"""What a checkpoint says of its net."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlt.modeling import build_model
from mlt.modeling.net_config import NET_KEYS, describe_net, follow_weights, net_config_of, with_values
from mlt.modeling.weights import to_fastreid


def test_what_is_stored_is_what_is_read(cfg_of) -> None:
    cfg = cfg_of("MODEL.BACKBONE.STEM_RELU", False, "INPUT.SIZE_TEST", [64, 32], "MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0])
    stored = describe_net(cfg)
    assert list(stored) == list(NET_KEYS)
    content = {"model": build_model(cfg).state_dict(), "config": stored}
    assert describe_net(with_values(cfg_of(), net_config_of(content))) == stored


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
def test_shapes_tell_the_rest(depth: int, cfg_of) -> None:
    """A state without its config: everything but stride, stem, pixels and size."""
    options = (
        "MODEL.BACKBONE.DEPTH",
        f"{depth}x",
        "MODEL.BACKBONE.WITH_IBN",
        depth > 10,
        "MEAN_TEACHER.ENABLED",
        False,
    )
    more = ("MODEL.BACKBONE.WITH_NL", depth > 10, "MODEL.BACKBONE.NL_CHANNELS", 3 if depth > 10 else 1)
    pool = ("MODEL.HEADS.POOL_LAYER", "GlobalAvgPool" if depth > 18 else "GeneralizedMeanPoolingP")
    cfg = cfg_of(*options, *more, *pool)
    found = net_config_of(build_model(cfg).state_dict())
    wanted = describe_net(cfg)
    assert found == {key: wanted[key] for key in found}
    assert {"DEPTH", "WIDTH", "WITH_IBN", "WITH_NL", "NL_CHANNELS", "POOL_LAYER"} == {k.split(".")[-1] for k in found}


def test_our_own_weights_are_followed_by_what_they_store(cfg_of) -> None:
    trained = cfg_of("MODEL.BACKBONE.STEM_CEIL_POOL", True)
    content = {"model": build_model(trained).state_dict(), "config": describe_net(trained)}
    assert follow_weights(cfg_of(), content).MODEL.BACKBONE.STEM_CEIL_POOL
    same = cfg_of("MODEL.BACKBONE.STEM_CEIL_POOL", True)
    assert follow_weights(same, content) == same


def test_a_pooling_of_fastreid_that_no_tensor_shows(cfg_of, tmp_path: Path, caplog) -> None:
    cfg = cfg_of("MODEL.HEADS.POOL_LAYER", "GlobalAvgPool", "MEAN_TEACHER.ENABLED", False)
    content = to_fastreid({"model": build_model(cfg).state_dict(), "config": describe_net(cfg)})
    path, beside = tmp_path / "model_final.pth", tmp_path / "config.yaml"
    assert net_config_of(content, path)["MODEL.HEADS.POOL_LAYER"] == "GlobalAvgPool"
    assert "the mean is assumed" in caplog.text
    caplog.clear()
    beside.write_text("MODEL: {HEADS: {POOL_LAYER: FastGlobalAvgPool}}")
    assert net_config_of(content, path)["MODEL.HEADS.POOL_LAYER"] == "GlobalAvgPool"
    assert caplog.text == ""
    beside.write_text("MODEL: {HEADS: {POOL_LAYER: GlobalMaxPool}}")
    with pytest.raises(ValueError, match=r"pools by FastReID's GlobalMaxPool .*config.yaml.*it has GlobalAvgPool"):
        net_config_of(content, path)
