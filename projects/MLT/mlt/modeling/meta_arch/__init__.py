"""Meta-architectures: what the trainer calls."""

from mlt.modeling.meta_arch.baseline import Baseline
from mlt.modeling.meta_arch.mixture_label_transport import MixtureLabelTransport
from mlt.modeling.meta_arch.reid_model import ReidModel

__all__ = ["Baseline", "MixtureLabelTransport", "ReidModel"]
