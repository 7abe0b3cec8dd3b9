"""Memory shared by all processes: the segment, and what is counted and limited in it.

Each word has one writer, or is changed by one atomic operation; there are no locks. Money is in
`money`.
"""
