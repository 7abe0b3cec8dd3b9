"""Validation of requests against the description of an API.

`load` reads descriptions in the control process and compiles them (source, schemas, operations,
checked); a worker's `validator` uses the result (program) for each request (paths, values, bodies,
faults). Between the two is a line of JSON in the snapshot.
"""
