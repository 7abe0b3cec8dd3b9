from typing import NamedTuple

class Decision(NamedTuple):
    allowed: bool
    remaining: int
    used: int
    reset_s: int
    retry_s: int
    resets_at: int

def limit_key_py(
    identity: int,
    *,
    address: int = 0,
    route: int = 0,
    consumer: int = 0,
    plan: int = 0,
    service: int = 0,
    credential: int = 0,
) -> int: ...
