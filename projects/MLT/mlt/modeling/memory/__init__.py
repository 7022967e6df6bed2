"""Feature memories: buffers to compare a batch with."""

from mlt.modeling.memory.memory_bank import MemoryBank

__all__ = ["MemoryBank"]
