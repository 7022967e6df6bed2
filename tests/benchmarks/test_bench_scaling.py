"""bench_scaling.py in miniature: figures of one and two processes, which find the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_scaling.py"


def test_figures_of_each_number_of_processes(tmp_path: Path) -> None:
    words = ["--rows", "601", "--dim", "128", "--processes", "1", "2", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = json.loads((tmp_path / "figures.json").read_text())["shared"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["MB sent"] == 0
    assert two["MB sent"] == 4 * 300 * 128 / 1e6
    assert two["MB of own rows"] == 4 * 301 * 128 / 1e6
    assert two["seconds"] > 0
