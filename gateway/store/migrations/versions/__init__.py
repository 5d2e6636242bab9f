"""The changes of the tables, each after the one that it names in `down_revision`."""
