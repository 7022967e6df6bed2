"""The emulator itself: right kernels give the right result for any seed, each kind of fault is found and named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.emulate.build import HERE, MODES, build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no g++ here"),
]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """What runs a kernel of faults.cu by its name, as each mode builds it."""

    def program(mode: str) -> Run:
        path = tmp_path_factory.mktemp(mode) / "faults"
        build([HERE / "faults.cu"], path, mode)

        def run(kernel: str, seed: int = 0) -> subprocess.CompletedProcess[str]:
            environment = {**os.environ, "EMULATE_SEED": str(seed)}
            return subprocess.run([path, kernel], env=environment, capture_output=True, text=True, timeout=60)

        return run

    return {mode: program(mode) for mode in MODES}


@pytest.fixture(params=["plain", "races"])
def faults(request: pytest.FixtureRequest, programs: dict[str, Run]) -> Run:
    """Each of the programs."""
    return programs[request.param]


@pytest.mark.parametrize("seed", range(5))
def test_right_kernels(faults: Run, seed: int) -> None:
    def output(kernel: str) -> list[int]:
        done = faults(kernel, seed)
        assert done.returncode == 0, done.stdout + done.stderr
        return list(map(int, done.stdout.split()))

    assert output("pass_on") == [(i + 1) % 64 for i in range(64)] * 4
    assert output("count_with_atomics")[0] == 256
    assert output("exchanges")[:64] == ([496 + 10] * 16 + [496 + 5] * 16 + [1520 + 10] * 16 + [1520 + 5] * 16)
    assert output("reads_fresh_memory") == [1] * 256  # no zeros


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("barrier_in_a_branch", "wait forever"),
        ("two_barriers", "threads of one block meet at different barriers"),
        ("lanes_missing", r"wait forever"),
        ("source_has_returned", "a lane takes from lane 3, which is not there"),
        ("not_in_its_own_mask", "a lane that its own mask leaves out"),
        ("waits_for_nobody", "threads go round and round"),
        ("too_much_shared_memory", "__shared__ variables of more than 49152 bytes"),
        ("too_many_threads", "no GPU runs 1 blocks of 1025 threads"),
        ("shared_memory_not_asked_for", "51200 bytes of dynamic shared memory, but only 49152 were asked for"),
    ],
)
def test_faults(faults: Run, kernel: str, message: str) -> None:
    done = faults(kernel)
    assert done.returncode == 1, done.stderr
    assert message in done.stdout
    assert "launched at" in done.stdout
    assert "faults.cu:" in done.stdout


def test_a_deadlock_names_who_waits_where(faults: Run) -> None:
    said = faults("lanes_missing").stdout
    assert "62 threads at a *_sync of their warp" in said
    assert "2 threads at __syncthreads" in said


def test_races(programs: dict[str, Run]) -> None:
    said = programs["races"]("race").stdout
    assert "a race" in said
    assert re.search(r"write by thread \d+ of block \d, \S*faults\.cu:16", said)
    assert re.search(r"read by thread \d+ of block \d, \S*faults\.cu:18", said)
    assert "a race" in programs["races"]("count_without_atomics").stdout


def test_a_missing_barrier_shows_without_a_look_at_each_access(programs: dict[str, Run]) -> None:
    assert len({programs["plain"]("race", seed).stdout for seed in range(5)}) == 5


def test_accesses_beyond_shared_memory(programs: dict[str, Run]) -> None:
    assert programs["memory"]("pass_on").stdout == programs["plain"]("pass_on").stdout
    said = programs["memory"]("beyond_shared_memory").stderr
    assert "AddressSanitizer: use-after-poison" in said
    assert re.search(r"in beyond_shared_memory\S* \S*faults\.cu:\d+", said.replace("(anonymous namespace)::", ""))
