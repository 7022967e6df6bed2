"""Feature memories: buffers to compare a batch with."""

from mlt.modeling.memory.base import Memory, move_rows
from mlt.modeling.memory.cluster_memory import ClusterMemory
from mlt.modeling.memory.contrast_memory import ContrastMemory
from mlt.modeling.memory.hybrid_memory import HybridMemory
from mlt.modeling.memory.memory_bank import MemoryBank

__all__ = ["ClusterMemory", "ContrastMemory", "HybridMemory", "Memory", "MemoryBank", "move_rows"]
