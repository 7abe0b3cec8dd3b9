from collections.abc import Sequence

class RecordHeap:
    def table(self, records: list[bytes]) -> int: ...
    def strings(self, texts: list[str]) -> int: ...
    def numbers(self, values: Sequence[int]) -> int: ...
    def ids(self, values: Sequence[int]) -> int: ...
    def string(self, text: str | bytes) -> bytes: ...
    def limit(
        self,
        *,
        identity: int,
        kind: int,
        scope: int,
        amount: int,
        name: str,
        policy: str,
        interval_ns: int = 0,
        tolerance_ns: int = 0,
        window_s: int = 0,
        period: int = 0,
        flags: int = 0,
        headers: int = 0,
        override_key: int = 0,
    ) -> bytes: ...
    def header_rule(self, name: str, value: str, action: int) -> bytes: ...
    def address_rule(self, network: str, allow: bool) -> bytes: ...
    def predicate(self, kind: int, name: str, value: str) -> bytes: ...
    def auth_method(
        self,
        kind: int,
        *,
        flags: int = 0,
        ids: int = 0,
        scopes: int = 0,
        upstream: int = 0xFFFFFFFF,
        timeout_ms: int = 0,
        path: str = "",
        forwarded: int = 0,
        lent: int = 0,
        consumer: str = "",
    ) -> bytes: ...
    def scope_rule(self, methods: int, scopes: int) -> bytes: ...
    def sticky(self, cookie: str, *, attributes: str, secure: int) -> int: ...
    def split(
        self, *, policy: int, row: int, weight: int, tag: int, when: int = 0
    ) -> bytes: ...
    def url_piece(
        self, kind: int, *, text: str = "", param: int = 0, encode: bool = False
    ) -> bytes: ...
    def price_steps(self, steps: list[tuple[int | None, int]]) -> int: ...
