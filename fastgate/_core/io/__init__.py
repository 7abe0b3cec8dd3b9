"""Connections as the kernel knows them: events, deadlines, bytes in and bytes out.

Only this folder reads, writes or closes a socket's descriptor. What the bytes mean does not
belong here.
"""
