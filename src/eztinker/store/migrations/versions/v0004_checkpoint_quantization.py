"""Checkpoints say how the base model under them was held."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add a column."""
    op.add_column(
        "checkpoints", sa.Column("quantization", sa.Text, nullable=False, server_default="none")
    )
