"""The table of results."""

from __future__ import annotations

from mlt.evaluation.report import COLUMNS, format_table


def test_one_row_for_each_net_of_each_set() -> None:
    figures = dict.fromkeys(COLUMNS, 12.345) | {"mAP": 7.0, "skipped": 3.0}
    lines = format_table({"Market1501": {"student": figures, "teacher": figures}, "MSMT17": {"teacher": figures}})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]
    assert cells[0] == ["Dataset", "Net", "Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "metric"]
    assert [row[:2] for row in cells[2:]] == [
        ["Market1501", "student"],
        ["Market1501", "teacher"],
        ["MSMT17", "teacher"],
    ]
    assert cells[2][2:] == ["12.35", "12.35", "12.35", "7.00", "12.35", "12.35"]


def test_no_result_gives_the_header() -> None:
    assert "mINP" in format_table({})
