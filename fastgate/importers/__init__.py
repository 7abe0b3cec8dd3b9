"""Importers: documents of other gateways, and OpenAPI, as FastGate documents.

`source` reads a file, `draft` collects and checks the result, `report` has what could not be
expressed, `rules` has what several formats have in common. There is one module for each format.
"""
