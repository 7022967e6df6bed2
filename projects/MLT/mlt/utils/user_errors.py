"""What a reader can mend ends in one message and exit code 2, not in a traceback."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import NoReturn

# a wrong config, missing or broken files, a run that diverged
USER_ERRORS = (ValueError, KeyError, OSError, FloatingPointError)


@contextlib.contextmanager
def one_message() -> Iterator[None]:
    """Around a tool's main function: its USER_ERRORS end in one message."""
    try:
        yield
    except USER_ERRORS as error:
        end_with_message(error)


def end_with_message(error: Exception) -> NoReturn:
    """One message for the reader; the traceback goes to the log file, if there is one already.

    Args:
        error: what went wrong.

    Raises:
        SystemExit: always, code 2.
    """
    logger = logging.getLogger("mlt")
    logger.debug("traceback", exc_info=error)
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    # a worker of a loader hands over its whole traceback as the message
    print(f"error: {message.rpartition(f'{type(error).__name__}: ')[2]}", file=sys.stderr)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            print(f"(where it happened: {handler.baseFilename})", file=sys.stderr)
    raise SystemExit(2)
