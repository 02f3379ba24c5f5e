"""A synthetic set as sharded, checksummed files. It keeps tensors and does not know why."""

from .dataset import Samples, StoreDataset
from .in_memory import Pool
from .shard import Batch, Shard
from .store import Layout, Store

__all__ = ["Batch", "Layout", "Pool", "Samples", "Shard", "Store", "StoreDataset"]
