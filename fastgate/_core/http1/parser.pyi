SCANNERS: tuple[str, ...]
