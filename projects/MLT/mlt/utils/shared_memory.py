"""Memory that the processes of a run share where they are on one machine, without a file that stays behind."""

from __future__ import annotations

import logging
import mmap
import os
import uuid

from mlt.utils import comm
from mlt.utils.log import warn_once

logger = logging.getLogger(__name__)


def shared_map(num_bytes: int) -> mmap.mmap:
    """Zeroed memory, shared with processes forked from this one and with those of its group on the same machine.

    All processes of a group must call this, for the same number of bytes and in the same order. One that cannot reach
    another's memory (it is on another machine, in another container, or not on Linux) has memory of its own. The memory
    is gone with the last process that uses it, however that ends.

    Args:
        num_bytes: size, at least 1.
    """
    if not comm.active():
        return mmap.mmap(-1, num_bytes)
    name = f"mlt-{uuid.uuid4().hex}"
    own = _create(name, num_bytes)
    offers = comm.gather_object((f"/proc/{os.getpid()}/fd/{own}", f"/memfd:{name} (deleted)"))
    memory = _first_in_reach(offers, num_bytes)
    comm.barrier()  # until then nobody closes what others may want to open
    if own is not None:
        os.close(own)
    return mmap.mmap(-1, num_bytes) if memory is None else memory


def _create(name: str, num_bytes: int) -> int | None:
    try:
        file = os.memfd_create(name)
        os.ftruncate(file, num_bytes)
    except (AttributeError, OSError) as error:  # no Linux, or too little memory
        warn_once(logger, f"no memory to share with other processes ({error}): each decodes its own images")
        return None
    return file


def _first_in_reach(offers: list[tuple[str, str]], num_bytes: int) -> mmap.mmap | None:
    """The memory of the first process whose offer this one can open. A path alone could be another machine's."""
    for path, target in offers:
        try:
            if os.readlink(path) != target:
                continue
            file = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            return mmap.mmap(file, num_bytes)
        finally:
            os.close(file)
    return None
