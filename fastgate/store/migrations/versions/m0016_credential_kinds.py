"""Credentials of several kinds; tokens that are revoked until they expire."""

import sqlalchemy as sa
from alembic import op

from fastgate.store.columns import UtcTime, id_type

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("credentials") as table:
        table.add_column(sa.Column("kind", sa.String(16), nullable=False, server_default="key"))
        table.add_column(sa.Column("about", sa.Text, nullable=False, server_default="{}"))
    op.create_table(
        "revoked_tokens",
        sa.Column("id", id_type(64), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("whole", sa.LargeBinary(32)),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("revoked_by", sa.String(200), nullable=False),
        sa.Column("created", UtcTime(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revoked_tokens"),
        sa.UniqueConstraint("digest", name="uq_revoked_tokens_digest"),
    )
    op.create_index("ix_revoked_tokens_expires_at", "revoked_tokens", ["expires_at"])
    op.execute("INSERT INTO changes (topic, value) VALUES ('revocations', 0)")


def downgrade() -> None:
    op.execute("DELETE FROM changes WHERE topic = 'revocations'")
    op.drop_table("revoked_tokens")
    op.execute("DELETE FROM credentials WHERE kind <> 'key'")  # they would count as keys
    with op.batch_alter_table("credentials") as table:
        table.drop_column("about")
        table.drop_column("kind")
