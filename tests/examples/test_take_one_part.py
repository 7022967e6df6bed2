"""The examples of projects/MLT/examples do what they say, in at most 40 lines each."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn
from torch.nn.functional import normalize

FOLDER = Path(__file__).parents[2] / "projects/MLT/examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def load(name: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(FOLDER / f"{name}.py")))


@pytest.fixture
def blobs() -> tuple[Tensor, Tensor]:
    """480 rows of 24 clusters and their labels."""
    labels = torch.arange(480) % 24
    return normalize(torch.randn(24, 32)[labels] + 0.4 * torch.randn(480, 32)), labels


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40
    assert len(SCRIPTS) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cluster_embeddings", "24 clusters, "),
        ("graph_for_scikit_learn", "DBSCAN: 24 clusters, .*\nHDBSCAN: 24 clusters, "),
        ("memory_in_your_loop", "loss [\\d.]+ at the first step, "),
    ],
)
def test_as_a_command(blobs: tuple[Tensor, Tensor], tmp_path: Path, name: str, words: str) -> None:
    """labels_in_fastreid_baseline runs in tests/fastreid."""
    np.save(tmp_path / "in.npy", 7 * blobs[0].double().numpy())
    np.save(tmp_path / "labels.npy", blobs[1].numpy())
    command = [sys.executable, str(FOLDER / f"{name}.py"), str(tmp_path / "in.npy"), str(tmp_path / "labels.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=FOLDER.parents[2])
    assert re.match(words, done.stdout), done.stdout
    if name == "cluster_embeddings":
        assert adjusted_rand_score(blobs[1], np.load(tmp_path / "labels.npy")) > 0.95


def test_a_memory_in_a_plain_loop(blobs: tuple[Tensor, Tensor]) -> None:
    rows, labels = blobs
    noisy = rows + 0.15 * torch.randn(rows.shape)
    labels = torch.where(torch.arange(480) < 40, -1, labels)
    net = nn.Linear(32, 16)
    before = nearest_neighbours_agree(net(noisy), blobs[1])
    assert len(load("memory_in_your_loop").train(net, noisy, labels, steps=100)) == 100
    assert nearest_neighbours_agree(net(noisy), blobs[1]) > before + 0.1


def nearest_neighbours_agree(features: Tensor, labels: Tensor) -> float:
    """Share of the rows whose nearest other row has their label."""
    similarity = normalize(features) @ normalize(features).t()
    nearest = similarity.fill_diagonal_(-2).argmax(dim=1)
    return float((labels[nearest] == labels).float().mean())


def test_the_graph_in_scikit_learn(blobs: tuple[Tensor, Tensor]) -> None:
    example = load("graph_for_scikit_learn")
    graph = example.neighbour_graph(blobs[0])
    assert graph.nnz < 0.2 * 480**2
    for labels in example.cluster(blobs[0]):
        assert adjusted_rand_score(blobs[1], labels) > 0.9
