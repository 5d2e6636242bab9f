"""How the tables of the store came to be: one file below `versions/` for each change, which Alembic runs."""
