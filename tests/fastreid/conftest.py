"""The real FastReID and two tiny domains. Where FastReID is not installed these tests are skipped: `make fastreid`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mlt.data.synthetic import DomainSpec, render_domain

INSTALLED = importlib.util.find_spec("fastreid") is not None
collect_ignore_glob = [] if INSTALLED else ["test_*.py"]
SIZE = [64, 32]


def pytest_report_header() -> list[str]:
    return [] if INSTALLED else ["FastReID is not installed, so tests/fastreid is left out: `make fastreid`"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the domains "campus" and "station"; the gallery has the 50 images that FastReID's ranking expects."""
    folder = tmp_path_factory.mktemp("world")
    for domain in ("campus", "station"):
        spec = DomainSpec(domain, num_train_ids=8, num_test_ids=20, images_per_id=6, num_cams=3, size=(64, 32))
        render_domain(folder / domain, spec)
    return folder
