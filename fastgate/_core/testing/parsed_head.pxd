"""parsed_head: heads parsed for Python, in pieces or whole."""
