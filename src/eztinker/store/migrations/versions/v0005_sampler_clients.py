"""Samplers count the clients that have joined them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the count."""
    op.add_column(
        "samplers", sa.Column("num_joined", sa.Integer, nullable=False, server_default="0")
    )
