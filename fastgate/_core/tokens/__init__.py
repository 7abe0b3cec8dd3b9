"""Tokens: JSON Web Tokens as the core verifies them (RFC 7515, 7518, 7519).

What belongs here: the strict reading of a token, its signature, its claims, and the verdicts that
are remembered. What a request is then allowed to do is decided in `exchange`.
"""
