"""The tables of files and of batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _files() -> None:
    op.create_table(
        "files",
        sa.Column(
            "number", _NUMBER, nullable=False, autoincrement=True, comment="the order in which they came"
        ),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_files"),
    )
    op.create_index("ix_files_id", "files", ["id"], unique=True)
    op.create_index("ix_files_owner_number", "files", ["owner", "number"])
    op.create_index("ix_files_expires", "files", ["expires"])


def _batches() -> None:
    op.create_table(
        "batches",
        sa.Column(
            "number", _NUMBER, nullable=False, autoincrement=True, comment="the order in which they came"
        ),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("input_file", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("in_progress", sa.BigInteger, nullable=True),
        sa.Column("finalizing", sa.BigInteger, nullable=True),
        sa.Column("completed_at", sa.BigInteger, nullable=True),
        sa.Column("failed_at", sa.BigInteger, nullable=True),
        sa.Column("expired", sa.BigInteger, nullable=True),
        sa.Column("cancelling", sa.BigInteger, nullable=True),
        sa.Column("cancelled", sa.BigInteger, nullable=True),
        sa.Column("model", sa.Text, nullable=True),
        sa.Column("metadata", sa.LargeBinary, nullable=True, comment="the client's own, as a JSON object"),
        sa.Column("errors", sa.LargeBinary, nullable=True, comment="mistakes of the input, as OpenAI's JSON"),
        sa.Column("output_file", sa.String(64), nullable=True),
        sa.Column("error_file", sa.String(64), nullable=True),
        sa.Column("output_seconds", sa.BigInteger, nullable=True, comment="after how many its files expire"),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column(
            "last_line", sa.BigInteger, nullable=False, comment="the number of the last request's line"
        ),
        sa.Column("completed", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("lease_owner", sa.String(128), nullable=True, comment="the process that works on it"),
        sa.Column("lease_until", sa.BigInteger, nullable=False, comment="when another one may take it"),
        sa.PrimaryKeyConstraint("number", name="pk_batches"),
    )
    op.create_index("ix_batches_id", "batches", ["id"], unique=True)
    op.create_index("ix_batches_owner_number", "batches", ["owner", "number"])
    op.create_index("ix_batches_status_number", "batches", ["status", "number"])
    op.create_index("ix_batches_input_file", "batches", ["input_file"])


def upgrade() -> None:
    """Make the tables."""
    _files()
    _batches()


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("batches")
    op.drop_table("files")
