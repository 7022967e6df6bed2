"""The synthetic domains: layout, repeatability, repair, what is seen from where, and that colours alone do not help."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlt.data.synthetic import DOMAINS, DomainSpec, render, render_domain
from mlt.data.synthetic.identity import Fabric, Identity, Print, sample_identity
from mlt.data.synthetic.person import Person, Pose, View
from mlt.data.synthetic.plan import GALLERY, QUERY, TRAIN, plan_shots

NAME = re.compile(r"(-1|\d{4})_c([1-9])s1_\d{6}_\d{2}\.jpg")
TINY = DomainSpec("station", num_train_ids=3, num_test_ids=3, images_per_id=6, num_cams=3, distractors=6, junk=4)


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def ids_and_cams(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    pairs = [re.match(r"([-\d]+)_c(\d)", path.name).groups() for path in sorted(folder.glob("*.jpg"))]
    pids, camids = np.array(pairs, dtype=int).T
    return pids, camids


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_domain(tmp_path_factory.mktemp("tiny") / "station", TINY).folder


class TestLayout:
    def test_names_sizes_and_counts(self, tiny: Path) -> None:
        counts = Counter()
        for path in tiny.glob("*/*.jpg"):
            assert NAME.fullmatch(path.name)
            with Image.open(path) as image:
                assert (image.height, image.width, image.mode) == (64, 32, "RGB")
            counts[path.parent.name] += 1
        assert sorted(counts) == sorted([TRAIN, QUERY, GALLERY])
        assert counts.total() == 6 * 6 + 6 + 4
        assert sorted(path.name for path in tiny.iterdir()) == sorted([TRAIN, QUERY, GALLERY, "manifest.json"])

    def test_ids_are_disjoint_and_extras_are_in_the_gallery_only(self, tiny: Path) -> None:
        train, query, gallery = (set(ids_and_cams(tiny / name)[0].tolist()) for name in (TRAIN, QUERY, GALLERY))
        assert train == {1, 2, 3}
        assert query == {4, 5, 6}
        assert gallery == {-1, 0, 4, 5, 6}

    def test_result_counts_the_files(self, tiny: Path) -> None:
        result = render_domain(tiny, TINY)
        found = [len(list((tiny / name).iterdir())) for name in (TRAIN, QUERY, GALLERY)]
        assert [result.num_train, result.num_query, result.num_gallery] == found

    def test_other_sizes(self, tmp_path: Path) -> None:
        spec = DomainSpec("campus", num_train_ids=1, num_test_ids=1, images_per_id=4, num_cams=2, size=(96, 40))
        folder = render_domain(tmp_path / "campus", spec).folder
        sizes = {Image.open(path).size for path in folder.glob("*/*.jpg")}
        assert sizes == {(40, 96)}

    @settings(max_examples=60, deadline=None)
    @given(
        domain=st.sampled_from(DOMAINS),
        num_test_ids=st.integers(1, 12),
        images_per_id=st.integers(4, 30),
        num_cams=st.integers(2, 9),
        seed=st.integers(0, 10**6),
    )
    def test_every_query_has_a_match_from_another_camera(
        self, domain: str, num_test_ids: int, images_per_id: int, num_cams: int, seed: int
    ) -> None:
        spec = DomainSpec(domain, 2, num_test_ids, images_per_id, num_cams, seed, distractors=3, junk=2)
        shots = [shot for group in plan_shots(spec) for shot in group]
        gallery = {(shot.pid, shot.cam) for shot in shots if shot.folder == GALLERY}
        queries = [(shot.pid, shot.cam) for shot in shots if shot.folder == QUERY]
        assert len(set(queries)) == len(queries)  # one per person and camera, as in Market-1501
        assert {pid for pid, _ in queries} == set(range(3, 3 + num_test_ids))
        for pid, cam in queries:
            assert any(pid == other and cam != camera for other, camera in gallery)
        assert len({(shot.folder, shot.name) for shot in shots}) == len(shots)
        assert all(NAME.fullmatch(shot.name) and shot.cam <= num_cams for shot in shots)


class TestRepeatability:
    def test_same_spec_and_any_jobs_give_the_same_files(self, tiny: Path, tmp_path: Path) -> None:
        expected = read_all(tiny)
        assert read_all(render_domain(tmp_path / "one", TINY, jobs=1).folder) == expected
        assert read_all(render_domain(tmp_path / "two", TINY, jobs=2).folder) == expected

    @pytest.mark.parametrize("change", [{"seed": 1}, {"camera_seed": 1}, {"domain": "campus"}])
    def test_each_seed_changes_the_images(self, change: dict[str, object], tiny: Path, tmp_path: Path) -> None:
        other = read_all(render_domain(tmp_path / "other", replace(TINY, **change)).folder)
        shared = [name for name, data in read_all(tiny).items() if name.endswith(".jpg") and other.get(name) == data]
        assert shared == []

    def test_every_image_has_its_own_random_numbers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = []
        monkeypatch.setattr(render, "shoot", lambda *args, **kwargs: drawn.append(args[2].random()) or b"")
        render_domain(tmp_path, TINY)
        assert len(set(drawn)) == len(drawn) == 6 * 6 + 6 + 4

    def test_more_persons_do_not_change_the_first_ones(self, tiny: Path, tmp_path: Path) -> None:
        more = read_all(render_domain(tmp_path / "more", replace(TINY, num_test_ids=5)).folder)
        train = {name: data for name, data in read_all(tiny).items() if name.startswith(TRAIN)}
        assert train.items() <= more.items()


class TestReuse:
    def test_same_spec_is_reused(self, tiny: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
        assert render_domain(tiny, TINY).reused
        assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before

    def test_other_spec_is_rendered_again(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        render_domain(tmp_path, replace(TINY, num_train_ids=4))
        with caplog.at_level(logging.WARNING):
            assert not render_domain(tmp_path, TINY).reused
        assert "another synthetic domain" in caplog.text
        assert set(ids_and_cams(tmp_path / TRAIN)[0].tolist()) == {1, 2, 3}

    def test_lost_image_is_repaired(self, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        render_domain(tmp_path, TINY)
        next((tmp_path / QUERY).iterdir()).unlink()
        with caplog.at_level(logging.WARNING):
            assert not render_domain(tmp_path, TINY).reused
        assert "instead of" in caplog.text
        assert read_all(tmp_path) == read_all(tiny)

    def test_killed_run_is_repaired(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(render, "shoot", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                render_domain(tmp_path, TINY)
        assert not (tmp_path / "manifest.json").exists()
        with caplog.at_level(logging.WARNING):
            assert not render_domain(tmp_path, TINY).reused
        assert "unfinished" in caplog.text
        assert read_all(tmp_path) == read_all(tiny)

    def test_newer_generator_renders_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        render_domain(tmp_path, TINY)
        monkeypatch.setattr(render, "GENERATOR", render.GENERATOR + 1)
        assert not render_domain(tmp_path, TINY).reused

    def test_foreign_images_are_never_touched(self, tmp_path: Path) -> None:
        photo = tmp_path / TRAIN / "0002_c1s1_000451_03.jpg"
        photo.parent.mkdir()
        photo.write_bytes(b"real")
        with pytest.raises(FileExistsError, match="not rendered by this generator"):
            render_domain(tmp_path, TINY)
        assert read_all(tmp_path) == {f"{TRAIN}/{photo.name}": b"real"}

    def test_manifest_tells_the_spec(self, tiny: Path) -> None:
        manifest = json.loads((tiny / "manifest.json").read_text())
        assert manifest["spec"]["domain"] == "station"
        assert manifest["spec"]["size"] == [64, 32]


class TestErrors:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"domain": "beach"}, "domain: unknown 'beach'; known: campus, station"),
            ({"num_train_ids": 0}, "num_train_ids: got 0"),
            ({"num_test_ids": 9998}, "num_test_ids: got 9998, wanted a whole number from 1 to 9996"),
            ({"images_per_id": 3}, "images_per_id: got 3"),
            ({"num_cams": 1}, "num_cams: got 1, wanted a whole number from 2 to 9"),
            ({"num_cams": 10}, "num_cams: got 10"),
            ({"seed": -1}, "seed: got -1"),
            ({"junk": 0.5}, "junk: got 0.5"),
            ({"size": (31, 32)}, "size: got 31x32"),
        ],
    )
    def test_spec(self, wrong: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            replace(TINY, **wrong)

    def test_jobs(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="jobs: got 0"):
            render_domain(tmp_path, TINY, jobs=0)


def draw(identity: Identity, degrees: float) -> np.ndarray:
    canvas = np.full((128, 64, 3), 0.5, dtype=np.float32)
    view = View(np.radians(degrees), elevation=0.1, height=110, feet=(32, 120))
    Person(identity).draw(canvas, Pose(phase=0.0, stride=0.3, swing=0.2), view)
    return canvas


def changed(identity: Identity, degrees: float, **change: object) -> int:
    """Number of pixels that differ between a person and the same person with something changed."""
    difference = draw(identity, degrees) != draw(replace(identity, **change), degrees)
    return int(difference.any(axis=2).sum())


class TestAppearance:
    @pytest.fixture
    def identity(self) -> Identity:
        """A person with nothing that hides the torso."""
        person = sample_identity(np.random.default_rng(0), winter=False)
        cloth = Fabric((0.8, 0.2, 0.2), (0.2, 0.2, 0.8))
        bare = {"front": None, "back": None, "opening": None, "bag": "none", "hair_style": "short", "scarf": None}
        return replace(person, upper=cloth, sleeves=cloth, lower_kind="trousers", **bare)

    def test_logo_is_seen_from_the_front_only(self, identity: Identity) -> None:
        logo = Print("disc", (0.9, 0.9, 0.1), size=0.08, height=0.4)
        assert changed(identity, 0, front=logo) > 50
        assert changed(identity, 180, front=logo) == 0

    def test_logo_turns_with_the_person(self, identity: Identity) -> None:
        logo = replace(identity, front=Print("disc", (0.9, 0.9, 0.1), size=0.08, height=0.4))
        for degrees in (-50, 50):
            columns = np.nonzero((draw(identity, degrees) != draw(logo, degrees)).any(axis=2))[1]
            assert np.sign(31.5 - columns.mean()) == np.sign(degrees)  # a positive yaw walks to the left

    def test_back_print_is_seen_from_behind_only(self, identity: Identity) -> None:
        figure = Print("cross", (0.9, 0.9, 0.1), size=0.1, height=0.4)
        assert changed(identity, 0, back=figure) == 0
        assert changed(identity, 180, back=figure) > 50

    def test_open_jacket_is_seen_from_the_front_only(self, identity: Identity) -> None:
        assert changed(identity, 0, opening=(0.9, 0.9, 0.9)) > 50
        assert changed(identity, 180, opening=(0.9, 0.9, 0.9)) == 0

    def test_backpack_is_mostly_seen_from_behind(self, identity: Identity) -> None:
        assert changed(identity, 180, bag="backpack") > 3 * changed(identity, 0, bag="backpack") > 0

    def test_shoulder_bag_hangs_on_its_side(self, identity: Identity) -> None:
        for side in (-1, 1):
            worn = replace(identity, bag_side=side)
            plain, carried = draw(worn, 0), draw(replace(worn, bag="shoulder"), 0)
            columns = np.nonzero((plain != carried).any(axis=2)[60:80])[1]  # below the strap
            assert np.sign(columns.mean() - 31.5) == side  # a person who faces us has its left on our right

    def test_seasons(self) -> None:
        summer, winter = (
            [sample_identity(np.random.default_rng([season, i]), winter=bool(season)) for i in range(200)]
            for season in (0, 1)
        )
        assert min(person.sleeve_length for person in winter) > 0.8 > min(person.sleeve_length for person in summer)
        assert any(person.lower_kind == "shorts" for person in summer)
        assert not any(person.lower_kind == "shorts" for person in winter)
        assert any(person.scarf for person in winter)
        assert not any(person.scarf for person in summer)

    def test_station_is_darker_and_bluer_than_campus(self, tiny: Path, tmp_path: Path) -> None:
        campus = render_domain(tmp_path / "campus", replace(TINY, domain="campus")).folder
        means = [
            np.mean([np.asarray(Image.open(path)) for path in folder.glob("*/*.jpg")], axis=(0, 1, 2))
            for folder in (campus, tiny)
        ]
        assert means[1].mean() < 0.8 * means[0].mean()
        assert means[1][2] / means[1][0] > means[0][2] / means[0][0]


def mean_average_precision(query: tuple[np.ndarray, ...], gallery: tuple[np.ndarray, ...]) -> float:
    """Market-1501 protocol on (unit features, pids, camids): same person and camera and pid -1 are left out."""
    average_precisions = []
    for feature, pid, camid in zip(*query):
        kept = (gallery[1] != -1) & ~((gallery[1] == pid) & (gallery[2] == camid))
        order = np.argsort(-(gallery[0][kept] @ feature), kind="stable")
        ranks = np.flatnonzero(gallery[1][kept][order] == pid) + 1
        average_precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return 100 * float(np.mean(average_precisions))


def stripe_histograms(folder: Path) -> np.ndarray:
    """HSV histograms of six horizontal stripes, square-rooted, unit length."""
    features = []
    for path in sorted(folder.glob("*.jpg")):
        hsv = np.asarray(Image.open(path).convert("HSV")).astype(int) // (32, 64, 64)
        bins = hsv @ (16, 4, 1)
        stripes = [np.bincount(stripe.ravel(), minlength=128) for stripe in np.array_split(bins, 6)]
        features.append(np.sqrt(np.concatenate(stripes)))
    return np.array(features) / np.linalg.norm(features, axis=1, keepdims=True)


def test_colours_alone_do_not_identify(tmp_path: Path) -> None:
    """At benchmark size a descriptor without learning fails, so that what a network reaches is learned."""
    spec = DomainSpec("station", num_train_ids=1, num_test_ids=50, seed=7, distractors=100, junk=20)
    folder = render_domain(tmp_path, spec, jobs=2).folder
    labels = {name: ids_and_cams(folder / name) for name in (QUERY, GALLERY)}

    def score(features: dict[str, np.ndarray]) -> float:
        query, gallery = ((features[name], *labels[name]) for name in (QUERY, GALLERY))
        return mean_average_precision(query, gallery)

    perfect = {name: np.eye(100)[labels[name][0]] for name in labels}
    assert score(perfect) == 100  # the measure itself would notice
    assert score({name: stripe_histograms(folder / name) for name in labels}) < 12


def load_tool() -> ModuleType:
    path = Path(__file__).parents[3] / "tools" / "make_synthetic.py"
    spec = importlib.util.spec_from_file_location("make_synthetic", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestTool:
    ARGS = ("--ids", "1", "--test-ids", "1", "--images", "4", "--cams", "2")

    def run(self, monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
        monkeypatch.setattr("sys.argv", ["make_synthetic.py", *args])
        load_tool().main()

    def test_renders_then_reuses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for expected in ("rendered in", "was already there"):
            self.run(monkeypatch, str(tmp_path), "--domain", "campus", "--size", "48x24", *self.ARGS)
            assert expected in capsys.readouterr().out
        assert Image.open(next((tmp_path / "campus" / QUERY).iterdir())).size == (24, 48)

    @pytest.mark.parametrize(
        ("args", "message"), [(("--size", "64"), "HEIGHTxWIDTH"), (("--cams", "1"), "num_cams: got 1")]
    )
    def test_wrong_arguments(
        self,
        args: tuple[str, ...],
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        with pytest.raises(SystemExit):
            self.run(monkeypatch, str(tmp_path), "--domain", "campus", *args)
        assert message in capsys.readouterr().err
