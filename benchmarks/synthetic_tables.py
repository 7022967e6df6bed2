#!/usr/bin/env python
"""The tables of benchmarks/synthetic.md from benchmarks/results/synthetic.json: what was not measured is not there.

python benchmarks/synthetic_tables.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tabulate import tabulate

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "synthetic.json", HERE / "synthetic.md"
BEGIN, END = "<!-- tables: made by synthetic_tables.py -->", "<!-- end of tables -->"
FULL = "MLT, as configured"


def in_short(measured: dict[str, Any]) -> dict[str, float]:
    """mAP of the evaluated net, plain and centred, and the final labels' ARI.

    Args:
        measured: the numbers of tools/measure_gap.py.
    """
    row = measured["rows"][measured["evaluated"]]
    return {"mAP": row["plain"]["mAP"], "centred": row["centred"]["mAP"], "ARI": measured["labels"]["ARI"]}


def cells(values: Sequence[float], digits: int = 1) -> list[str]:
    """Numbers and their mean as text.

    Args:
        values: numbers.
        digits: behind the point.
    """
    return [f"{v:.{digits}f}" for v in values] + [f"**{mean(values):.{digits}f}**"]


def main_table(measured: dict[str, Any]) -> str:
    """mAP of all that is compared, gap and label quality, by pair of seeds.

    Args:
        measured: what synthetic.py measured.
    """
    tables = measured["tables"]
    body = [
        [f"{name}, {kind}", *cells([t["rows"][name][kind]["mAP"] for t in tables])]
        for name in tables[0]["rows"]
        for kind in ("plain", "centred")
    ]
    body += [[name, *cells([f[name] for f in measured["floors"]])] for name in measured["floors"][0]]
    body += [
        ["gap closed (teacher, plain)", *cells([t["gap_closed"] for t in tables], 2)],
        ["final label ARI", *cells([t["labels"]["ARI"] for t in tables], 2)],
        ["final label NMI", *cells([t["labels"]["NMI"] for t in tables], 2)],
    ]
    heads = [f"people {p}, cameras {c}" for p, c in measured["seeds"]]
    return tabulate(body, ["", *heads, "mean"], tablefmt="pipe", disable_numparse=True)


def rows_table(measured: dict[str, Any]) -> str:
    """mAP of the evaluated net of each changed recipe.

    Args:
        measured: what synthetic.py measured.
    """
    full = {"machine": measured["machine"], "pairs": [in_short(t) for t in measured["tables"]]}
    body = [
        [
            name,
            *cells([pair["mAP"] for pair in row["pairs"]]),
            f"{mean(pair['centred'] for pair in row['pairs']):.1f}",
            f"{mean(pair['ARI'] for pair in row['pairs']):.2f}",
            row["machine"]["commit"],
        ]
        for name, row in ({FULL: full} | measured["ablations"]).items()
    ]
    heads = [f"people {p}, cameras {c}" for p, c in measured["seeds"]]
    head = ["", *heads, "mean", "mean, centred", "mean ARI", "commit"]
    return tabulate(body, head, tablefmt="pipe", disable_numparse=True)


def looked_into_table(measured: dict[str, Any]) -> str:
    """The evaluated net of further changed recipes, on the first pair of seeds.

    Args:
        measured: what synthetic.py measured.
    """
    full = {"machine": measured["machine"]} | in_short(measured["tables"][0])
    body = [
        [name, f"{row['mAP']:.1f}", f"{row['centred']:.1f}", f"{row['ARI']:.2f}", row["machine"]["commit"]]
        for name, row in ({FULL: full} | measured["looked_into"]).items()
    ]
    return tabulate(body, ["", "mAP", "mAP, centred", "ARI", "commit"], tablefmt="pipe", disable_numparse=True)


def seeds_table(measured: dict[str, Any]) -> str:
    """The main run with further training seeds.

    Args:
        measured: what synthetic.py measured.
    """
    runs = list(measured["training_seeds"].values())
    body = []
    for label, key, digits in (("mAP", "mAP", 1), ("mAP, centred", "centred", 1), ("final label ARI", "ARI", 2)):
        values = [one[key] for one in runs]
        body.append([label, *cells(values, digits), f"{stdev(values):.{digits + 1}f}"])
    heads = [f"seed {seed}" for seed in measured["training_seeds"]]
    head = ["teacher", *heads, "mean", "standard deviation"]
    return tabulate(body, head, tablefmt="pipe", disable_numparse=True)


def tables(measured: dict[str, Any]) -> str:
    """All of them, with what they were measured on.

    Args:
        measured: what synthetic.py measured.
    """
    people, cameras = measured["seeds"][0]
    about = ", ".join(f"{key} {value}" for key, value in measured["machine"].items())
    parts = [f"Measured on: {about}.", "mAP in percent:", main_table(measured)]
    parts += ["What the parts are worth, mAP of the evaluated net:", rows_table(measured)]
    if measured.get("looked_into"):
        parts += [f"Looked into (people {people}, cameras {cameras}):", looked_into_table(measured)]
    if "training_seeds" in measured:
        parts += [f"Training seeds (people {people}, cameras {cameras}, one Stage I):", seeds_table(measured)]
    return "\n\n".join(parts)


def write_page(results: Path = RESULTS) -> None:
    """Put the tables into the page, between its two marks.

    Args:
        results: what synthetic.py wrote; anything but RESULTS is only printed.
    """
    text = tables(json.loads(results.read_text()))
    print(text)
    if results == RESULTS:
        put_tables(PAGE, text)


def put_tables(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page.

    Args:
        page: Markdown file.
        text: the new tables.
    """
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    write_page()
