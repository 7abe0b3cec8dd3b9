"""token_sample: tokens read, checked and remembered outside of an engine."""
