"""Results over random galleries: means of trials, no cameras, single matches."""

from __future__ import annotations

import pytest
import torch

from mlt.evaluation import trials
from mlt.evaluation.metrics import evaluate_features
from mlt.evaluation.query_expansion import expand_features
from mlt.evaluation.trials import Refinement, evaluate_trials
from mlt.structures import UNKNOWN, ReidRecord, ReidSet

# one number each: vehicle 7 at 0, 1 and 5, vehicle 8 at 4
FEATURES = torch.tensor([[0.0], [1.0], [5.0], [4.0]])
PIDS = torch.tensor([7, 7, 7, 8])
NO_CAMERAS = torch.full((4,), UNKNOWN)


def vehicles(*galleries: tuple[int, ...]) -> ReidSet:
    records = tuple(ReidRecord(f"{i}.jpg", int(pid)) for i, pid in enumerate(PIDS))
    return ReidSet("x", (), records[:2], records[2:], random_galleries=galleries)


def test_by_hand() -> None:
    # gallery {0, 8}: query 1 finds 0 first, query 5 finds 8 at 4 first; gallery {5, 8}: query 0 and 1 find 8 first
    results = evaluate_trials(FEATURES, PIDS, NO_CAMERAS, vehicles((0, 3), (2, 3)).trials())[""]
    assert results["Rank-1"] == pytest.approx((50 + 0) / 2)
    assert results["mAP"] == pytest.approx((75 + 50) / 2)  # one match each: the mean of 1 / rank
    assert results["Rank-5"] == 100
    assert results["skipped"] == 0


def test_one_camera_for_all_would_leave_nothing() -> None:
    """Why readers without cameras say UNKNOWN, not 0."""
    with pytest.raises(ValueError, match="None of the 2 queries has a match"):
        evaluate_trials(FEATURES, PIDS, torch.zeros(4, dtype=torch.int64), vehicles((0, 3)).trials())


def test_one_trial_is_the_plain_evaluation_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    features, camids = torch.randn(40, 8, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    pids = torch.arange(40) % 6
    records = tuple(ReidRecord(f"{i}.jpg") for i in range(40))
    data = ReidSet("x", (), records[:15], records[15:])
    plain = evaluate_features(features[:15], features[15:], pids[:15], pids[15:], camids[:15], camids[15:])
    assert evaluate_trials(features, pids, camids, data.trials()) == {"": plain}
    (query, gallery), *_ = data.trials()
    assert features[query].data_ptr() == features.data_ptr()  # windows: a large set is not copied
    assert features[gallery]._base is features
    drawn = ReidSet("x", (), records[:15], records[15:], random_galleries=(tuple(range(15, 40)),))
    assert evaluate_trials(features, pids, camids, drawn.trials()) == {"": plain}


def test_each_trial_is_expanded_once_and_re_ranked_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.nn.functional.normalize(torch.randn(12, 4, generator=generator))
    pids, cameras = torch.arange(12) % 3, torch.full((12,), UNKNOWN)
    records = tuple(ReidRecord(f"{i}.jpg", int(pid)) for i, pid in enumerate(pids))
    both = Refinement({"num_neighbors": 2}, {"k1": 3, "k2": 2})
    galleries = (0, 1, 5), (3, 7, 11)
    expanded = []
    monkeypatch.setattr(trials, "expand_features", lambda *a, **k: (expanded.append(a), expand_features(*a, **k))[1])

    def mean_ap(*galleries: tuple[int, ...], refinement: Refinement = both) -> dict[str, float]:
        drawn = ReidSet("x", (), records, (), random_galleries=galleries).trials()
        found = evaluate_trials(features, pids, cameras, drawn, refinement)
        return {name: metrics["mAP"] for name, metrics in found.items()}

    singles = [mean_ap(gallery) for gallery in galleries]
    assert len(expanded) == 2
    assert list(singles[0]) == ["", " expanded", " re-ranked"]
    for name, value in mean_ap(*galleries).items():
        assert value == pytest.approx((singles[0][name] + singles[1][name]) / 2)
    assert len({tuple(single[name] for single in singles) for name in singles[0]}) == 3
    for part in (Refinement(both.expansion), Refinement(rerank=both.rerank), Refinement()):
        names = ["", *[" expanded"] * bool(part.expansion), *[" re-ranked"] * bool(part.rerank)]
        assert list(mean_ap(*galleries, refinement=part)) == names
    assert mean_ap(galleries[0], refinement=Refinement(rerank=both.rerank))[" re-ranked"] != singles[0][" re-ranked"]
