"""Build and install `mlt` (projects/MLT/mlt) and `mlt_ops` with its extension `mlt_ops._C`.

Environment variables:
    WITH_CUDA             auto (default): CUDA kernels too if nvcc fits PyTorch; 0: CPU only; 1: fail without nvcc.
    TORCH_CUDA_ARCH_LIST  GPU architectures. Default: the GPU of this machine, else 7.5+PTX, for all since Turing.
    MLT_OPS_ONLY          1: the distribution `mlt-ops`, the operators alone, which needs nothing but PyTorch.

Without a C++ compiler the packages are installed without the extension: what needs it says so when it is called.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent.resolve()
VERSION = "0.1.0"
TORCH_TARGET_VERSION = 0x020A000000000000  # stable ABI of PyTorch 2.10: the binary serves every later release


def find_cuda_home() -> Path | None:
    """The CUDA toolkit's root: nvcc *and* headers, because /usr/local/bin/nvcc may be a bare wrapper script."""
    nvcc = shutil.which("nvcc")
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [Path(named)] if named else []
    candidates += [Path(nvcc).resolve().parents[1]] if nvcc else []
    candidates += [Path("/usr/local/cuda")]
    return next((c for c in candidates if (c / "bin/nvcc").exists() and (c / "include/cuda_runtime.h").exists()), None)


CUDA_HOME = find_cuda_home()
if CUDA_HOME is not None:
    os.environ["CUDA_HOME"] = str(CUDA_HOME)  # torch.utils.cpp_extension reads it when it is imported

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
except ImportError as error:
    raise SystemExit("setup.py: mlt_ops is built against PyTorch. Run `pip install 'torch>=2.10'` first.") from error


def nvcc_release() -> str | None:
    """Version of the toolkit's nvcc, for example "13.0"; None without a toolkit."""
    if CUDA_HOME is None:
        return None
    output = subprocess.run([CUDA_HOME / "bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+\.\d+)", output)
    return found.group(1) if found else None


def use_cuda() -> bool:
    """Decide by WITH_CUDA whether the CUDA kernels are compiled, and say why when they are not."""
    wish = os.environ.get("WITH_CUDA", "auto").lower()
    if wish not in ("auto", "0", "1"):
        raise SystemExit(f"setup.py: WITH_CUDA must be auto, 0 or 1, got {wish!r}.")
    if wish == "0":
        return False
    release, wanted = nvcc_release(), torch.version.cuda
    if wanted is None:
        obstacle = "this PyTorch is a CPU-only build"
    elif release is None:
        obstacle = "no CUDA toolkit was found (looked at CUDA_HOME, nvcc on PATH, /usr/local/cuda)"
    elif release.split(".")[0] != wanted.split(".")[0]:
        obstacle = f"nvcc is {release}, but PyTorch was built with CUDA {wanted}: the major versions must agree"
    else:
        return True
    if wish == "1":
        raise SystemExit(f"setup.py: WITH_CUDA=1, but {obstacle}.")
    print(f"mlt_ops: no CUDA kernels, because {obstacle}.")
    return False


def default_arch_list() -> str:
    """The GPU at hand; without one the oldest that CUDA 13 has, whose PTX newer GPUs compile at their first call.

    Kernels for every architecture take minutes (`make wheel` builds those).
    """
    if torch.cuda.is_available():
        return "{}.{}".format(*torch.cuda.get_device_capability())
    return "7.5+PTX"


def extension() -> CppExtension | CUDAExtension:
    """`mlt_ops._C` on PyTorch's stable ABI and Python's limited API: one binary for later versions of both."""
    cuda = use_cuda()
    sources = sorted((ROOT / "mlt_ops/csrc").glob("*.cpp")) + sorted((ROOT / "mlt_ops/csrc/cpu").glob("*.cpp"))
    macros = [("TORCH_TARGET_VERSION", hex(TORCH_TARGET_VERSION))]
    # No fused multiply-add: CPU and CUDA kernels shall round alike.
    flags = {"cxx": ["-O3", "-ffp-contract=off", "-fvisibility=hidden"], "nvcc": ["-O3", "--fmad=false"]}
    if cuda:
        archs = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default_arch_list())
        sources += sorted((ROOT / "mlt_ops/csrc/cuda").glob("*.cu"))
        macros += [("USE_CUDA", None), ("MLT_OPS_CUDA_ARCHS", f'"{archs}"')]
        print(f"mlt_ops: building CPU and CUDA {nvcc_release()} kernels for {archs}.")
    else:
        print("mlt_ops: building CPU kernels only.")
    return (CUDAExtension if cuda else CppExtension)(
        "mlt_ops._C",
        [str(path.relative_to(ROOT)) for path in sources],
        depends=[str(path.relative_to(ROOT)) for path in sorted((ROOT / "mlt_ops/csrc").rglob("*.*h"))],
        include_dirs=[str(ROOT / "mlt_ops/csrc")],
        define_macros=macros,
        extra_compile_args=flags,
        py_limited_api=True,
    )


class BuildOps(BuildExtension):
    """Skips the extension, with a warning, where no C++ compiler is; a failing compiler still fails the build."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # WITH_CUDA may have changed since the last build; ninja still compiles only what is new

    def build_extensions(self) -> None:
        compiler = os.environ.get("CXX", "cl" if os.name == "nt" else "c++").split()[0]
        if shutil.which(compiler) is None:
            warnings.warn(
                f"mlt_ops is installed WITHOUT its extension: there is no C++ compiler ({compiler!r} is not on PATH). "
                "Install g++ >= 11 or set CXX, then install again.",
                stacklevel=1,
            )
            self.extensions = []
            return
        super().build_extensions()


OPS_ONLY = os.environ.get("MLT_OPS_ONLY") == "1"
ON_LINUX_X86 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
REID_REQUIRES = [
    "torchvision",
    "yacs",
    "ninja",
    "scikit-learn",
    "tabulate",
    "tensorboard",
    "tqdm",
    "matplotlib",
    f"faiss-gpu; {ON_LINUX_X86}",  # also runs without a GPU; both packages install the module `faiss`: never both
    "faiss-cpu; sys_platform != 'linux' or platform_machine != 'x86_64'",
]

setup(
    name="mlt-ops" if OPS_ONLY else "mlt-reid",
    version=VERSION,
    description="Exact sparse k-reciprocal clustering operators for PyTorch"
    if OPS_ONLY
    else "Unsupervised domain-adaptive re-identification for FastReID-style toolboxes: MLT (GLT) and MMT",
    long_description=(ROOT / ("mlt_ops/README.md" if OPS_ONLY else "README.md")).read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    install_requires=["torch>=2.10", "numpy"] + ([] if OPS_ONLY else REID_REQUIRES),
    packages=find_packages(include=["mlt_ops", "mlt_ops.*"])
    + ([] if OPS_ONLY else find_packages("projects/MLT", include=["mlt", "mlt.*"])),
    package_dir={"mlt": "projects/MLT/mlt"},
    package_data={"mlt_ops": ["py.typed"]},
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildOps},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    zip_safe=False,
)
