from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.functional import normalize
from yacs.config import CfgNode

import mlt.components  # noqa: F401  fills the registries
from mlt.clustering import clusterings
from mlt.clustering.clusterings import Clustering, JaccardDbscan, KMeansMixture, SelfPacedDbscan
from mlt.config import get_cfg
from mlt.engine.pseudo_label_hook import PseudoLabelHook
from mlt.structures import UNKNOWN, PseudoLabels

N, DIM, CLUSTERS = 24, 4, (3, 4)


class Host:
    """Six identities as six far directions (seen by two cameras); its classifiers are the mean rows of its labels."""

    def __init__(self, *, known: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pids = torch.arange(N) % 6 if known else torch.full((N,), UNKNOWN)
        self.camids = torch.arange(N) // 6 % 2 if known else torch.full((N,), UNKNOWN)
        directions = torch.randn(6, DIM, generator=generator) * 5
        self.embeddings = directions[torch.arange(N) % 6] + 0.1 * torch.randn(N, DIM, generator=generator)
        self.epoch = 0
        self.calls: list[str] = []
        self.restarts: list[bool] = []
        self.given: list[PseudoLabels] = []
        self.classified: list[Tensor] = []
        self.logged: dict[str, float] = {}

    def extract_target(self) -> Tensor:
        self.calls.append("extract")
        return self.embeddings

    def classify(self, embeddings: Tensor) -> tuple[Tensor, ...]:
        self.calls.append("classify")
        self.classified.append(embeddings)
        return tuple(embeddings @ torch.randn(DIM, k, generator=torch.Generator().manual_seed(k)) for k in CLUSTERS)

    def target_ids(self) -> tuple[Tensor, Tensor]:
        return self.camids, self.pids

    def start_round(self, labels: PseudoLabels, embeddings: Tensor, restart: bool) -> None:
        assert embeddings is self.embeddings
        self.calls.append("start_round")
        self.restarts.append(restart)

    def set_pseudo_labels(self, labels: PseudoLabels) -> None:
        self.calls.append("set")
        self.given.append(labels)

    def log(self, values: dict[str, float]) -> None:
        self.logged |= values


def make(host: Host, *, group: int = 1, seed: int = 0, **options: object) -> PseudoLabelHook:
    given = {
        "clustering": KMeansMixture(CLUSTERS, group, seed, num_restarts=1, max_iter=20),
        "rounds": 2, "period": 3, "restart": False, "min_clusters": 2,
        "transport": {"sharpness": 5.0, "tolerance": 1e-2, "max_iter": 50},
    }  # fmt: skip
    return PseudoLabelHook(host=host, **(given | options))


def epochs(hook: PseudoLabelHook, host: Host, *numbers: int) -> list[str]:
    """What each epoch began with: "cluster", "transport" or "-"."""
    done = []
    for number in numbers:
        host.epoch, host.calls = number, []
        hook.before_epoch()
        names = {("extract", "start_round", "set"): "cluster", ("extract", "classify", "set"): "transport", (): "-"}
        done.append(names[tuple(host.calls)])
    return done


class TestWhen:
    def test_a_clustering_at_the_start_of_each_round_and_transport_between(self):
        host = Host()
        kinds = epochs(make(host), host, *range(8))
        assert kinds == ["cluster", *["transport"] * 2, "cluster", *["transport"] * 4]

    @pytest.mark.parametrize(("period", "between"), [(0, "---"), (2, "-t-"), (3, "--t")])
    def test_transport_period(self, period, between):
        host = Host()
        kinds = epochs(make(host, transport_period=period, rounds=1), host, *range(4))
        assert kinds == ["cluster", *({"-": "-", "t": "transport"}[kind] for kind in between)]

    @pytest.mark.parametrize(("restart", "told"), [(False, [False, False]), (True, [False, True])])
    def test_the_first_round_never_restarts(self, restart, told):
        host = Host()
        epochs(make(host, restart=restart), host, *range(4))
        assert host.restarts == told

    def test_a_loop_that_begins_late_clusters_first(self):
        host = Host()
        assert epochs(make(host), host, 1, 2, 3) == ["cluster", "transport", "cluster"]


class TestResume:
    def test_the_running_epoch_keeps_its_labels_and_the_next_goes_on(self):
        host, other = Host(), Host()
        hook = make(host)
        epochs(hook, host, 0, 1)
        resumed = make(other)
        resumed.load_state_dict(hook.state_dict())
        resumed.before_train()
        assert torch.equal(other.given[0].labels, host.given[-1].labels)
        assert other.given[0].num_clusters == CLUSTERS
        assert epochs(resumed, other, 1, 2, 3) == ["-", "transport", "cluster"]
        assert resumed.quality.keys() == hook.quality.keys()

    def test_state_is_tensors_and_plain_values(self, tmp_path):
        host = Host()
        hook = make(host)
        epochs(hook, host, 0)
        torch.save(hook.state_dict(), tmp_path / "state")
        resumed = make(Host())
        resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        assert torch.equal(resumed.state_dict()["labels"], hook.state_dict()["labels"])
        assert {k: v for k, v in resumed.state_dict().items() if k != "labels"} == {
            k: v for k, v in hook.state_dict().items() if k != "labels"
        }

    def test_before_any_label(self):
        hook = make(Host())
        assert hook.state_dict() == {}
        hook.load_state_dict({})
        hook.before_train()
        assert hook.labels is None

    def test_the_seed_decides(self):
        given = []
        for seed in (0, 0, 1):
            host = Host()
            epochs(make(host, seed=seed), host, 0)
            given.append(host.given[0].labels)
        assert torch.equal(given[0], given[1])
        assert not torch.equal(given[0], given[2])


class TestCollapse:
    def test_at_the_first_clustering_it_is_an_error(self):
        host = Host()
        with pytest.raises(ValueError, match=r"collapsed: the groups have \[3, 4\] clusters.*a batch needs 5"):
            epochs(make(host, min_clusters=5), host, 0)

    def test_later_the_old_labels_stay_and_nothing_restarts(self, caplog):
        host = Host()
        hook = make(host, restart=True)
        epochs(hook, host, 0)
        old, host.embeddings = hook.labels, torch.ones(N, DIM)
        with caplog.at_level(logging.WARNING):
            host.epoch, host.calls = 3, []
            hook.before_epoch()
        assert host.calls == ["extract", "set"]
        assert hook.labels is old
        assert "The previous labels are kept" in caplog.text
        assert hook.labelled_epoch == 3

    def test_another_group_drives(self, caplog):
        host = Host()
        with caplog.at_level(logging.WARNING):
            epochs(make(host, group=0, min_clusters=4), host, 0)
        assert host.given[0].group == 1
        assert "group 1 (4 clusters) drives instead" in caplog.text


class TestFeatures:
    @pytest.fixture
    def clustered(self, monkeypatch):
        """What K-Means is given."""
        seen: list[Tensor] = []
        real = clusterings.cluster_kmeans
        monkeypatch.setattr(
            clusterings,
            "cluster_kmeans",
            lambda rows, *args, **kwargs: (seen.append(rows), real(rows, *args, **kwargs))[1],
        )
        return seen

    def test_unit_rows_are_clustered(self, clustered):
        host = Host()
        epochs(make(host), host, 0)
        assert torch.equal(clustered[0], normalize(host.embeddings))

    def test_camera_centring_takes_each_cameras_mean(self, clustered):
        host = Host()
        epochs(make(host, camera_centering=True), host, 0)
        rows = normalize(host.embeddings)
        for camera in (0, 1):
            mine = host.camids == camera
            torch.testing.assert_close(clustered[0][mine], normalize(rows[mine] - rows[mine].mean(0)))

    def test_camera_centring_is_off_where_cameras_are_unknown_and_says_so_once(self, clustered, caplog, monkeypatch):
        monkeypatch.setattr("mlt.utils.log._said", set())
        host = Host(known=False)
        with caplog.at_level(logging.WARNING):
            epochs(make(host, camera_centering=True), host, *range(4))
        assert torch.equal(clustered[0], normalize(host.embeddings))
        assert caplog.text.count("Camera centring is off") == 1

    @pytest.mark.parametrize("feature", ["normalized", "raw"])
    def test_transport_reads(self, feature):
        host = Host()
        epochs(make(host, transport_feature=feature), host, 0, 1)
        expected = host.embeddings if feature == "raw" else normalize(host.embeddings)
        torch.testing.assert_close(host.classified[0], expected)

    def test_unknown_feature(self):
        with pytest.raises(ValueError, match=r"LABEL_TRANSPORT.FEATURE must be 'normalized' or 'raw', got 'rwa'"):
            make(Host(), transport_feature="rwa")


class TestQuality:
    def test_with_and_without_identities(self):
        for known in (True, False):
            host = Host(known=known)
            epochs(make(host), host, 0, 1)
            assert ("labels/ARI" in host.logged) is known
            assert {"labels/clusters", "labels/churn", "transport/iterations"} <= set(host.logged)

    def test_identities_that_are_known_in_part(self):
        host = Host()
        host.pids[::2] = UNKNOWN
        epochs(make(host), host, 0)
        assert "labels/NMI" in host.logged

    def test_identities_change_no_label(self):
        host, other = Host(), Host()
        other.pids = other.pids.flip(0) // 2
        for one in (host, other):
            epochs(make(one), one, *range(4))
        for mine, theirs in zip(host.given, other.given, strict=True):
            assert torch.equal(mine.labels, theirs.labels)

    def test_kept_labels_are_not_judged_again(self):
        host = Host()
        hook = make(host, transport_period=0)
        epochs(hook, host, 0)
        host.logged = {}
        epochs(hook, host, 1)
        assert host.logged == {}


SEARCHING = {
    "DBSCAN": lambda: JaccardDbscan(eps=0.5, min_samples=2, k1=5, k2=2),
    "MMT's DBSCAN": lambda: JaccardDbscan(eps=0.0, min_samples=2, k1=5, k2=2, window="reranking", eps_share=0.1),
    "SpCL": lambda: SelfPacedDbscan(eps=0.5, min_samples=2, k1=5, k2=2),
}


class Broken(Clustering):
    """Fails at its second call."""

    calls = 0

    def __call__(self, features: Tensor) -> PseudoLabels:
        self.calls += 1
        if self.calls > 1:
            raise ValueError("no cluster left")
        return PseudoLabels(torch.arange(N)[None] % 6, (6,))


class TestSeveralProcesses:
    def test_they_share_the_search_and_label_as_one(self, tmp_path):
        mp.spawn(label_in_group, args=(str(tmp_path),), nprocs=2)
        first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        assert first["searched"] == [[0, N // 2]] * len(first["searched"])
        assert second["searched"] == [[N // 2, N]] * len(second["searched"])
        for name in SEARCHING:
            alone = label_twice(name, noise=0)
            assert not torch.equal(*alone)
            for found in (first, second):
                assert len(found["searched"]) == 2 * len(SEARCHING)
                assert all(torch.equal(*pair) for pair in zip(found[name], alone, strict=True))

    def test_an_error_of_the_main_process_is_everybodys(self, tmp_path):
        mp.spawn(fail_in_group, args=(str(tmp_path),), nprocs=2)
        assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["no cluster left"] * 2


def label_twice(name: str, noise: float) -> list[Tensor]:
    """Labels of two rounds, between which the process is replaced by one that resumes."""
    given, state = [], {}
    for epoch in (0, 3):
        host = Host()
        host.epoch = epoch
        spread = torch.randn(N, DIM, generator=torch.Generator().manual_seed(1)) * epoch
        host.embeddings = (host.embeddings + spread) * (1 + noise)
        hook = make(host, clustering=SEARCHING[name]())
        hook.load_state_dict(state)
        hook.before_epoch()
        given.append(host.given[-1].labels)
        states = [hook.state_dict()]
        if dist.is_initialized():  # the main process saves
            dist.broadcast_object_list(states, src=0)
        state = states[0]
    return given


def label_in_group(rank: int, folder: str) -> None:
    """One process of two, whose own features are not bit for bit those of the main one."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, list] = {"searched": []}
    knn = sys.modules["mlt_ops.knn"]
    search = knn.unchecked_knn

    def watched(rows: Tensor, targets: Tensor, share: slice, *options: object) -> object:
        found["searched"].append([share.start, share.stop])
        return search(rows, targets, share, *options)

    knn.unchecked_knn = watched
    for name in SEARCHING:
        found[name] = label_twice(name, noise=1e-6 * rank)
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def fail_in_group(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    host = Host()
    hook = make(host, clustering=Broken())
    epochs(hook, host, 0)
    with pytest.raises(ValueError, match="no cluster left") as caught:
        epochs(hook, host, 3)
    Path(folder, str(rank)).write_text(str(caught.value))
    dist.destroy_process_group()


class TestConfig:
    @staticmethod
    def config(**keys: object) -> CfgNode:
        """The defaults with as many epochs as 11 rounds need."""
        cfg = get_cfg()
        words = {"SOLVER__MAX_EPOCH": 469} | keys
        cfg.merge_from_list([word for key, value in words.items() for word in (key.replace("__", "."), value)])
        return cfg

    def test_paper_schedule(self):
        hook = PseudoLabelHook(self.config(), Host())
        assert self.epochs_with_a_clustering(hook, 469) == [39 * number for number in range(11)]
        assert (hook.restart, hook.min_clusters, hook.transport_period) == (True, 16, 1)

    @staticmethod
    def epochs_with_a_clustering(hook: PseudoLabelHook, num_epochs: int) -> list[int]:
        """Of a run that begins without labels, only the calendar of which is real."""
        found = []

        def cluster(*, first: bool) -> None:
            assert first is not bool(found)
            found.append(hook.host.epoch)
            hook.labels = PseudoLabels(torch.zeros(1, N, dtype=torch.int64), (1,))

        hook._cluster, hook._transport = cluster, lambda previous: None
        for hook.host.epoch in range(num_epochs):
            hook.before_epoch()
        return found

    def test_no_number_of_rounds_is_as_many_as_there_is_time_for(self):
        hook = PseudoLabelHook(self.config(PSEUDO_LABELS__ROUNDS=0, PSEUDO_LABELS__PERIOD=6), Host())
        assert self.epochs_with_a_clustering(hook, 50) == list(range(0, 50, 6))

    def test_transport_off(self):
        cfg = self.config()
        cfg.LABEL_TRANSPORT.ENABLED = False
        assert PseudoLabelHook(cfg, Host()).transport_period == 0

    def test_unknown_choices(self):
        with pytest.raises(ValueError, match=r"PSEUDO_LABELS\.SCHEDULE must be .*, got 'cold'"):
            PseudoLabelHook(self.config(PSEUDO_LABELS__SCHEDULE="cold"), Host())
        with pytest.raises(KeyError, match=r"'dbscn'\. Did you mean 'dbscan'\?.*kmeans, self_paced"):
            PseudoLabelHook(self.config(PSEUDO_LABELS__METHOD="dbscn"), Host())

    @pytest.mark.parametrize(("num", "group"), [(3, 3), (1, 1), (3, -1)])
    def test_a_group_that_is_not_there(self, num, group):
        cfg = self.config(PSEUDO_LABELS__NUM_CLUSTERS=(5,) * num, PSEUDO_LABELS__GROUP=group)
        with pytest.raises(ValueError, match=rf"PSEUDO_LABELS\.GROUP {group} is none of the {num} groups.*from 0"):
            PseudoLabelHook(cfg, Host())

    @pytest.mark.parametrize(
        "key",
        [
            *("PSEUDO_LABELS.PERIOD", "PSEUDO_LABELS.NUM_RESTARTS", "PSEUDO_LABELS.MAX_ITER"),
            *("LABEL_TRANSPORT.PERIOD", "LABEL_TRANSPORT.MAX_ITER"),
        ],
    )
    def test_numbers_below_one(self, key):
        with pytest.raises(ValueError, match=rf"{key} must be >= 1, got 0"):
            PseudoLabelHook(self.config(**{key: 0}), Host())

    def test_rounds_below_zero(self):
        with pytest.raises(ValueError, match=r"ROUNDS must be >= 1, or 0 for as many as there is time for; got -1"):
            PseudoLabelHook(self.config(PSEUDO_LABELS__ROUNDS=-1), Host())

    @pytest.mark.parametrize("key", ["LABEL_TRANSPORT.LAMBDA", "LABEL_TRANSPORT.TOLERANCE"])
    def test_numbers_that_must_be_positive(self, key):
        with pytest.raises(ValueError, match=rf"{key} must be > 0, got 0\.0"):
            PseudoLabelHook(self.config(**{key: 0.0}), Host())
