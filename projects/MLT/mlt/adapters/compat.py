"""FastReID 1.4.0 on a modern Python and PyTorch: every mend, by the line of FastReID that it is for.

A mend is applied only where that line is in the FastReID at hand and this machine cannot run it as it stands.
Nothing outside of FastReID stays changed. FastReID is named by strings here, and imported by `enable_modern_runtime`.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import importlib.util
import inspect
import logging
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torchvision import transforms

from mlt.utils.checkpoint import load_checkpoint
from mlt.utils.log import warn_once

logger = logging.getLogger(__name__)
REMEDY = (
    "FastReID is not installed. It is wanted by mlt.adapters.fastreid alone: run `make fastreid`, or `pip install "
    "--no-deps fastreid==1.4.0 termcolor` (with its dependencies it would replace torch by 1.13), or put a git "
    "checkout of JDAI-CV/fast-reid on PYTHONPATH."
)


@dataclass(frozen=True)
class Mend:
    """One repair.

    Args:
        name: short name, for the log and for tests.
        file: the file of FastReID, below its package folder.
        number: the line of that file in FastReID 1.4.0.
        line: text of that line, without which there is nothing to mend.
        needs: where the line does not run.
        needed: whether that is here.
        apply: does it; returns nothing, or what takes it back after FastReID was imported.
    """

    name: str
    file: str
    number: int
    line: str
    needs: str
    needed: Callable[[], bool]
    apply: Callable[[], Callable[[], object] | None]


@functools.cache
def enable_modern_runtime() -> tuple[str, ...]:
    """Import FastReID and make it train, evaluate and resume on this machine. A second call does nothing.

    Returns:
        Names of the mends that were needed.

    Raises:
        ImportError: FastReID is not installed.
    """
    spec = importlib.util.find_spec("fastreid")
    if spec is None or spec.origin is None or not spec.submodule_search_locations:  # no origin: any folder of that name
        raise ImportError(REMEDY)
    folder = Path(spec.submodule_search_locations[0])
    with _former_names(folder) as applied:
        try:
            _module("engine")
        except ModuleNotFoundError as error:
            raise ImportError(
                f"FastReID in {folder} needs {error.name}, which is not installed: run `make fastreid`, "
                f"or `pip install {error.name}`"
            ) from error
    mended = vars(sys.modules["fastreid"]).setdefault("mended", [])  # lives as long as what is mended
    for mend in RUN_TIME:
        if mend.name not in mended and _is_in(folder, mend) and mend.needed():
            mend.apply()
            mended.append(mend.name)
    applied += mended
    logger.info("FastReID in %s, mended: %s", folder, ", ".join(applied) or "nothing")
    return tuple(applied)


@contextlib.contextmanager
def _former_names(folder: Path) -> Iterator[list[str]]:
    """Names that FastReID imports and that are gone, there for as long as it is being imported."""
    applied = []
    with contextlib.ExitStack() as stack:
        for mend in IMPORT_TIME:
            if _is_in(folder, mend) and mend.needed():
                stack.callback(mend.apply())  # type: ignore[arg-type]
                applied.append(mend.name)
        yield applied


def _is_in(folder: Path, mend: Mend) -> bool:
    path = folder / mend.file
    return path.is_file() and mend.line in path.read_text(encoding="utf-8")


def _module(name: str) -> Any:
    return importlib.import_module(f"fastreid.{name}")


# --- import time ------------------------------------------------------------------------------------------------------


def _lend_mapping() -> Callable[[], object]:
    collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]
    return lambda: delattr(collections, "Mapping")


def _lend_torch_six() -> Callable[[], object]:
    module = types.ModuleType("torch._six")
    module.string_classes = (str, bytes)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    return lambda: sys.modules.pop(module.__name__)


# --- run time ---------------------------------------------------------------------------------------------------------


def _keep_flat_gradients() -> None:
    """ContiguousParams: the optimizer's gradients are windows into one buffer. Set to None instead of zero they are cut
    off from the parameters that backward fills, and the optimizer never sees a gradient again."""
    trainer, flat = _module("engine.train_loop").SimpleTrainer, _module("utils.params").ContiguousParams
    init = trainer.__init__

    @functools.wraps(init)
    def wrapped(self: Any, model: Any, data_loader: Any, optimizer: Any, param_wrapper: Any) -> None:
        init(self, model, data_loader, optimizer, param_wrapper)
        if isinstance(param_wrapper, flat):
            optimizer.zero_grad = functools.partial(optimizer.zero_grad, set_to_none=False)

    trainer.__init__ = wrapped


def _rank_without_compiler() -> None:
    """The evaluator compiles itself at the first evaluation and ends the program where it cannot; FastReID has the same
    ranking in Python."""
    evaluation = _module("evaluation.reid_evaluation")
    compile_here = evaluation.compile_helper

    def try_to_compile() -> None:
        try:
            if importlib.util.find_spec("Cython") is not None:
                return compile_here()
        except SystemExit:
            pass
        warn_once(logger, "FastReID's compiled ranking is not there: its Python one is used, which is slower")

    evaluation.compile_helper = try_to_compile


class CpuLoader(DataLoader[Any]):
    """In place of FastReID's DataLoaderX, which copies batches to a GPU beside the training.

    Args:
        local_rank: not used.
        **options: of DataLoader.
    """

    def __init__(self, local_rank: int, **options: Any) -> None:
        super().__init__(**{**options, "pin_memory": False})

    def shutdown(self) -> None:
        """There is no thread to end."""


def _load_on_cpu() -> None:
    _module("data.build").DataLoaderX = CpuLoader


class _RandomAffine(transforms.RandomAffine):
    def __init__(self, *args: Any, resample: Any = None, fillcolor: Any = None, **options: Any) -> None:
        super().__init__(*args, **options, fill=fillcolor or 0)


def _rename_affine_options() -> None:
    names = {**vars(transforms), "RandomAffine": _RandomAffine}
    _module("data.transforms.build").T = types.SimpleNamespace(**names)


def _rerank_on_cpu() -> None:
    distances = _module("utils.compute_dist")
    on_gpu = distances.compute_jaccard_distance
    distances.compute_jaccard_distance = lambda features, k1=20, k2=6, search_option=0, fp16=False: on_gpu(
        features, k1=k1, k2=k2, search_option=3, fp16=fp16
    )


def _rename_faiss_cast() -> None:
    module = _module("utils.faiss_utils")
    names = {**vars(module.faiss), "cast_integer_to_long_ptr": module.faiss.cast_integer_to_idx_t_ptr}
    module.faiss = types.SimpleNamespace(**names)


def _find_net_tables() -> None:
    """RegNet's and EfficientNet's tables are beside their code, which looks for them below the current folder."""
    tables = _module("modeling.backbones.regnet.config").cfg
    merge, root = tables.merge_from_file, Path(sys.modules["fastreid"].__file__ or "").parents[1]

    def merge_from_file(path: str) -> None:
        merge(str(root / path) if (root / path).is_file() else path)

    vars(tables)["merge_from_file"] = merge_from_file


def _load_numbers() -> None:
    """Files may hold NumPy numbers, as FastReID's own "metric"; they are read without running code."""
    _module("utils.checkpoint").Checkpointer._load_file = lambda self, f: load_checkpoint(f)


