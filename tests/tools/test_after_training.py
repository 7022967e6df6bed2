"""The tools for trained models: features, clusters, sheets and other formats, by their command lines on tiny data."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score
from torchvision.models.resnet import BasicBlock, ResNet

import mlt
import mlt.components
import mlt_ops
from mlt.config import CfgNode, get_cfg
from mlt.data.datasets import read_dataset
from mlt.data.image_dataset import decode_image
from mlt.modeling import build_model
from mlt.modeling.net_config import describe_net
from mlt.utils.checkpoint import load_checkpoint
from mlt.utils.feature_file import FeatureFile
from tools import cluster, convert_weights, extract, visualize

NUM_IDS, IMAGES_PER_ID = 4, 6
GREEN, RED = (44, 160, 44), (214, 39, 40)  # tab:green and tab:red


def make_cfg(*options: object) -> CfgNode:
    cfg = get_cfg()
    tiny = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "10x", "MODEL.BACKBONE.WIDTH", 8]
    stage_two = ["MODEL.META_ARCHITECTURE", "MixtureLabelTransport", "MODEL.HEADS.NAME", "MixtureLabelHead"]
    rest = ["MODEL.DSBN", True, "MODEL.HEADS.NUM_CLASSES", 3, "PSEUDO_LABELS.NUM_CLUSTERS", (4, 5)]
    cfg.merge_from_list([*tiny, *stage_two, *rest, "INPUT.SIZE_TEST", [32, 16], *options])
    return cfg


def save_model(path: Path, *options: object) -> torch.nn.Module:
    """A checkpoint as the trainer writes it, whose teacher differs from its student, BN_S from BN_T."""
    cfg = make_cfg(*options)
    model = build_model(cfg).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "bias")) and tensor.is_floating_point():
            tensor.uniform_(-0.2, 0.2)
    for tensor in model.teacher.parameters():
        tensor.data.mul_(1 + 0.2 * torch.rand_like(tensor))
    torch.save({"model": model.state_dict(), "config": describe_net(cfg), "epoch": 1}, path)
    return model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Its stem has no ReLU, which only the stored config tells."""
    save_model(tmp_path / "model.pth", "MODEL.BACKBONE.STEM_RELU", False)
    return tmp_path / "model.pth"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """People of one colour each, seen by three cameras: photos/cam0/id0_0.png and so on."""
    rng = np.random.default_rng(0)
    for pid in range(NUM_IDS):
        colour = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 60)][pid])
        for i in range(IMAGES_PER_ID):
            pixels = np.clip(colour + rng.normal(0, 12, (40, 20, 3)), 0, 255).astype(np.uint8)
            path = tmp_path / "photos" / f"cam{i % 3}" / f"id{pid}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


@pytest.fixture
def table(photos: Path) -> Path:
    """The photos with identities: the first of each is a query, the second to fourth gallery, the rest training."""
    rows = []
    for path in sorted(photos.rglob("*.png")):
        pid, i = path.stem.removeprefix("id").split("_")
        split = "query" if i == "0" else "gallery" if i in "123" else "train"
        rows.append(f"{path.relative_to(photos)},{pid},{int(i) % 3},{split}\n")
    (photos / "table.csv").write_text("path,pid,camid,split\n" + "".join(rows))
    return photos / "table.csv"


