"""Targets of the Makefile that no test runs as a whole."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("target", ["gpu-check", "gpu-bench"])
def test_a_machine_with_a_gpu_need_not_have_the_project_installed(target: str) -> None:
    """Each command is replaced by one that prints where Python would look."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MAKEFLAGS")}
    command = ["make", "--silent", target, "PYTHON=sh -c 'printenv PYTHONPATH'"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {".:projects/MLT"}
