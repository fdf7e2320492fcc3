"""Alembic's entry: applies the numbered versions over the connection that ``database.py`` hands in."""

from alembic import context

from eztinker.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
