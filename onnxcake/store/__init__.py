"""A synthetic set as sharded, checksummed files. It keeps tensors and does not know why."""

from .dataset import StoreDataset
from .shard import Batch, Shard
from .store import Layout, Store

__all__ = ["Batch", "Layout", "Shard", "Store", "StoreDataset"]
