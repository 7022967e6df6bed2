"""Logging: plain lines in OUTPUT_DIR/log.txt, and a console that does not tear progress bars."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tqdm import tqdm

_said: set[str] = set()


class _TqdmHandler(logging.Handler):
    """Prints above a running progress bar, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except Exception:
            self.handleError(record)


def setup_logger(output_dir: str | Path | None = None, rank: int = 0) -> logging.Logger:
    """Set up the loggers of `mlt` and `mlt_ops`; a second call replaces what the first one set up.

    Args:
        output_dir: where log.txt is appended to (log.txt.rank1 by process 1 and so on); None = console only.
        rank: the process's number; only 0 prints to the console.
    """
    handlers: list[logging.Handler] = [_TqdmHandler()] if rank == 0 else []
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        name = "log.txt" if rank == 0 else f"log.txt.rank{rank}"
        handlers.append(logging.FileHandler(Path(output_dir) / name, encoding="utf-8"))
    form = logging.Formatter("[%(asctime)s %(name)s] %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
    for handler in handlers:
        handler.setFormatter(form)
        handler.setLevel(logging.DEBUG if isinstance(handler, logging.FileHandler) else logging.INFO)
    for name in ("mlt", "mlt_ops"):
        logger = logging.getLogger(name)
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            old.close()
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
    _said.clear()
    return logging.getLogger("mlt")


def log_once(logger: logging.Logger, message: str, *, level: int = logging.INFO) -> None:
    """Log a line unless this process has logged the same one already.

    Args:
        logger: where to.
        message: the finished text.
        level: of the logging module.
    """
    if message not in _said:
        _said.add(message)
        logger.log(level, message)


def warn_once(logger: logging.Logger, message: str) -> None:
    """`log_once` with level WARNING.

    Args:
        logger: where to.
        message: the finished text.
    """
    log_once(logger, message, level=logging.WARNING)
