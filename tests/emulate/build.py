"""Compiles CUDA sources for the CPU, with the emulator in place of CUDA.

The sources stay as they are. In a copy, launches `kernel<<<grid, block, shared, stream>>>(...)` and `__shared__`
variables become calls of the emulator, and the kernels of `mlt_ops` move from PyTorch's dispatch key CUDA to
PrivateUse1, which nobody else uses.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parents[1]
CSRC = ROOT / "mlt_ops/csrc"
EMULATOR = sorted(HERE.glob("*.cpp"))
FLAGS = ["-std=c++20", "-O1", "-g", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
FLAGS += ["-Wall", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE"]  # which takes a jump between stacks for an attack
ASAN = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
TSAN = ["-fsanitize=thread", "--param", "tsan-distinguish-volatile=1"]  # a call at each access, see memory.cpp
MODES = {
    "plain": ([], []),
    "races": (["-DEMULATE_RACES"], TSAN),
    "memory": (ASAN, ASAN),
}  # emulator's and kernels' flags
# Small inputs act as large ones.
SMALL = {"kSharedCapacity": "64", "kGrowth": "4", "kWorkspaceBytes": "1 << 14", "kMaxBlocks": "37"}


def rewrite(source: str, constants: Mapping[str, str]) -> str:
    """CUDA as C++ that calls the emulator.

    Args:
        source: text of a .cu or .cuh file.
        constants: new values of `constexpr` constants, where they are defined.
    """
    source = re.sub(r"\b(\w+(?:<\w+>)?)<<<(.*?)>>>\(", r"emulate::launch(\1, \2)(", source, flags=re.DOTALL)
    dynamic = r"auto* \2 = static_cast<\1*>(emulate::dynamic_shared_memory());"
    source = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", dynamic, source)
    source = re.sub(r"__shared__ (\w+) ([^;]+);", _shared, source)
    source = re.sub(r"(STABLE_TORCH_LIBRARY_IMPL\(\w+, )CUDA,", r"\1PrivateUse1,", source)
    for name, value in constants.items():
        source = re.sub(rf"(constexpr \w+ {name} = )[^;]+;", rf"\g<1>{value};", source)
    return source


def _shared(declaration: re.Match[str]) -> str:
    """`__shared__ int a, b[4];` as references to variables that a block's threads have in common."""
    base, names = declaration.groups()
    parts = (re.fullmatch(r"(\w+)(\[\w+\])?", name.strip()) for name in names.split(","))
    return " ".join(f"auto& {part[1]} = emulate::shared<{base}{part[2] or ''}>();" for part in parts if part)


def build(
    sources: Sequence[Path],
    output: Path,
    mode: str,
    *,
    constants: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    libraries: Sequence[str] = (),
) -> None:
    """Compile CUDA sources and the emulator into a shared library, or into a program if the output has no suffix.

    Args:
        sources: .cu and .cuh files.
        output: what to make; copies and object files go into a folder beside it.
        mode: of `MODES`.
        constants: see `rewrite`.
        flags: for the CUDA sources.
        libraries: flags for the linker.
    """
    work = output.with_name(f"{output.name}.build")
    emulator_flags, kernel_flags = MODES[mode]
    jobs = [(source, [*emulator_flags, "-O2"]) for source in EMULATOR]
    for source in sources:
        copy = work / source.relative_to(source.parents[1])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(f'#line 1 "{source}"\n' + rewrite(source.read_text(), constants or {}))
        if source.suffix == ".cu":
            includes = [f"-I{folder}" for folder in (work, HERE / "include", HERE)]
            jobs.append((copy, [*kernel_flags, *includes, *flags]))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda job: _compile(*job, work), jobs))
    form = ["-shared", "-Wl,-z,defs"] if output.suffix == ".so" else []
    _run([*form, *emulator_flags, *objects, "-o", str(output), "-ldl", *libraries])


def _compile(source: Path, flags: Sequence[str], work: Path) -> str:
    target = f"{work / source.name}.o"
    _run([*FLAGS, *flags, "-x", "c++", "-c", str(source), "-o", target])
    return target


def _run(arguments: Sequence[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a sanitizer, for us
    subprocess.run([os.environ.get("CXX", "g++"), *arguments], check=True, env=environment)


def build_mlt_ops(folder: Path, mode: str = "plain", small: bool = False) -> Path:
    """The library of the CUDA kernels of `mlt_ops`, for `torch.ops.load_library`.

    Args:
        folder: where to put it.
        mode: "plain"; "races": races fail; "memory": with the address sanitizer, which must be preloaded.
        small: with small tables, workspaces and grids.
    """
    from torch.utils.cpp_extension import include_paths, library_paths

    target = re.search(r"TORCH_TARGET_VERSION = (\w+)", (ROOT / "setup.py").read_text())
    if target is None:
        raise RuntimeError("setup.py does not say for which TORCH_TARGET_VERSION it builds.")
    flags = [f"-DTORCH_TARGET_VERSION={target[1]}", f"-I{CSRC}", "-include", str(HERE / "torch.h")]
    flags += [f"-isystem{path}" for path in include_paths()]
    libraries = [*(f"-L{path}" for path in library_paths()), "-ltorch", "-ltorch_cpu", "-lc10"]
    output = folder / f"{'small' if small else 'full'}_{mode}.so"
    constants = SMALL if small else {}
    build(sorted((CSRC / "cuda").iterdir()), output, mode, constants=constants, flags=flags, libraries=libraries)
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=MODES, default="plain")
    parser.add_argument("--small", action="store_true", help="small tables, workspaces and grids")
    arguments = parser.parse_args()
    print(build_mlt_ops(arguments.folder, arguments.mode, arguments.small))
