"""Every name through FastReID's own build functions, FastReID's checkpoints, and weights from one host to the other."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.modeling import build_model
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY, build_heads
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.events import EventStorage
from torch import Tensor, nn

import mlt
import mlt.modeling.build
from mlt.adapters.fastreid import FastReIDHead, MLTTrainer, register_components
from mlt.config import get_cfg
from mlt.modeling.layers import DomainBatchNorm
from mlt.modeling.net_config import describe_net
from mlt.modeling.weights import load_weights, to_fastreid
from mlt.registry import BACKBONES, DATASETS, HEADS, META_ARCHS

MakeConfig = Callable[..., Any]
FASTREID_RESNET = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.DEPTH": "18x",
    "MODEL.BACKBONE.FEAT_DIM": 512,
    "MODEL.HEADS.NUM_CLASSES": 8,
}
UNRN = {
    "MODEL.META_ARCHITECTURE": "UncertaintyGuided",
    "MODEL.BACKBONE.NAME": "TwoDepthResNet",
    "MODEL.HEADS.NAME": "TwoDepthMixtureHead",
}


def images(seed: int = 0, number: int = 4) -> Tensor:
    return torch.randint(0, 256, (number, 3, 64, 32), generator=torch.Generator().manual_seed(seed)).float()


def stir(model: nn.Module) -> None:
    """Give every parameter and running statistic a value of its own, so that one that is not carried over shows."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = 0.1 * torch.rand(value.shape, generator=torch.Generator().manual_seed(len(name)))
            value += noise if name.endswith("running_var") else noise - 0.05


@pytest.mark.parametrize(
    ("name", "method", "changes"),
    [
        ("MixtureLabelTransport", "MLT", {}),
        ("MutualMeanTeaching", "MMT", {}),
        ("PseudoLabelModel", "SpCL", {"MODEL.HEADS.NUM_CLASSES": 8}),
        ("UncertaintyGuided", "MLT", UNRN),
    ],
)
def test_meta_architectures_are_built_by_fastreid(
    make_cfg: MakeConfig, tmp_path: Path, name: str, method: str, changes: dict[str, Any]
) -> None:
    model = build_model(make_cfg(method, tmp_path, changes)).eval()
    assert type(model) is META_ARCHS.get(name)
    features = model({"images": images()})
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


def test_each_of_our_meta_architectures_is_registered_and_fastreids_own_stay() -> None:
    assert set(META_ARCHS) <= set(META_ARCH_REGISTRY._obj_map)
    assert META_ARCH_REGISTRY.get("Baseline").__module__.startswith("fastreid.")
    assert set(DATASETS) <= set(DATASET_REGISTRY._obj_map)
    assert DATASET_REGISTRY.get("Market1501").__module__.startswith("fastreid.")


def test_registering_again_changes_nothing() -> None:
    registries = (META_ARCH_REGISTRY, REID_HEADS_REGISTRY, BACKBONE_REGISTRY, DATASET_REGISTRY)
    before = [dict(registry._obj_map) for registry in registries]
    register_components()
    importlib.reload(importlib.import_module("mlt.adapters.fastreid"))
    assert before == [dict(registry._obj_map) for registry in registries]


@pytest.mark.parametrize("name", ["NeckHead", "TwoDepthMixtureHead", "TwoDepthEmbeddingHead"])
def test_heads_are_built_by_fastreid(make_cfg: MakeConfig, tmp_path: Path, name: str) -> None:
    changes = {"MODEL.HEADS.NAME": name, "MODEL.HEADS.NUM_CLASSES": 8, "MODEL.BACKBONE.FEAT_DIM": 32}
    head = build_heads(make_cfg("MLT", tmp_path, changes))
    assert type(head) is HEADS.get(name)
    maps = torch.rand(4, 32, 4, 2), torch.rand(4, 16, 4, 2)
    assert head(maps if name.startswith("Two") else maps[0]).embeddings.shape == (4, 32)
    with pytest.raises(ValueError, match=f"FastReID's Baseline reads the logits .* {name} does not"):
        build_model(make_cfg("Baseline", tmp_path, FASTREID_RESNET | changes))


