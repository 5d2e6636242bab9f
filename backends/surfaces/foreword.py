"""The gateway's own words in a stream before the model's: that its engine is being started.

Rules:
- They are said as the model's thoughts are, the only place where chat clients show something that is no answer.
- Where the client's dialect has marks for it, they are marked, so that they are known again when a client sends them
  back, or when a response is kept: they are no part of the conversation.
- Their events have no id, as the first ones of Azure's streams: clients that compare the ids of one stream take the
  engine's for all of it. They name no role either, since some clients join those of all events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

SIGNATURE: Final = "gateway-loading"
"""The signature of a thinking block of Anthropic's API that holds them."""
ITEM: Final = "rs_loading"
"""How the id of a reasoning item of the Responses API begins that holds them."""

_items: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_output: Final = msgspec.json.Decoder(list[msgspec.Raw])


class _Named(msgspec.Struct):
    id: Any = None


_named: Final = msgspec.json.Decoder(_Named)


def payload(words: str, model: str, created: int) -> bytes:
    """Return an event of a chat's stream, as OpenAI's API has it with the reasoning that engines tell."""
    choice = {"index": 0, "delta": {"reasoning_content": words}, "finish_reason": None}
    made = {
        "id": "",
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [choice],
    }
    return msgspec.json.encode(made)


def is_item(item: Mapping[str, Any]) -> bool:
    """Tell whether an item of the Responses API holds such words."""
    name = item.get("id")
    return isinstance(name, str) and name.startswith(ITEM)


def without(response: bytes) -> bytes:
    """Return a response without the items that hold such words. Raises msgspec's errors."""
    if ITEM.encode() not in response:
        return response
    members = _items.decode(response)
    output = _output.decode(members.get("output", b"[]"))
    left = [item for item in output if not is_item({"id": _named.decode(item).id})]
    return msgspec.json.encode({**members, "output": left})
