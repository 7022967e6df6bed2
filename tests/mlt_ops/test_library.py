"""The package without its extension: imports, pure-torch results, and a message with the remedy."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mlt_ops
from mlt_ops import _library, _sparse, describe_build

WITHOUT_EXTENSION = """
import sys
sys.modules["mlt_ops._C"] = None  # importing it fails, as where it was not built
import torch, mlt_ops
from mlt_ops import _library, reference
assert not mlt_ops.has_extension() and not mlt_ops.has_cuda()
mlt_ops.knn(torch.randn(9, 3), 2)
labels, centroids, inertia = mlt_ops.kmeans(torch.randn(9, 3), 2)
assert centroids.shape == (2, 3)
assert mlt_ops.count_closer(torch.tensor([[2.0, 1.0]]), (torch.tensor([0, 1]), torch.tensor([0]))).tolist() == [1]
try:
    mlt_ops.jaccard_distance(torch.randn(9, 3), max_distance=0.6)
except RuntimeError as error:
    assert "jaccard_distance needs the extension" in str(error), error
else:
    raise AssertionError("jaccard_distance ran without its kernels")
print(mlt_ops.describe_build())
"""


def test_everything_in_pure_torch_works_without_the_extension() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTENSION], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "has not been built" in done.stdout
    assert "pip install --no-build-isolation ." in done.stdout


def test_what_needs_the_extension_names_reason_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "_extension", None)
    monkeypatch.setattr(_library, "_reason", "it has not been built")
    with pytest.raises(
        RuntimeError, match=r"dbscan needs the extension mlt_ops._C: it has not been built. Build it with"
    ):
        _library.require_extension("dbscan")
    assert "without its extension" in describe_build()


@pytest.mark.parametrize(
    ("archs", "runs", "does_not"),
    [
        ("7.5+PTX", [(7, 5), (8, 0), (9, 0), (12, 0)], [(7, 0), (6, 1)]),
        ("9.0", [(9, 0)], [(8, 9), (10, 0)]),
        ("8.0", [(8, 0), (8, 9)], [(7, 5), (9, 0)]),
        ("7.5;8.6 9.0+PTX", [(7, 5), (8, 6), (8, 9), (10, 0)], [(7, 0), (8, 0)]),
        ("9.0a", [(9, 0), (7, 5)], []),  # only CUDA itself can tell
        ("Turing", [(7, 5), (9, 0)], []),
        ("", [], [(9, 0)]),
    ],
)
def test_which_gpus_kernels_run_on(archs: str, runs: list[tuple[int, int]], does_not: list[tuple[int, int]]) -> None:
    assert [_library.runs_on(archs, gpu) for gpu in runs + does_not] == [True] * len(runs) + [False] * len(does_not)


def test_a_gpu_without_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:1")
    monkeypatch.setattr(_library, "_extension", SimpleNamespace(with_cuda=1, cuda_archs="9.0"))
    monkeypatch.setattr(_library, "capability_of", lambda _: (8, 6))
    message = r"dbscan: mlt_ops was built for .* capability 9\.0, and cuda:1 has 8\.6\..*TORCH_CUDA_ARCH_LIST=8\.6"
    with pytest.raises(RuntimeError, match=message):
        _sparse.require_kernels("dbscan", gpu)
    assert not _library.has_cuda(gpu)
    assert _library.has_cuda()
    monkeypatch.setattr(_library, "capability_of", lambda _: (9, 0))
    _sparse.require_kernels("dbscan", gpu)
    assert _library.has_cuda(gpu)
    assert describe_build() == "mlt_ops with CPU and CUDA (9.0) kernels"


@pytest.mark.skipif(not _library.has_extension(), reason=describe_build())
def test_cuda_tensors_without_cuda_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "_extension", SimpleNamespace(with_cuda=0))
    with pytest.raises(
        RuntimeError, match=r"dbscan: this build of mlt_ops has CPU kernels only.*on cuda:0.*WITH_CUDA=1"
    ):
        _sparse.require_kernels("dbscan", torch.device("cuda:0"))


@pytest.mark.parametrize(
    "call",
    [
        lambda rows: mlt_ops.knn(rows, 2),
        lambda rows: mlt_ops.kmeans(rows, 2),
        lambda rows: mlt_ops.jaccard_distance(rows, max_distance=0.6),
        lambda rows: mlt_ops.rerank(rows, rows),
    ],
)
def test_an_array_is_no_tensor(call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got ndarray; torch\.as_tensor\(\.\.\.\) makes one"):
        call(np.zeros((4, 2), dtype=np.float32))


@pytest.mark.skipif(not mlt_ops.has_extension(), reason=describe_build())
def test_other_threads_run_during_an_operator() -> None:
    rows, pairs = torch.randn(500, 512), torch.randint(500, (2, 2_000_000), dtype=torch.int32)
    span: list[float] = []

    def compute() -> None:
        begin = time.perf_counter()
        torch.ops.mlt_ops.pair_distance(rows, rows, *pairs)
        span.extend([begin, time.perf_counter()])

    thread, moments = threading.Thread(target=compute), []
    thread.start()
    while thread.is_alive():
        moments.append(time.perf_counter())
        time.sleep(0.001)
    third = (span[1] - span[0]) / 3
    assert any(span[0] + third < moment < span[1] - third for moment in moments)
