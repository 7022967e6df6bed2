"""DukeMTMC-reID: 8 cameras, 16,522 training images of 702 people, 2,228 queries, gallery of 17,661."""

from __future__ import annotations

from mlt.data.datasets.layout import Layout
from mlt.data.datasets.market_style import read_market_style
from mlt.registry import DATASETS
from mlt.structures import ReidSet

LAYOUT = Layout(
    "DukeMTMC",
    ("DukeMTMC-reID", "dukemtmc/DukeMTMC-reID", "dukemtmcreid/DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID"),
    ("bounding_box_train", "query", "bounding_box_test"),
    "DukeMTMC-reID is described in Ristani et al., ECCV Workshops 2016, and Zheng et al., ICCV 2017; "
    "its authors have withdrawn it, so only those who hold a copy can use it.",
)


@DATASETS.register()
def DukeMTMC(root: str, *, direct: bool = False) -> ReidSet:
    """Read DukeMTMC-reID.

    Args:
        root: folder of several sets.
        direct: `root` is this set's own folder.

    Source: Ristani et al., ECCV Workshops 2016; Zheng et al., ICCV 2017.
    """
    return read_market_style(LAYOUT, root, direct)
