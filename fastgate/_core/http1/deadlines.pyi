ROWS: list[tuple[str, str, str, str, str, str]]
