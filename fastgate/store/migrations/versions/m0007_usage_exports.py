"""What payment providers have been told of usage."""

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage_exports",
        sa.Column("provider", id_type(56), nullable=False),
        sa.Column("event", id_type(100), nullable=False),
        sa.Column("account", id_type(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("told", sa.BigInteger(), nullable=False),
        sa.Column("sending", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("since", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "event", "account", "day", name="pk_usage_exports"),
    )


def downgrade() -> None:
    op.drop_table("usage_exports")
