"""What every version of HTTP has in common: the fields of a head, targets and paths.

How a version puts a message on the wire does not belong here.
"""
