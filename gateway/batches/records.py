"""What is kept of files and batches, and what clients are told of them: OpenAI's objects. Pure.

Rules:
- Times are whole seconds since the epoch. `owner` is the name of the key that made something, `anyone` without keys.
- What has a status and a time for it in OpenAI's object has its time set once, when the status is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

PURPOSES: Final = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
"""What clients may upload files for."""
OUTPUT: Final = "batch_output"
"""The purpose of the files that batches write."""
STATUSES: Final = (
    *("validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"),
)
"""Every status of a batch."""
OPEN: Final = ("validating", "in_progress", "finalizing", "cancelling")
"""Those of batches that somebody works on, or will."""
WINDOW: Final = "24h"
WINDOW_SECONDS: Final = 86_400
SHORTEST, LONGEST = 3600, 2_592_000
"""Seconds after which a file may be told to expire: an hour to thirty days."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file. `expires` is None for one that stays."""

    id: str
    owner: str
    purpose: str
    filename: str
    bytes: int
    created: int
    expires: int | None

    def shown(self) -> dict[str, Any]:
        """Return it as clients see it."""
        found = {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }
        return found if self.expires is None else found | {"expires_at": self.expires}


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch, and who works on it. `metadata`, `errors` and `usage` are JSON; times are None before they come."""

    id: str
    owner: str
    endpoint: str
    input_file: str
    status: str
    created: int
    expires: int
    in_progress: int | None = None
    finalizing: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired: int | None = None
    cancelling: int | None = None
    cancelled: int | None = None
    model: str | None = None
    metadata: bytes | None = None
    errors: bytes | None = None
    output_file: str | None = None
    error_file: str | None = None
    output_seconds: int | None = None
    """Seconds after which the files it writes expire; None: they stay."""
    total: int = 0
    last_line: int = 0
    completed: int = 0
    failed: int = 0
    lease_owner: str | None = None
    lease_until: int = 0
    usage: bytes | None = None
    """The tokens of the answers so far, as JSON; None before the first look at them."""

    @property
    def name(self) -> str:
        """Its id without what all have in common, for the ids of its lines."""
        return self.id.removeprefix("batch_")

    @property
    def ends_as(self) -> str:
        """The status it ends with once its files are whole: from `finalizing` it is what it was about to be."""
        if self.cancelling is not None:
            return "cancelled"
        return "expired" if self.expired is not None else "completed"

    def shown(self) -> dict[str, Any]:
        """Return it as clients see it."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": None if self.errors is None else msgspec.Raw(self.errors),
            "input_file_id": self.input_file,
            "completion_window": WINDOW,
            "status": self.status,
            "output_file_id": self.output_file,
            "error_file_id": self.error_file,
            "created_at": self.created,
            "in_progress_at": self.in_progress,
            "expires_at": self.expires,
            "finalizing_at": self.finalizing,
            "completed_at": self.completed_at,
            "failed_at": self.failed_at,
            "expired_at": self.expired if self.status == "expired" else None,
            "cancelling_at": self.cancelling,
            "cancelled_at": self.cancelled,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": None if self.metadata is None else msgspec.Raw(self.metadata),
            **({} if self.usage is None else {"usage": msgspec.Raw(self.usage)}),
        }


def outputs_of(id: str) -> tuple[str, str]:
    """Return the ids of the output and of the error file of a batch."""
    name = id.removeprefix("batch_")
    return f"file-{name}-output", f"file-{name}-error"
