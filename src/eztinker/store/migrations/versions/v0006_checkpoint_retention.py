"""Checkpoints may be pinned and have a score."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add two columns."""
    op.add_column(
        "checkpoints", sa.Column("is_pinned", sa.Boolean, nullable=False, server_default="0")
    )
    op.add_column("checkpoints", sa.Column("score", sa.Float))
