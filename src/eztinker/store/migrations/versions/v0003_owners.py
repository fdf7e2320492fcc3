"""Owners of runs, jobs, checkpoints, sessions and samplers; keys."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Give everything that exists to the local owner, and create the table of keys."""
    for table in ("runs", "jobs", "checkpoints", "sessions", "samplers"):
        op.add_column(table, sa.Column("owner", sa.Text, nullable=False, server_default="local"))
    op.create_index("ix_jobs_owner", "jobs", ["owner", "number"])
    op.create_table(
        "keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("created_at_s", sa.Float, nullable=False),
        sa.Column("expires_at_s", sa.Float),
        sa.Column("revoked_at_s", sa.Float),
    )
