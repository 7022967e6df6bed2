"""Without FastReID everything else works, and its door says what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["mlt.adapters.fastreid", "mlt.adapters.fastreid.trainer"])
def test_the_import_says_what_to_do(module: str) -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; sys.modules['fastreid'] = None; import mlt.engine.run, {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: FastReID is not installed.")
    assert "`make fastreid`" in last
    assert "pip install --no-deps fastreid==1.4.0 termcolor" in last
