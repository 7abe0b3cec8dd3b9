"""The processes: supervisor, control, workers, and the messages between them."""
