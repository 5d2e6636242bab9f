"""Read JSON that a token limit has cut: the arguments of a tool call, mostly.

Rules:
- What came before the cut is kept, the beginning of a text too. A key without a value is dropped.
"""

from __future__ import annotations

from typing import Any

import pydantic_core


def readable(text: str) -> Any:
    """Return what JSON says as far as it goes; None where it says nothing."""
    try:
        return pydantic_core.from_json(text, allow_partial="trailing-strings")
    except (ValueError, RecursionError):
        return None