def failing(tool: object, words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a call that must fail."""
    with pytest.raises(SystemExit) as raised:
        tool.main([str(word) for word in words])
    assert raised.value.code == 2
    return capsys.readouterr().err


class TestExtract:
    def test_a_folder(self, weights: Path, photos: Path, tmp_path: Path, capsys) -> None:
        extract.main([str(weights), str(photos), str(tmp_path / "new" / "out.npz")])
        found = FeatureFile.load(tmp_path / "new" / "out.npz")
        assert f"features [{NUM_IDS * IMAGES_PER_ID}, 64] of Folder@" in capsys.readouterr().out
        assert list(found.paths) == sorted(map(str, photos.rglob("*.png")))
        assert list(found.camids) == [int(Path(path).parent.name[-1]) for path in found.paths]
        assert set(found.pids) == {-1}
        assert set(found.splits) == {"train"}
        images = torch.stack([decode_image(path, (32, 16)) for path in found.paths])
        torch.testing.assert_close(torch.from_numpy(found.features), mlt.load_model(weights)(images))

    def test_features_are_the_trained_models(self, photos: Path, tmp_path: Path) -> None:
        model = save_model(tmp_path / "model.pth", "MODEL.BACKBONE.STEM_RELU", False)
        extract.main([str(tmp_path / "model.pth"), str(photos), str(tmp_path / "out.npz")])
        found = FeatureFile.load(tmp_path / "out.npz")
        with torch.no_grad():
            expected = model(torch.stack([decode_image(path, (32, 16)) for path in found.paths]))
            student = model(torch.stack([decode_image(path, (32, 16)) for path in found.paths]), net="student")
        torch.testing.assert_close(torch.from_numpy(found.features), expected)
        assert (student - expected).abs().max() > 1e-3

    def test_a_table_and_a_list(self, weights: Path, table: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.npz"
        extract.main([str(weights), str(table), str(out)])
        found = FeatureFile.load(out)
        assert [len(found.rows(split)) for split in ("train", "query", "gallery", "all")] == [8, 4, 12, 24]
        assert list(found.pids) == [int(Path(path).stem[2]) for path in found.paths]
        (table.parent / "list.txt").write_text("cam0/id1_0.png\n\ncam0/id0_0.png\n")
        extract.main([str(weights), str(table.parent / "list.txt"), str(out)])
        listed = FeatureFile.load(out)
        assert [Path(path).name for path in listed.paths] == ["id0_0.png", "id1_0.png"]
        rows = [list(found.paths).index(path) for path in listed.paths]
        np.testing.assert_allclose(listed.features, found.features[rows], atol=1e-5)

    def test_options(self, weights: Path, photos: Path, tmp_path: Path) -> None:
        features = []
        for words in ([], ["--opts", "INPUT.SIZE_TEST", "(40, 20)", "--device", "cpu"], ["--domain", "source"]):
            extract.main([str(weights), str(photos), str(tmp_path / "out.npz"), *words])
            features.append(FeatureFile.load(tmp_path / "out.npz").features)
        assert all(np.abs(other - features[0]).max() > 1e-3 for other in features[1:])

    def test_errors(self, weights: Path, photos: Path, tmp_path: Path, capsys) -> None:
        out = tmp_path / "out.npz"
        assert "No checkpoint 'none.pth'" in failing(extract, ["none.pth", photos, out], capsys)
        assert "No folder, list or table 'no/photos'" in failing(extract, [weights, "no/photos", out], capsys)
        assert "Did you mean 'Market1501'" in failing(extract, [weights, "Market1051", out], capsys)
        assert "Did you mean 'INPUT.SIZE_TEST'" in failing(
            extract, [weights, photos, out, "--opts", "INPUT.SIZE_TES", 1], capsys
        )
        (photos / "cam0" / "id0_0.png").write_bytes(b"no image")
        assert "Cannot read image" in failing(extract, [weights, photos, out], capsys)
        assert not list(tmp_path.glob("out.npz*"))


@pytest.fixture
def features(weights: Path, table: Path, tmp_path: Path) -> Path:
    extract.main([str(weights), str(table), str(tmp_path / "features.npz")])
    return tmp_path / "features.npz"


def test_skipped_images_have_no_features(weights: Path, photos: Path, tmp_path: Path, capsys) -> None:
    words = [weights, photos, tmp_path / "out.npz", "--opts", "DATALOADER.ON_BAD_IMAGE", "skip"]
    extract.main([str(word) for word in words])
    whole = FeatureFile.load(tmp_path / "out.npz")
    Path(whole.paths[3]).write_bytes(b"")
    extract.main([str(word) for word in words])
    found = FeatureFile.load(tmp_path / "out.npz")
    assert list(found.paths) == [*whole.paths[:3], *whole.paths[4:]]
    np.testing.assert_allclose(found.features, np.delete(whole.features, 3, axis=0), atol=1e-5)
    for path in whole.paths:
        Path(path).write_bytes(b"")
    assert f"none of {NUM_IDS * IMAGES_PER_ID} images can be read" in failing(extract, words, capsys)


class TestCluster:
    def test_kmeans_finds_the_people(self, features: Path, tmp_path: Path, capsys) -> None:
        words = ["--method", "kmeans", "--num-clusters", str(NUM_IDS), "--split", "all"]
        cluster.main([str(features), str(tmp_path / "labels.csv"), *words])
        records = read_dataset(f"csv@{tmp_path}/labels.csv", root="").train
        people = [Path(record.path).stem[2] for record in records]
        assert adjusted_rand_score(people, [record.pid for record in records]) == 1
        assert [record.camid for record in records] == [int(Path(record.path).parent.name[-1]) for record in records]
        assert "ARI          1\n" in capsys.readouterr().out

    @pytest.mark.parametrize("eps", [0.3, 0.6])
    def test_dbscan_is_that_of_the_dense_distance(self, features: Path, tmp_path: Path, eps: float) -> None:
        words = ["--eps", str(eps), "--min-samples", "3", "--k1", "4", "--k2", "2", "--split", "all"]
        cluster.main([str(features), str(tmp_path / "labels.csv"), *words])
        with open(tmp_path / "labels.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        found = FeatureFile.load(features)
        dense = mlt_ops.jaccard_distance(torch.from_numpy(found.features), max_distance=1, k1=4, k2=2).to_dense()
        expected = DBSCAN(eps=eps, min_samples=3, metric="precomputed").fit_predict(dense.numpy())
        assert [int(row["pid"]) for row in rows] == list(expected)
        assert [row["path"] for row in rows] == list(found.paths)

    def test_camera_centring_and_seed_matter(self, features: Path, tmp_path: Path) -> None:
        tables = []
        for i, words in enumerate(([], ["--center-cameras"], ["--seed", "1"])):
            path = tmp_path / f"{i}.csv"
            cluster.main(
                [str(features), str(path), "--method", "kmeans", "--num-clusters", "5", "--restarts", "1", *words]
            )
            tables.append(path.read_text())
        assert len(set(tables)) > 1
        assert tables[0].count("\n") == 1 + 8  # the training split

    def test_errors(self, features: Path, tmp_path: Path, capsys) -> None:
        out = tmp_path / "labels.csv"
        assert "needs --num-clusters" in failing(cluster, [features, out, "--method", "kmeans"], capsys)
        assert "max_distance must be positive" in failing(cluster, [features, out, "--eps", 0.0], capsys)
        assert "tools/extract.py makes them" in failing(cluster, ["none.npz", out], capsys)
        np.savez(tmp_path / "other.npz", features=np.zeros((2, 3)))
        assert "is no archive of features, paths" in failing(cluster, [tmp_path / "other.npz", out], capsys)
        found = FeatureFile.load(features)
        FeatureFile(found.features, found.paths, found.pids, found.camids, np.full(24, "query")).save(features)
        assert "there are no train images among the features, only query" in failing(cluster, [features, out], capsys)
        paths = np.array([*found.paths[:-1], "caf\udce9.png"])  # as Python reads a name that is not UTF-8
        FeatureFile(found.features, paths, found.pids, found.camids, found.splits).save(features)
        assert "name is not: 'caf\\udce9' ...; rename it" in failing(cluster, [features, out, "--split", "all"], capsys)
        assert not out.exists()


def colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 24)}


class TestVisualize:
    def test_ranked_lists(self) -> None:
        """Rows of one dimension: the distance is the difference."""
        values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
        pids, camids = [1, 1, 1, 2, -1, 1], [0, 0, 1, 1, 1, -1]
        found = FeatureFile(
            features=np.array(values, dtype=np.float32)[:, None],
            paths=np.array(list("qabcde")),
            pids=np.array(pids),
            camids=np.array(camids),
            splits=np.array(["query", *["gallery"] * 5]),
        )
        (row,) = visualize.ranked_lists(found, num_queries=3, top=10)
        assert [tile.path for tile in row] == ["q", "b", "c", "d", "e"]  # "a" is the query's own camera
        wanted = [visualize.HIT, visualize.MISS, visualize.PLAIN, visualize.HIT]
        assert [tile.colour for tile in row[1:]] == wanted
        assert [tile.text for tile in row] == ["query 1", "0.20", "0.30", "0.40", "0.50"]
        unsplit = FeatureFile(**{**found.__dict__, "splits": np.full(6, "train")})
        rows = visualize.ranked_lists(unsplit, num_queries=2, top=1)
        assert [[tile.path for tile in row] for row in rows] == [["q", "b"], ["e", "d"]]

    def test_clusters_by_size_and_outliers_last(self, photos: Path) -> None:
        records = read_dataset(f"Folder@{photos}", root="").train
        labels = [0] * 3 + [1] * 8 + [2] * 8 + [-1] * 5
        relabelled = [type(r)(r.path, label) for r, label in zip(records, labels, strict=True)]
        rows = visualize.cluster_sheet(relabelled, num_clusters=3, size=4)
        assert [row[0].text for row in rows] == ["cluster 1: 8", "cluster 2: 8", "outliers: 5"]
        assert [tile.path for tile in rows[0]] == [record.path for record in records[3:7]]
        assert {tile.colour for tile in rows[2]} == {visualize.MISS}

    def test_ranks_as_png(self, features: Path, tmp_path: Path) -> None:
        visualize.main(["ranks", str(features), str(tmp_path / "out.png"), "--rows", "2", "--columns", "8"])
        assert {GREEN, RED} <= colours(tmp_path / "out.png")  # 2 hits that count among 12 images

    def test_labels_as_png(self, features: Path, tmp_path: Path, capsys) -> None:
        words = [str(tmp_path / "labels.csv"), "--method", "kmeans", "--num-clusters", "3"]
        cluster.main([str(features), *words])
        visualize.main(["labels", words[0], str(tmp_path / "out.png"), "--rows", "2"])
        assert "out.png: 2 rows" in capsys.readouterr().out
        assert not {GREEN, RED} & colours(tmp_path / "out.png")

    def test_errors(self, features: Path, tmp_path: Path, capsys) -> None:
        out = tmp_path / "out.png"
        assert "must be >= 1, got 0 and 10" in failing(visualize, ["ranks", features, out, "--rows", 0], capsys)
        assert "no such file" in failing(visualize, ["labels", tmp_path / "none.csv", out], capsys)
        Path(FeatureFile.load(features).paths[8]).unlink()  # the first query
        assert "No such file" in failing(visualize, ["ranks", features, out], capsys)
        assert not list(tmp_path.glob("out.png*"))


class TestConvertWeights:
    def test_to_fastreid_and_back(self, photos: Path, tmp_path: Path, capsys) -> None:
        """With FastReID's stem its net gives the teacher's features."""
        model = save_model(tmp_path / "model.pth", "MODEL.BACKBONE.STEM_CEIL_POOL", True)
        convert_weights.main([str(tmp_path / "model.pth"), str(tmp_path / "out.pth"), "--to", "fastreid"])
        assert "Careful" not in capsys.readouterr().out
        content = load_checkpoint(tmp_path / "out.pth")
        assert list(content) == ["model"]
        tops = {".".join(key.split(".")[:2]) for key in content["model"]}
        layers = {f"backbone.layer{i}" for i in range(1, 5)}
        assert tops == {"backbone.conv1", "backbone.bn1", *layers, "heads.pool_layer", "heads.bottleneck"}
        assert not any("BN_" in key for key in content["model"])
        images = torch.stack([decode_image(str(path), (32, 16)) for path in photos.rglob("*.png")])
        with torch.no_grad():
            torch.testing.assert_close(mlt.load_model(tmp_path / "out.pth")(images), model(images))

    def test_to_torchvision(self, tmp_path: Path) -> None:
        model = save_model(tmp_path / "model.pth", "MODEL.BACKBONE.WIDTH", 64, "MODEL.BACKBONE.LAST_STRIDE", 2)
        convert_weights.main([str(tmp_path / "model.pth"), str(tmp_path / "out.pth"), "--to", "torchvision"])
        theirs = ResNet(BasicBlock, [1, 1, 1, 1]).eval()
        found = theirs.load_state_dict(load_checkpoint(tmp_path / "out.pth"), strict=False)
        assert found.missing_keys == ["fc.weight", "fc.bias"]
        assert found.unexpected_keys == []
        theirs.fc = torch.nn.Identity()
        images = torch.randn(2, 3, 64, 32)
        with torch.no_grad():
            expected = model.teacher.backbone(images).mean((2, 3))
            torch.testing.assert_close(theirs(images), expected, rtol=1e-4, atol=1e-4)

    def test_another_stem_is_told(self, weights: Path, tmp_path: Path, capsys) -> None:
        for form, keys in (
            ("fastreid", ["STEM_RELU False", "STEM_CEIL_POOL False"]),
            ("torchvision", ["STEM_RELU False"]),
        ):
            convert_weights.main([str(weights), str(tmp_path / "out.pth"), "--to", form])
            lines = [line for line in capsys.readouterr().out.splitlines() if "Careful" in line]
            assert [key in line for key, line in zip(keys, lines, strict=True)] == [True] * len(keys)

    def test_errors(self, weights: Path, tmp_path: Path, capsys) -> None:
        out = tmp_path / "out.pth"
        save_model(tmp_path / "nl.pth", "MODEL.BACKBONE.WITH_NL", True)
        message = failing(convert_weights, [tmp_path / "nl.pth", out, "--to", "torchvision"], capsys)
        assert "torchvision's ResNet has no non-local blocks" in message
        torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
        message = failing(convert_weights, [tmp_path / "a.pth", out, "--to", "fastreid"], capsys)
        assert "holds no ResNet: its tensors are a" in message
        assert not out.exists()
