"""Market-1501: 6 cameras, 12,936 training images of 751 people, 3,368 queries, gallery of 15,913 without junk."""

from __future__ import annotations

from mlt.data.datasets.layout import Layout
from mlt.data.datasets.market_style import read_market_style
from mlt.registry import DATASETS
from mlt.structures import ReidSet

LAYOUT = Layout(
    "Market1501",
    ("Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "Market1501/Market-1501-v15.09.15", "market1501"),
    ("bounding_box_train", "query", "bounding_box_test"),
    "Market-1501 is described in Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015; "
    "ask its authors (Liang Zheng) for Market-1501-v15.09.15.zip.",
)


@DATASETS.register()
def Market1501(root: str, *, direct: bool = False) -> ReidSet:
    """Read Market-1501.

    Args:
        root: folder of several sets.
        direct: `root` is this set's own folder.

    Source: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    """
    return read_market_style(LAYOUT, root, direct)
