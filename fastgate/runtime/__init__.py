"""The processes: supervisor, control, workers, and what they say to each other."""
