#!/usr/bin/env python
"""The tables of benchmarks/methods.md from benchmarks/results/methods.json: what was not measured is not there.

python benchmarks/methods_tables.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from synthetic_tables import put_tables
from tabulate import tabulate

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "methods.json", HERE / "methods.md"
HEAD = ["", "mAP", "Rank-1", "mAP, centred", "Rank-1, centred", "gap closed", "ARI", "NMI", "minutes"]


def line(name: str, rows: Sequence[dict[str, dict[str, float]]], *rest: float | None) -> list[Any]:
    """A row of the table: means over the pairs of seeds.

    Args:
        name: of the row.
        rows: plain and centred metrics of one net, for each pair.
        *rest: gap closed, ARI, NMI and minutes, as far as there are such.
    """
    metrics = [mean(row[kind][metric] for row in rows) for kind in ("plain", "centred") for metric in ("mAP", "Rank-1")]
    return [name, *(f"{value:.1f}" for value in metrics), *("" if v is None else f"{v:.2f}" for v in rest)]


def methods_table(measured: dict[str, Any]) -> str:
    """Every method beside direct transfer, AdaBN and the oracle; means over the pairs of seeds.

    Args:
        measured: what methods.py measured.
    """
    first = next(iter(measured["methods"].values()))
    body = [line(name, [pair["rows"][name] for pair in first]) for name in ("direct transfer", "AdaBN", "oracle")]
    for name, pairs in measured["methods"].items():
        rest = [mean(pair["labels"][key] for pair in pairs) for key in ("ARI", "NMI")]
        minutes = mean(pair["seconds"] for pair in pairs) / 60
        nets = [pair["rows"][pair["evaluated"]] for pair in pairs]
        body.append(line(name, nets, mean(pair["gap_closed"] for pair in pairs), *rest, minutes))
    return tabulate(body, HEAD, tablefmt="pipe", disable_numparse=True)


def pairs_table(measured: dict[str, Any]) -> str:
    """mAP of each method on each pair of seeds, plain / centred.

    Args:
        measured: what methods.py measured.
    """
    head = ["mAP, plain / centred", *(f"people {p}, cameras {c}" for p, c in measured["seeds"])]
    body = [
        [name, *(" / ".join(f"{net[kind]['mAP']:.1f}" for kind in ("plain", "centred")) for net in nets)]
        for name, nets in (
            (name, [pair["rows"][pair["evaluated"]] for pair in pairs]) for name, pairs in measured["methods"].items()
        )
    ]
    return tabulate(body, head, tablefmt="pipe", disable_numparse=True)


def mechanisms_table(measured: dict[str, Any]) -> str:
    """What the log has of each method's own mechanism: first -> last epoch that has it, means over the pairs.

    Args:
        measured: what methods.py measured.
    """
    body = []
    for name, pairs in measured["methods"].items():
        for trace in pairs[0]["traces"]:
            first, last = (mean(pair["traces"][trace][at] for pair in pairs) for at in (0, -1))
            body.append([name, trace, f"{first:.2f}", f"{last:.2f}"])
        nets = [net for net in pairs[0]["rows"] if net.endswith(("student", "student 2", "teacher", "teacher 2"))]
        for net in nets if len(nets) > 1 else []:
            value = mean(pair["rows"][net]["plain"]["mAP"] for pair in pairs)
            body.append([name, f"mAP of {net}", "", f"{value:.1f}"])
    return tabulate(body, ["", "", "first", "last"], tablefmt="pipe", disable_numparse=True)


def kept_table(measured: dict[str, Any]) -> str:
    """Share of the images that a method keeps in clusters, epoch by epoch, means over the pairs; "" where none says so.

    Args:
        measured: what methods.py measured.
    """
    series = {
        name: [f"{mean(epoch):.2f}" for epoch in zip(*(pair["traces"]["labels/kept"] for pair in pairs), strict=True)]
        for name, pairs in measured["methods"].items()
        if "labels/kept" in pairs[0]["traces"]
    }
    if not series:
        return ""
    epochs = max(map(len, series.values()))
    head = ["share kept, epoch", *range(1, epochs + 1)]
    body = [[name, *values] for name, values in series.items()]
    return tabulate(body, head, tablefmt="pipe", disable_numparse=True)


def page(measured: dict[str, Any]) -> str:
    """All tables, with what they were measured on.

    Args:
        measured: what methods.py measured.
    """
    about = ", ".join(f"{key} {value}" for key, value in measured["machine"].items())
    tables = [methods_table(measured), pairs_table(measured), mechanisms_table(measured), kept_table(measured)]
    return "\n\n".join([f"Measured on: {about}.", *filter(None, tables)])


def write_page(results: Path = RESULTS) -> None:
    """Put the tables into the page.

    Args:
        results: what methods.py wrote; anything but RESULTS is only printed.
    """
    text = page(json.loads(results.read_text()))
    print(text)
    if results == RESULTS:
        put_tables(PAGE, text)


if __name__ == "__main__":
    write_page()
