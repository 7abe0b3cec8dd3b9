"""log_records: log records written as a worker does, without a worker."""
