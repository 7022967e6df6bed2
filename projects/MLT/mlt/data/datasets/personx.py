"""PersonX: rendered people, 6 cameras, 9,840 training images of 410 people, 5,136 queries, gallery of 30,816."""

from __future__ import annotations

from mlt.data.datasets.layout import Layout
from mlt.data.datasets.market_style import read_market_style
from mlt.registry import DATASETS
from mlt.structures import ReidSet

LAYOUT = Layout(
    "PersonX",
    ("PersonX", "personx/PersonX", "personx"),
    ("bounding_box_train", "query", "bounding_box_test"),
    "PersonX is described in Sun et al., Dissecting Person Re-identification from the Viewpoint of Viewpoint, "
    "CVPR 2019; the six-camera version is the one that SpCL (Ge et al., NeurIPS 2020) trains on.",
)
CAMERAS = {3: 0, 4: 1, 8: 2, 10: 3, 11: 4, 12: 5}  # the six that the published split keeps


@DATASETS.register()
def PersonX(root: str, *, direct: bool = False) -> ReidSet:
    """Read PersonX.

    Args:
        root: folder of several sets.
        direct: `root` is this set's own folder.

    Source: Sun et al., CVPR 2019.
    """
    return read_market_style(LAYOUT, root, direct, CAMERAS)
