"""Lines of usage as differences, 22 octets in place of 52; `cursors`, which nothing read, goes."""

import struct
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

LINE = struct.Struct("<QqqQ16sHH")  # number, time_us, amount, units, request, status, flags
WORD = (1 << 64) - 1
ID = 16  # octets of a request's id
BLOCKS = 10  # read at once; one has up to 32,768 lines


def upgrade() -> None:
    _rewrite(differences)
    op.drop_table("cursors")


def downgrade() -> None:
    op.create_table(
        "cursors",
        sa.Column("boot", id_type(32), nullable=False),
        sa.Column("worker", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("boot", "worker", name="pk_cursors"),
    )
    _rewrite(fixed)


def _rewrite(change: Callable[[bytes], bytes]) -> None:
    blocks = sa.Table("usage_blocks", sa.MetaData(), autoload_with=op.get_bind())
    query = sa.select(blocks.c.low, blocks.c.lines).order_by(blocks.c.low).limit(BLOCKS)
    put = (
        sa.update(blocks)
        .where(blocks.c.low == sa.bindparam("of"))
        .values(lines=sa.bindparam("changed"))
    )
    last = ""
    while rows := op.get_bind().execute(query.where(blocks.c.low > last)).all():
        op.get_bind().execute(put, [{"of": low, "changed": change(lines)} for low, lines in rows])
        last = rows[-1].low


def differences(lines: bytes) -> bytes:
    """Lines of 52 octets as they are from now on."""
    packed = bytearray()
    before = [0] * 5
    for number, time_us, amount, units, request, status, flags in LINE.iter_unpack(lines):
        now = [number, time_us & WORD, amount & WORD, units, status << 16 | flags]
        for value, last in zip(now, before, strict=True):
            packed += _octets(value - last & WORD)
        packed += request
        before = now
    return bytes(packed)


def _octets(difference: int) -> bytes:
    left = (difference << 1 & WORD) ^ (WORD if difference >> 63 else 0)
    packed = bytearray()
    while left >= 0x80:
        packed.append(left & 0x7F | 0x80)
        left >>= 7
    packed.append(left)
    return bytes(packed)


def fixed(lines: bytes) -> bytes:
    """The same lines of 52 octets each."""
    return b"".join(LINE.pack(*line) for line in _lines(lines))


def _lines(packed: bytes) -> Iterator[tuple[int, int, int, int, bytes, int, int]]:
    at, now = 0, [0] * 5
    while at < len(packed):
        for place in range(5):
            found = shift = 0
            while True:
                octet = packed[at]
                at += 1
                found |= (octet & 0x7F) << shift
                shift += 7
                if octet < 0x80:
                    break
            now[place] = now[place] + (found >> 1 ^ -(found & 1)) & WORD
        number, time_us, amount, units, marks = now
        request = packed[at : at + ID]
        at += ID
        yield number, _signed(time_us), _signed(amount), units, request, marks >> 16, marks & 0xFFFF


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
