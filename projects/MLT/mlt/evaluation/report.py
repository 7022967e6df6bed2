"""Results as the table that FastReID prints."""

from __future__ import annotations

from collections.abc import Mapping

from tabulate import tabulate

COLUMNS = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "metric")


def format_table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A Markdown table, one row for each net on each set.

    Args:
        results: set -> net -> what `evaluate_features` returned; an empty mapping gives the header alone.
    """
    rows = [
        [dataset, net, *(figures[column] for column in COLUMNS)]
        for dataset, nets in results.items()
        for net, figures in nets.items()
    ]
    return tabulate(rows, headers=["Dataset", "Net", *COLUMNS], tablefmt="pipe", floatfmt=".2f", numalign="left")
