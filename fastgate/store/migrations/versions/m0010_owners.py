"""Which gateway owns a store that prices requests."""

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "owners",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("boot", id_type(32), nullable=False),
        sa.Column("state", id_type(64), nullable=False),
        sa.Column("machine", id_type(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("folder", sa.String(4096), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("born", sa.BigInteger(), nullable=False),
        sa.Column("since", UtcTime(), nullable=False),
        sa.Column("beat", UtcTime()),
        sa.PrimaryKeyConstraint("id", name="pk_owners"),
    )


def downgrade() -> None:
    op.drop_table("owners")
