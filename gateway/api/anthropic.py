"""The model list in Anthropic's shape, whole or page by page.

Rules:
- The members are those of `ModelInfo` in Anthropic's SDK, all of them; what is not known is null.
- A page holds `limit` models, 20 where the client does not say, behind `after_id` or before `before_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.api.cards import CREATED
from gateway.errors import GatewayError, Own
from gateway.routing.catalog import Listed

_CREATED: Final = datetime.fromtimestamp(CREATED, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
_USUAL, _MOST = 20, 1000
"""How many models a page has, and may have."""


def info(entry: Listed) -> dict[str, Any]:
    """Return the entry of a model."""
    return {
        "type": "model",
        "id": entry.name,
        "display_name": entry.name,
        "created_at": _CREATED,
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "capabilities": None,
        "max_input_tokens": entry.group.context,
        "max_tokens": None,
    }


def page(listed: Sequence[Listed], query: Mapping[str, str]) -> bytes:
    """Return the page of the list that a query asks for. Raise GatewayError where it is wrong."""
    names = [entry.name for entry in listed]
    limit = _limit(query)
    if "before_id" in query:
        last = _place(names, query, "before_id")
        first = max(0, last - limit)
        more = first > 0
    else:
        first = _place(names, query, "after_id") + 1 if "after_id" in query else 0
        last = min(first + limit, len(names))
        more = last < len(names)
    found = [info(entry) for entry in listed[first:last]]
    ends = {"first_id": found[0]["id"], "last_id": found[-1]["id"]} if found else dict.fromkeys(_ENDS)
    return msgspec.json.encode({"data": found, "has_more": more, **ends})


_ENDS: Final = ("first_id", "last_id")


def _limit(query: Mapping[str, str]) -> int:
    said = query.get("limit", str(_USUAL))
    # Not every digit of the world's scripts, and no number that takes long to read.
    if not (said.isascii() and said.isdigit() and len(said) <= len(str(_MOST)) and 1 <= int(said) <= _MOST):
        message = f"'limit' must be a whole number from 1 to {_MOST}"
        raise GatewayError(Own.INVALID, message, param="limit")
    return int(said)


def _place(names: list[str], query: Mapping[str, str], param: str) -> int:
    """Return where the model stands that `param` names."""
    try:
        return names.index(query[param])
    except ValueError:
        raise GatewayError(Own.INVALID, f"'{param}' names no model of the list", param=param) from None
