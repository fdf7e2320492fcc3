"""Sessions and samplers of the Tinker wire; checkpoints that expire, are public, carry metadata."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create two tables and add three columns."""
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("created_at_s", sa.Float, nullable=False),
        sa.Column("tags_json", sa.Text, nullable=False),
        sa.Column("user_metadata_json", sa.Text, nullable=False),
        sa.Column("display_name", sa.Text),
        sa.Column("project_id", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
    )
    op.create_table(
        "samplers",
        sa.Column("sampler_id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("created_at_s", sa.Float, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("checkpoint", sa.Text),
    )
    op.create_index("ix_samplers_session", "samplers", ["session_id"])
    op.add_column("checkpoints", sa.Column("expires_at_s", sa.Float))
    op.add_column(
        "checkpoints", sa.Column("is_public", sa.Boolean, nullable=False, server_default="0")
    )
    op.add_column(
        "checkpoints",
        sa.Column("user_metadata_json", sa.Text, nullable=False, server_default="{}"),
    )
