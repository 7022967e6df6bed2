"""The door to FastReID: our components by their names in its registries, and its trainer with pseudo labels.

Importing this registers everything; a second import changes nothing, and names that FastReID has stay FastReID's.
"""

from mlt.adapters.compat import enable_modern_runtime

enable_modern_runtime()

from mlt.adapters.fastreid.components import FastReIDHead, register_components  # noqa: E402
from mlt.adapters.fastreid.data import (  # noqa: E402
    TrainImages,
    embed_all,
    load_all,
    load_identities,
    read_train,
    register_datasets,
)
from mlt.adapters.fastreid.joint_loader import JointLoader  # noqa: E402
from mlt.adapters.fastreid.run import run  # noqa: E402
from mlt.adapters.fastreid.trainer import ForeignHook, MLTTrainer  # noqa: E402
from mlt.config import add_mlt_config  # noqa: E402

register_components()

__all__ = [
    "FastReIDHead",
    "ForeignHook",
    "JointLoader",
    "MLTTrainer",
    "TrainImages",
    "add_mlt_config",
    "embed_all",
    "load_all",
    "load_identities",
    "read_train",
    "register_components",
    "register_datasets",
    "run",
]
