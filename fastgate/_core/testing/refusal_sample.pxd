"""refusal_sample: refusals without a connection (see refusal_sample.pyx)."""