def test_each_of_our_heads_is_registered_and_fastreids_own_stay() -> None:
    assert set(HEADS) <= set(REID_HEADS_REGISTRY._obj_map)
    assert REID_HEADS_REGISTRY.get("EmbeddingHead").__module__.startswith("fastreid.")


@pytest.mark.parametrize(
    ("name", "depth", "channels"),
    [
        ("build_resnet_backbone", "18x", 512),
        ("build_osnet_backbone", "x0_25", 128),
        ("build_mobilenetv2_backbone", "1.0x", 1280),
        ("build_shufflenetv2_backbone", "1.0x", 1024),
        ("build_regnet_backbone", "200x", 368),
        ("build_effnet_backbone", "b0", 1280),
        ("build_repvgg_backbone", "A0", 1280),
    ],
)
def test_fastreids_backbones_serve_our_meta_architectures(
    make_cfg: MakeConfig, tmp_path: Path, name: str, depth: str, channels: int
) -> None:
    assert name in BACKBONES
    changes = {
        "MODEL.BACKBONE.NAME": name,
        "MODEL.BACKBONE.DEPTH": depth,
        "MODEL.BACKBONE.FEAT_DIM": channels,
        "MODEL.HEADS.NUM_CLASSES": 8,
    }
    model = build_model(make_cfg("MLT", tmp_path, changes)).to(memory_format=torch.channels_last)  # as in our engine
    model.set_pseudo_labels(torch.zeros(2, 4, dtype=torch.int64), 1)
    batch = {"images": images(), "targets": torch.zeros(4, dtype=torch.int64), "indices": torch.arange(4)}
    losses = model(batch | {"domains": torch.tensor([0, 0, 1, 1])})
    torch.stack(list(losses.values())).sum().backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert any(isinstance(module, DomainBatchNorm) for module in model.backbone.modules())


def test_synchronised_batch_norm_of_a_fastreid_backbone(make_cfg: MakeConfig, tmp_path: Path) -> None:
    cfg = make_cfg("MLT", tmp_path, {**FASTREID_RESNET, "MODEL.BACKBONE.NORM": "SyncBN"})
    norms = [m for m in build_model(cfg).modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) > 40


def test_the_head_in_fastreids_baseline(make_cfg: MakeConfig, tmp_path: Path) -> None:
    changes = {"MODEL.HEADS.NAME": "MixtureLabelHead", "PSEUDO_LABELS.NUM_CLUSTERS": (6,), "MEMORY.NAME": ""}
    cfg = make_cfg("Baseline", tmp_path, FASTREID_RESNET | changes)
    assert isinstance(build_heads(cfg), FastReIDHead)
    model = build_model(cfg)
    with EventStorage():
        losses = model({"images": images(), "targets": torch.tensor([0, 0, 5, 5])})
    sum(losses.values()).backward()
    assert losses.keys() == {"loss_cls", "loss_triplet"}
    assert model.heads.classifiers[0].grad.abs().sum() > 0
    assert model.eval()({"images": images()}).shape == (4, 512)
    with pytest.raises(ValueError, match=r"one number in PSEUDO_LABELS.NUM_CLUSTERS.*got \(6, 8\) and 'MemoryBank'"):
        build_heads(make_cfg("Baseline", tmp_path, {"MODEL.HEADS.NAME": "MixtureLabelHead"}))


@pytest.mark.parametrize("method", ["MLT", "MMT", "SpCL"])
def test_fastreids_checkpoints_carry_every_tensor(make_cfg: MakeConfig, tmp_path: Path, method: str) -> None:
    cfg = make_cfg(method, tmp_path, {"MODEL.HEADS.NUM_CLASSES": 8})
    model, other = build_model(cfg), build_model(cfg)
    stir(model)
    if method == "MLT":
        model.heads.reset_classifier(0, 3)
    Checkpointer(model, str(tmp_path)).save("model_final")
    Checkpointer(other).load(str(tmp_path / "model_final.pth"))
    wanted, found = model.state_dict(), other.state_dict()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []
    if method == "MLT":
        assert any("BN_T" in name for name in wanted)
        assert any(name.startswith("memory.queue") for name in wanted)
        assert other.heads.num_active == (3, 8)


