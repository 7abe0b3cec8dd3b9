"""Micro-benchmarks: `pytest benchmarks/micro`. Figures are compared with the design's budgets and
reported at the end; nothing is asserted about time."""
