"""Numbers that a benchmark cannot work with are refused on its command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType

import pytest


def test_whole_numbers_from_the_least_on(
    load_tool: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=load_tool("benchmarks/arguments").at_least(2))
    assert parser.parse_args(["--repeats", "2"]).repeats == 2
    for value, message in (("1", "must be at least 2, got 1"), ("two", "invalid number value: 'two'")):
        with pytest.raises(SystemExit):
            parser.parse_args(["--repeats", value])
        assert f"argument --repeats: {message}" in capsys.readouterr().err
