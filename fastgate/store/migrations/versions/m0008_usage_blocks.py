"""Usage in blocks of records that are alike, in place of a row for each record."""

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

DIMENSIONS = ("account", "consumer", "credential", "route", "service", "plan", "currency", "meter")
LINE = struct.Struct("<QqqQ16sHH")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000
MOST = 4096  # records of a block
ROWS = 200  # inserted at once


def _dimensions() -> list[sa.Column[Any]]:
    lengths = {"route": 96, "service": 96, "plan": 96}
    return [
        sa.Column(
            name,
            sa.String(3) if name == "currency" else id_type(lengths.get(name, 64)),
            nullable=False,
        )
        for name in DIMENSIONS
    ]


def _numbers(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in names]


def _make_blocks() -> sa.Table:
    table = op.create_table(
        "usage_blocks",
        sa.Column("low", id_type(32), nullable=False),
        sa.Column("high", id_type(32), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        *_numbers("first_us", "last_us"),
        *_dimensions(),
        *_numbers("records", "failed", "recovered", "units", "amount"),
        sa.Column("lines", sa.LargeBinary(), nullable=False),
        sa.Column("entry", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("low", name="pk_usage_blocks"),
    )
    op.create_index("ix_usage_blocks_high", "usage_blocks", ["high"])
    op.create_index("ix_usage_blocks_account", "usage_blocks", ["account", "last_us"])
    return table


def _make_records() -> sa.Table:
    table = op.create_table(
        "usage_records",
        sa.Column("id", id_type(32), nullable=False),
        sa.Column("time", UtcTime(), nullable=False),
        *_dimensions()[:-1],
        *_numbers("amount", "units"),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("request", id_type(32), nullable=False),
        sa.Column("flags", sa.Integer(), nullable=False),
        sa.Column("entry", sa.BigInteger(), nullable=True),
        sa.Column("meter", id_type(), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("id", name="pk_usage_records"),
    )
    op.create_index("ix_usage_records_account", "usage_records", ["account", "time"])
    return table


def upgrade() -> None:
    records = sa.Table("usage_records", sa.MetaData(), autoload_with=op.get_bind())
    records.c.time.type = UtcTime()
    blocks = _make_blocks()
    alike = [records.c[name] for name in (*DIMENSIONS, "entry")]
    area = sa.func.substr(records.c.id, 1, 18)
    query = sa.select(records).order_by(*alike, area, records.c.time, records.c.id)
    _fill(blocks, _packed(op.get_bind().execute(query).mappings()))
    op.drop_table("usage_records")


def downgrade() -> None:
    blocks = sa.Table("usage_blocks", sa.MetaData(), autoload_with=op.get_bind())
    records = _make_records()
    _fill(records, _unpacked(op.get_bind().execute(sa.select(blocks)).mappings()))
    op.drop_table("usage_blocks")


def _fill(table: sa.Table, rows: Iterator[dict[str, Any]]) -> None:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS:
            op.get_bind().execute(sa.insert(table), batch)
            batch = []
    if batch:
        op.get_bind().execute(sa.insert(table), batch)


def _time_us(row: Any) -> int:
    return int((row["time"] - EPOCH) // timedelta(microseconds=1))


def _packed(rows: Any) -> Iterator[dict[str, Any]]:
    def alike(row: Any) -> tuple[Any, ...]:
        dimensions = (row[name] for name in (*DIMENSIONS, "entry"))
        return (row["id"][:18], _time_us(row) // DAY_US, *dimensions)

    for _, group in groupby(rows, alike):
        members = list(group)
        for start in range(0, len(members), MOST):
            yield _block(members[start : start + MOST])


def _block(rows: Sequence[Any]) -> dict[str, Any]:
    like = rows[0]
    ids = [row["id"] for row in rows]
    times = [_time_us(row) for row in rows]
    return {
        "low": min(ids),
        "high": max(ids),
        "day": times[0] // DAY_US,
        "first_us": min(times),
        "last_us": max(times),
        **{name: like[name] for name in DIMENSIONS},
        "records": len(rows),
        "failed": 0 if like["meter"] else sum(row["status"] >= 500 for row in rows),
        "recovered": sum(row["flags"] & 8 != 0 for row in rows),
        "units": sum(row["units"] for row in rows),
        "amount": sum(row["amount"] for row in rows),
        "lines": b"".join(
            LINE.pack(
                int(row["id"][16:], 16),
                time_us,
                row["amount"],
                row["units"],
                bytes.fromhex(row["request"]),
                row["status"],
                row["flags"],
            )
            for row, time_us in zip(rows, times, strict=True)
        ),
        "entry": like["entry"],
    }


def _unpacked(blocks: Any) -> Iterator[dict[str, Any]]:
    for block in blocks:
        for number, time_us, amount, units, request, status, flags in LINE.iter_unpack(
            block["lines"]
        ):
            yield {
                "id": f"{block['low'][:16]}{number:016x}",
                "time": EPOCH + timedelta(microseconds=time_us),
                **{name: block[name] for name in DIMENSIONS},
                "amount": amount,
                "units": units,
                "status": status,
                "request": request.hex(),
                "flags": flags,
                # What cost nothing in a block that was charged for has no entry of its own.
                "entry": block["entry"] if amount else None,
            }
