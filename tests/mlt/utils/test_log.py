"""Log files and the console."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlt.utils.log import log_once, setup_logger, warn_once


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("mlt", "mlt_ops")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (level, propagate) in zip(loggers, before, strict=True):
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
        logger.propagate = propagate


def test_file_and_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logger(tmp_path / "run")
    logging.getLogger("mlt.engine").info("epoch %d", 3)
    logging.getLogger("mlt_ops").warning("slow")
    text = (tmp_path / "run" / "log.txt").read_text()
    assert "mlt.engine] INFO: epoch 3\n" in text
    assert "mlt_ops] WARNING: slow\n" in text
    assert capsys.readouterr().out == text


def test_other_processes_write_their_own_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logger(tmp_path, 2)
    logging.getLogger("mlt").info("here")
    assert "here" in (tmp_path / "log.txt.rank2").read_text()
    assert capsys.readouterr().out == ""


def test_second_setup_replaces_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logger(tmp_path / "a")
    setup_logger(tmp_path / "b")
    logging.getLogger("mlt").info("once")
    assert capsys.readouterr().out.count("once") == 1
    assert (tmp_path / "a" / "log.txt").read_text() == ""
    assert (tmp_path / "b" / "log.txt").read_text().count("once") == 1


def test_once(tmp_path: Path) -> None:
    logger = setup_logger(tmp_path)
    for _ in range(3):
        log_once(logger, "cameras are known")
        warn_once(logger, "cameras are not known")
    text = (tmp_path / "log.txt").read_text()
    assert text.count("INFO: cameras are known") == 1
    assert text.count("WARNING: cameras are not known") == 1
    setup_logger(tmp_path)
    log_once(logger, "cameras are known")
    assert (tmp_path / "log.txt").read_text().count("INFO: cameras are known") == 2
