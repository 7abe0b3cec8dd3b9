"""Usage by meter, and the sums of usage records that are no longer kept."""

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KEY = ("day", "account", "consumer", "credential", "route", "service", "plan", "currency")
SUMS = ("requests", "failed", "units", "amount")


def _daily(*, meter: bool) -> None:
    """The days' sums with another primary key. SQLite can only make the table anew."""
    key = [*KEY, "meter"] if meter else list(KEY)
    if op.get_bind().dialect.name == "postgresql":
        if meter:
            op.add_column(
                "usage_daily", sa.Column("meter", id_type(), nullable=False, server_default="")
            )
        op.drop_constraint("pk_usage_daily", "usage_daily", type_="primary")
        if not meter:
            op.drop_column("usage_daily", "meter")
        op.create_primary_key("pk_usage_daily", "usage_daily", key)
        return
    lengths = {"route": 96, "service": 96, "plan": 96}
    columns: list[sa.Column[object]] = [sa.Column("day", sa.Date(), nullable=False)]
    columns += [
        sa.Column(name, id_type(lengths.get(name, 64)), nullable=False) for name in KEY[1:7]
    ]
    columns.append(sa.Column("currency", sa.String(3), nullable=False))
    if meter:
        columns.append(sa.Column("meter", id_type(), nullable=False, server_default=""))
    columns += [sa.Column(name, sa.BigInteger(), nullable=False) for name in SUMS]
    op.create_table(
        "usage_daily_new", *columns, sa.PrimaryKeyConstraint(*key, name="pk_usage_daily")
    )
    kept = ", ".join((*KEY, *SUMS))
    op.execute(f"INSERT INTO usage_daily_new ({kept}) SELECT {kept} FROM usage_daily")
    op.drop_table("usage_daily")
    op.rename_table("usage_daily_new", "usage_daily")


def upgrade() -> None:
    op.add_column("usage_records", sa.Column("meter", id_type(), nullable=False, server_default=""))
    _daily(meter=True)
    op.create_table(
        "usage_pruned",
        sa.Column("account", id_type(), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("upto", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("account", "currency", name="pk_usage_pruned"),
    )


def downgrade() -> None:
    """What was used of meters is lost with them."""
    op.drop_table("usage_pruned")
    op.execute("DELETE FROM usage_daily WHERE meter <> ''")
    op.execute("DELETE FROM usage_records WHERE meter <> ''")
    _daily(meter=False)
    op.drop_column("usage_records", "meter")
