from typing import final

STATES: tuple[str, ...]

@final
class WorkerRow:
    segment: Segment
    index: int
    pid: int
    generation: int
    heartbeat_ns: int
    connections: int
    in_flight: int
    upstream_idle: int
    upcalls: int
    streams: int
    load_permille: int
    starts: int
    state: int
    credentials_epoch: int
    @property
    def state_name(self) -> str: ...

@final
class TargetRow:
    segment: Segment
    slot: int
    health: int
    failures: int
    ejected_until_ns: int
    started_ns: int
    @property
    def identity(self) -> int: ...
    @property
    def ejections(self) -> int: ...
    @property
    def ejected(self) -> int: ...
    def claim(self, identity: int) -> None: ...

class Segment:
    generation: int
    draining: int
    @classmethod
    def create(
        cls,
        workers: int,
        *,
        limiter_cells: int = 262144,
        quota_cells: int = 131072,
        targets: int = 4096,
        route_rows: int = 1024,
        concurrency_cells: int = 4096,
        log_records: int = 4096,
        accounts: int = 65536,
    ) -> Segment: ...
    @classmethod
    def attach(cls, fd: int) -> Segment: ...
    def private_copy(self) -> Segment: ...
    @property
    def fd(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def workers(self) -> int: ...
    @property
    def boot_id(self) -> str: ...
    @property
    def limiter_cells(self) -> int: ...
    @property
    def quota_cells(self) -> int: ...
    @property
    def targets(self) -> int: ...
    @property
    def route_rows(self) -> int: ...
    @property
    def concurrency_cells(self) -> int: ...
    @property
    def log_records(self) -> int: ...
    @property
    def accounts(self) -> int: ...
    @property
    def layout(self) -> dict[str, int]: ...
    def worker_row(self, index: int) -> WorkerRow: ...
    def target_row(self, slot: int) -> TargetRow: ...
    def worker_started(self, index: int, pid: int) -> None: ...
    def worker_stopped(self, index: int) -> None: ...
    def clear_worker(self, index: int) -> None: ...
    def heartbeat_age(self, index: int) -> float | None: ...
