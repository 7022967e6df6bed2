#!/usr/bin/env bash
# One binary, many PyTorch and Python versions: builds the CPU-only extension once and runs its tests under each
# interpreter given, none of which compiles anything; then each builds the sources with its own headers, which differ
# more than binaries do. `make abi-check PYTHONS="/venv/a/bin/python /venv/b/bin/python"`. Each needs its own torch (2.10
# or later), setuptools, numpy, scikit-learn, pytest and hypothesis. CUDA=1: with CUDA kernels.
set -euo pipefail

builder=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
cp -r "$root"/{setup.py,pyproject.toml,LICENSE,README.md,mlt_ops,projects,tests} "$tree"
cd "$tree"

build() {
    rm -rf build mlt_ops/*.so
    WITH_CUDA=${CUDA:-0} "$1" setup.py --quiet build_ext --inplace >build.log 2>&1 || { cat build.log; exit 1; }
    rm -rf build
}

build "$builder"
sha256sum mlt_ops/*.so
for python in "$@"; do
    "$python" -c 'import sys, torch, mlt_ops; print("Python", sys.version.split()[0], "torch", torch.__version__,
        mlt_ops.describe_build(), sep=", "); assert mlt_ops.has_extension(), "the binary does not load"'
    "$python" -m pytest tests/mlt_ops -q -p no:cacheprovider
done
for python in "$@"; do
    build "$python"
    "$python" -c 'import mlt_ops; print("built from source,", mlt_ops.describe_build()); assert mlt_ops.has_extension()'
done