def test_a_run_in_fastreid_loads_as_a_model_of_ours(mlt_run: Any) -> None:
    model = mlt.load_model(Path(mlt_run.cfg.OUTPUT_DIR, "model_final.pth"))
    trained = mlt_run.adaptive.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images()), trained(images()))
    trained.train()


def test_fastreids_resnet_loads_as_ours(make_cfg: MakeConfig, tmp_path: Path) -> None:
    trainer = MLTTrainer(make_cfg("MLT", tmp_path, FASTREID_RESNET))
    stir(trainer.adaptive)
    trainer.checkpointer.save("model_final")
    model = mlt.load_model(tmp_path / "model_final.pth")
    with torch.no_grad():
        torch.testing.assert_close(model(images()), trainer.adaptive.eval()(images()))


def test_our_engines_file_in_fastreid(make_cfg: MakeConfig, tmp_path: Path) -> None:
    """A plain net of ours with FastReID's stem, as a checkpoint of our engine, in both of FastReID's kinds of model."""
    values = {"MODEL.BACKBONE.DEPTH": "18x", "MODEL.BACKBONE.STEM_CEIL_POOL": True, "MODEL.HEADS.NUM_CLASSES": 8}
    ours = get_cfg()
    ours.merge_from_list([word for pair in {**values, "MODEL.DEVICE": "cpu"}.items() for word in pair])
    model = mlt.modeling.build.build_model(ours)
    stir(model)
    file = {"model": model.state_dict(), "config": describe_net(ours)}
    with torch.no_grad():
        wanted = model.eval()(images())

        adaptive = build_model(make_cfg("MLT", tmp_path, FASTREID_RESNET))
        assert load_weights(adaptive, file).conflicts == ()
        torch.testing.assert_close(adaptive.eval()(images()), wanted)

        torch.save(to_fastreid(file), tmp_path / "converted.pth")
        baseline = build_model(make_cfg("Baseline", tmp_path, {**FASTREID_RESNET, "MODEL.HEADS.WITH_BNNECK": True}))
        Checkpointer(baseline).load(str(tmp_path / "converted.pth"))
        found = nn.functional.normalize(baseline.eval()({"images": images()}))
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("pooling", "neck", "words"),
    [
        ("GlobalAvgPool", True, ""),
        ("GlobalMaxPool", True, "pools by FastReID's GlobalMaxPool"),
        ("GlobalAvgPool", False, "no whole re-ID model"),
    ],
)
def test_fastreids_baseline_loads_as_ours_or_not_at_all(
    make_cfg: MakeConfig, tmp_path: Path, pooling: str, neck: bool, words: str
) -> None:
    changes = {"MODEL.HEADS.POOL_LAYER": pooling, "MODEL.HEADS.WITH_BNNECK": neck, "MODEL.HEADS.NUM_CLASSES": 0}
    trainer = MLTTrainer(make_cfg("Baseline", tmp_path, FASTREID_RESNET | changes))
    stir(trainer.model)
    trainer.checkpointer.save("model_final")
    if words:
        with pytest.raises(ValueError, match=words):
            mlt.load_model(tmp_path / "model_final.pth")
        return
    with torch.no_grad():
        wanted = nn.functional.normalize(trainer.model.eval()({"images": images()}))
        torch.testing.assert_close(mlt.load_model(tmp_path / "model_final.pth")(images()), wanted)


def test_a_stem_that_differs_is_told(make_cfg: MakeConfig, tmp_path: Path) -> None:
    ours = get_cfg()
    ours.merge_from_list(["MODEL.BACKBONE.DEPTH", "18x", "MODEL.HEADS.NUM_CLASSES", 8, "MODEL.DEVICE", "cpu"])
    file = {"model": mlt.modeling.build.build_model(ours).state_dict(), "config": describe_net(ours)}
    adaptive = build_model(make_cfg("MLT", tmp_path, FASTREID_RESNET))
    assert "STEM_CEIL_POOL False, the model has True" in load_weights(adaptive, file).conflicts[0]
