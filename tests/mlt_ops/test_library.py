"""The package without its extension: imports, pure-torch results, and a message with the remedy."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

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


@pytest.mark.skipif(not _library.has_extension(), reason=describe_build())
def test_cuda_tensors_without_cuda_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sparse, "has_cuda", lambda: False)
    with pytest.raises(
        RuntimeError, match=r"dbscan: this build of mlt_ops has CPU kernels only.*on cuda:0.*WITH_CUDA=1"
    ):
        _sparse.require_kernels("dbscan", torch.device("cuda:0"))
