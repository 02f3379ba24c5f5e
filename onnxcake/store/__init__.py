"""Keep a synthetic set as sharded, checksummed files. The store keeps tensors and does not know why."""
