"""phrases: the phrases of phrases.pxd, for Python."""

PHRASES = {status: phrase_of(status).decode() for status in range(100, 600) if phrase_of(status)[0]}
