"""What Alembic runs to migrate: on the connection, and in the transaction, that `gateway.store.schema` has begun."""

from __future__ import annotations

from alembic import context

from gateway.store.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
