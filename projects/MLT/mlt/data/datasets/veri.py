"""VeRi-776: vehicles, 20 cameras, 37,778 training images of 576 vehicles, 1,678 queries, gallery of 11,579."""

from __future__ import annotations

from mlt.data.datasets.layout import Layout
from mlt.data.datasets.market_style import read_market_style
from mlt.registry import DATASETS
from mlt.structures import ReidSet

LAYOUT = Layout(
    "VeRi",
    ("VeRi", "VeRi_with_plate", "veri/VeRi", "veri/VeRi_with_plate", "veri"),
    ("image_train", "image_query", "image_test"),
    "VeRi-776 is described in Liu et al., ECCV 2016 (A Deep Learning-Based Approach to Progressive Vehicle "
    "Re-identification for Urban Surveillance); ask its authors, see github.com/JDAI-CV/VeRidataset.",
)


@DATASETS.register()
def VeRi(root: str, *, direct: bool = False) -> ReidSet:
    """Read VeRi-776. Evaluation is image to image, as in all later work; the original one is image to track.

    Args:
        root: folder of several sets.
        direct: `root` is this set's own folder.

    Source: Liu et al., ECCV 2016.
    """
    return read_market_style(LAYOUT, root, direct)
