"""Spending limits of single accounts, consumers and keys."""

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "spending_limits",
        sa.Column("kind", id_type(12), nullable=False),
        sa.Column("subject", id_type(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("updated", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "subject", name="pk_spending_limits"),
    )


def downgrade() -> None:
    op.drop_table("spending_limits")
