"""Meta-architectures: a batch dict to losses, images to features."""

from mlt.modeling.meta_arch.baseline import Baseline
from mlt.modeling.meta_arch.mixture_label_transport import MixtureLabelTransport
from mlt.modeling.meta_arch.mutual_mean_teaching import MutualMeanTeaching
from mlt.modeling.meta_arch.pseudo_label_model import PseudoLabelModel
from mlt.modeling.meta_arch.reid_model import ReidModel
from mlt.modeling.meta_arch.uncertainty_guided import UncertaintyGuided

__all__ = [
    "Baseline",
    "MixtureLabelTransport",
    "MutualMeanTeaching",
    "PseudoLabelModel",
    "ReidModel",
    "UncertaintyGuided",
]
