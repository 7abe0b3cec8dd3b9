"""load_sample: the measure of a loop's lag, driven by hand."""