def _cpu_process(
    local_rank: int,
    main: Callable[..., None],
    world: int,
    num_local: int,
    machine: int,
    url: str,
    args: tuple[Any, ...],
) -> None:
    """What FastReID's launch() starts, with gloo in place of NCCL."""
    enable_modern_runtime()
    dist.init_process_group("gloo", init_method=url, world_size=world, rank=machine * num_local + local_rank)
    machines = [range(first, first + num_local) for first in range(0, world, num_local)]
    groups = [dist.new_group(list(ranks)) for ranks in machines]
    _module("utils.comm")._LOCAL_PROCESS_GROUP = groups[machine]
    try:
        main(*args)
    finally:
        dist.destroy_process_group()


def _launch_on_cpu() -> None:
    sys.modules["fastreid.engine.launch"]._distributed_worker = _cpu_process  # type: ignore[attr-defined]


def _parallelize_on_cpu() -> None:
    def parallel(model: Any, device_ids: Any = None, **options: Any) -> DistributedDataParallel:
        return DistributedDataParallel(model, **options)

    _module("engine.defaults").DistributedDataParallel = parallel


def _no_gpu() -> bool:
    return not torch.cuda.is_available()


IMPORT_TIME = (  # Mapping: evaluation/testing.py:5 too
    Mend("Mapping", "data/build.py", 12, "from collections import Mapping", "Python >= 3.10",
         lambda: not hasattr(collections, "Mapping"), _lend_mapping),
    Mend("torch._six", "data/build.py", 11, "\nfrom torch._six import", "torch >= 2.0",
         lambda: importlib.util.find_spec("torch._six") is None, _lend_torch_six),
)  # fmt: skip
RUN_TIME = (  # flat gradients: also line 346; net tables: also effnet.py:253
    Mend("flat gradients", "engine/train_loop.py", 248, "self.optimizer.zero_grad()", "torch >= 2.0",
         lambda: inspect.signature(torch.optim.Optimizer.zero_grad).parameters["set_to_none"].default,
         _keep_flat_gradients),
    Mend("ranking", "evaluation/rank_cylib/__init__.py", 20, "sys.exit(1)", "no make, Cython or C compiler",
         lambda: importlib.util.find_spec("fastreid.evaluation.rank_cylib.rank_cy") is None, _rank_without_compiler),
    Mend("loader", "data/data_utils.py", 151, "self.stream = torch.cuda.Stream(", "no GPU", _no_gpu, _load_on_cpu),
    Mend("affine", "data/transforms/build.py", 81, "resample=False", "torchvision >= 0.15",
         lambda: "resample" not in inspect.signature(transforms.RandomAffine).parameters, _rename_affine_options),
    Mend("re-ranking", "utils/compute_dist.py", 68, "features = features.cuda()", "no GPU", _no_gpu, _rerank_on_cpu),
    Mend("faiss cast", "utils/faiss_utils.py", 19, "cast_integer_to_long_ptr", "faiss 1.15",
         lambda: not hasattr(importlib.import_module("faiss"), "cast_integer_to_long_ptr"), _rename_faiss_cast),
    Mend("net tables", "modeling/backbones/regnet/regnet.py", 568, "regnet_cfg.merge_from_file(cfg_files)",
         "another current folder", lambda: not Path("fastreid/modeling/backbones/regnet").is_dir(), _find_net_tables),
    Mend("checkpoints", "utils/checkpoint.py", 216, 'torch.load(f, map_location=torch.device("cpu"))', "torch >= 2.6",
         lambda: torch.__version__ >= "2.6", _load_numbers),
    Mend("launch", "engine/launch.py", 81, 'backend="NCCL"', "no GPU", _no_gpu, _launch_on_cpu),
    Mend("DDP", "engine/defaults.py", 211, "device_ids=[comm.get_local_rank()]", "no GPU", _no_gpu,
         _parallelize_on_cpu),
)  # fmt: skip
