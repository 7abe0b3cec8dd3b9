"""A spending limit of 0 is one: nothing may be spent. What lifts the configured one is -1 now."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.text("UPDATE spending_limits SET amount = -1 WHERE amount = 0"))


def downgrade() -> None:
    op.execute(sa.text("UPDATE spending_limits SET amount = 0 WHERE amount = -1"))
