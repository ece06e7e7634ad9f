"""Runs the migrations on the connection that :func:`pneumoscope_clinic.store.database.upgrade` gives."""

from alembic import context

from pneumoscope_clinic.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
