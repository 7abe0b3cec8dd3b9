"""worker_counts: counting as a worker does, without a worker."""
