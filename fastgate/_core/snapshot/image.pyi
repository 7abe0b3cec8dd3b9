from collections.abc import Iterable, Sequence

NONE: int

class ImageBuilder:
    def table(self, records: list[bytes]) -> int: ...
    def strings(self, texts: list[str]) -> int: ...
    def numbers(self, values: Sequence[int]) -> int: ...
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
    def url_piece(
        self, kind: int, *, text: str = "", param: int = 0, encode: bool = False
    ) -> bytes: ...
    def add_route(
        self,
        name: str,
        *,
        slot: int,
        methods: int = 0,
        body_cap: int = 0,
        service: int = ...,
        handler: int = ...,
        static_response: int = ...,
        auth: int = ...,
        cors: int = ...,
        flags: int = 0,
        priority: int = 0,
        strip: int = 0,
        timeout_ms: int = 0,
        idle_ms: int = 0,
        replace: str = "",
        tokens: int = 0,
        limits: int = 0,
        addresses: int = 0,
        predicates: int = 0,
        request_rules: int = 0,
        response_rules: int = 0,
        notice: str = "",
        price_micros: int = 0,
        price_currency: str = "",
        pattern: str = "",
        params: int = 0,
        payment_required: str = "",
        host: str = "",
        rewrite: int = 0,
    ) -> int: ...
    def add_service(
        self,
        name: str,
        *,
        slot: int,
        upstream: int,
        first_byte_ms: int,
        idle_ms: int,
        attempts: int = 1,
        retry_budget: int = 0,
        retry_statuses: Iterable[int] = (),
        limits: int = 0,
        plans: int = 0,
        flags: int = 0,
    ) -> int: ...
    def add_upstream(
        self,
        name: str,
        *,
        slot: int,
        balance: int = 0,
        hash_by: int = 0,
        hash_header: str = "",
        connect_ms: int = 0,
        write_ms: int = 0,
        keepalive_idle_ms: int = 0,
        keepalive_max: int = 0,
        max_connections: int = 0,
        eject_after: int = 0,
        eject_within_ms: int = 0,
        eject_ms: int = 0,
        eject_statuses: Iterable[int] = (),
        flags: int = 0,
    ) -> int: ...
    def add_target(
        self,
        name: str,
        *,
        identity: int,
        slot: int,
        sockaddr: bytes,
        authority: str,
        weight: int = 1,
        path: str = "",
    ) -> int: ...
    def price_steps(self, steps: list[tuple[int | None, int]]) -> int: ...
    def add_plan(
        self,
        name: str,
        *,
        slot: int,
        limits: int = 0,
        flags: int = 0,
        prices: int = 0,
        price_currency: str = "",
        price_period: int = 0,
    ) -> None: ...
    def add_handler(self, name: str) -> int: ...
    def add_auth(
        self, *, flags: int, header: str = "", query: str = "", challenge: str = ""
    ) -> int: ...
    def add_cors(
        self,
        *,
        origins: int,
        allow_methods: str,
        allow_headers: str,
        expose_headers: str,
        max_age: int,
        flags: int,
    ) -> int: ...
    def add_static(self, *, fields: bytes, body: bytes, status: int, location: int = 0) -> int: ...
    def set_refusal(
        self,
        reason: int,
        *,
        fields: bytes,
        body: bytes,
        status: int,
        close: bool,
        html: tuple[bytes, bytes] = ...,
        markdown: tuple[bytes, bytes] = ...,
    ) -> None: ...
    def set_capability_key(self, key: bytes) -> None: ...
    def set_faults(self, texts: list[str]) -> None: ...
    def set_router(self, blob: bytes) -> None: ...
    def set_settings(
        self,
        *,
        identity: int,
        via: str,
        server: str,
        trusted_proxies: int = 0,
        max_line: int = 0,
        max_head: int = 0,
        max_fields: int = 0,
        max_field: int = 0,
        head_ms: int = 0,
        body_ms: int = 0,
        idle_ms: int = 0,
        write_ms: int = 0,
        min_rate: int = 0,
        max_requests: int = 0,
        max_connections: int = 0,
        max_upcalls: int = 0,
        max_streams: int = 0,
        underscores: int = 0,
        loop_max: int = 0,
        flags: int = 0,
        hidden_params: Iterable[str] = (),
    ) -> None: ...
    def finish(self, generation: int) -> int: ...
