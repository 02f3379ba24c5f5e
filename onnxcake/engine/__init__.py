"""Make batches of samples: one after the other or side by side, with the same bytes either way."""
