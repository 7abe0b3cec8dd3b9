"""windows: the calendar windows of quotas, and their clock, at explicit times."""
