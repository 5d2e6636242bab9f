"""Responses that are kept: what of a request and of its answer is, and how a later request continues them.

Facts: OpenAI's reference of the Responses API and the types of its Python SDK 3.52. A response is kept unless the
request says `store: false`. `previous_response_id` stands for everything that was said up to that response, but for its
`instructions`. The input items of a response are all that the model was given, with an id each. An item of the type
`item_reference` stands for one of an earlier answer, which Vercel's AI SDK sends instead of the item itself.

Rules:
- Pure: bytes in, bytes out. Where things are kept is the gateway's matter.
- What a client sent and what it got is kept as it is. Only what items lack is added.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from backends.base import Request
from backends.dialect.members import Members
from backends.framing import sse
from backends.surfaces import foreword
from backends.surfaces.places import wrong

ENDS: Final = (b'"response.completed"', b'"response.incomplete"')
"""What stands in the last event of a stream and in no other: quotes within text are escaped."""
LONGEST: Final = 128
"""Characters of the longest id that is kept."""
_MARK: Final = b'"item_reference"'
_KINDS: Final = frozenset(("response.completed", "response.incomplete"))
_STARTS: Final[Mapping[str, str]] = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}
"""How the ids of items begin, by their types."""


class Wish(msgspec.Struct):
    """What a request says about keeping. A member of another type is left to whoever checks the request."""

    store: Any = None
    background: Any = None
    previous_response_id: Any = None
    input: msgspec.Raw = msgspec.Raw()

    @property
    def is_kept(self) -> bool:
        """Whether the response is to be kept."""
        return self.store is not False

    @property
    def is_later(self) -> bool:
        """Whether the response is to be made in the background. Raises InvalidRequest where that cannot be."""
        if self.background in (None, False):
            return False
        if self.background is not True:
            raise wrong("background", "expected true or false")
        if not self.is_kept:
            raise wrong("store", "a response in the background is kept: leave it out, or make it true")
        return True

    @property
    def refers(self) -> bool:
        """Whether the input may refer to items of earlier answers."""
        return _MARK in bytes(self.input)

    @property
    def previous(self) -> str:
        """The response that is continued; empty if none is."""
        return self.previous_response_id if isinstance(self.previous_response_id, str) else ""


class _Event(msgspec.Struct):
    type: str = ""
    response: msgspec.Raw = msgspec.Raw()


class _Named(msgspec.Struct):
    id: str = ""


class _Reference(msgspec.Struct):
    id: str = ""
    type: Any = None


wish: Final = msgspec.json.Decoder(Wish).decode
_event: Final = msgspec.json.Decoder(_Event)
_named: Final = msgspec.json.Decoder(_Named)
_reference: Final = msgspec.json.Decoder(_Reference)
_items: Final = msgspec.json.Decoder(list[msgspec.Raw])
_any: Final = msgspec.json.Decoder()
_output: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def response_in(data: bytes) -> bytes:
    """Return the response in the events that end a stream, without the gateway's own words; empty if there is none."""
    for block in data.split(b"\n\n"):
        payload = sse.payload(block)
        if payload and any(mark in payload for mark in ENDS):
            found = _event.decode(payload)
            if found.type in _KINDS:
                return foreword.without(bytes(found.response))
    return b""


def id_of(response: bytes) -> str:
    """Return the id of a response; empty if it has none."""
    try:
        return _named.decode(response).id
    except msgspec.MsgspecError:
        return ""


def input_items(said: bytes) -> bytes:
    """Return the input of a request as a JSON array of items that have ids and types. Raises msgspec's errors."""
    found = _any.decode(said) if said else []
    if isinstance(found, str):
        found = [{"type": "message", "role": "user", "content": found}]
    return msgspec.json.encode([_item(item) for item in found] if isinstance(found, list) else [])


def _item(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    kind = item.get("type") or "message"
    made: dict[str, Any] = {"id": f"{_STARTS.get(kind, 'item')}_{secrets.token_hex(16)}", "type": kind}
    if kind == "message":
        made["status"] = "completed"
    made |= {name: value for name, value in item.items() if value is not None}
    text = made.get("content")
    if kind == "message" and isinstance(text, str):
        is_answer = made.get("role") == "assistant"
        part = {"type": "output_text", "text": text, "annotations": []} if is_answer else None
        made["content"] = [part or {"type": "input_text", "text": text}]
    return made


def output_of(response: bytes) -> list[msgspec.Raw]:
    """Return the items that a response holds. Raises msgspec's errors."""
    return _items.decode(_output.decode(response).get("output", b"[]"))


def items_of(response: bytes) -> dict[str, msgspec.Raw]:
    """Return the items that a response holds, by their ids. Raises msgspec's errors."""
    found = {id_of(bytes(item)): item for item in output_of(response)}
    return {name: item for name, item in found.items() if 0 < len(name) <= LONGEST}


def references(said: bytes) -> list[str]:
    """Return the ids of the earlier items that an input refers to, each once."""
    if _MARK not in said or said.lstrip()[:1] != b"[":
        return []
    names = [_referred(bytes(item)) for item in _items.decode(said)]
    return list(dict.fromkeys([name for name in names if name]))


def _referred(item: bytes) -> str:
    """Return the id that an item refers to; empty if it is no reference."""
    if _MARK not in item:
        return ""
    try:
        found = _reference.decode(item)
    except msgspec.ValidationError:
        return ""
    return found.id if found.type == "item_reference" else ""


def resolved(request: Request, found: Mapping[str, msgspec.Raw], before: Sequence[msgspec.Raw]) -> Request:
    """Return a request whose references are the items themselves, without those that were said `before` anyway."""
    members = Members(request.body)
    said = _items.decode(members.get("input") or b"[]")
    earlier = {id_of(bytes(item)) for item in before}
    made: list[msgspec.Raw] = []
    for item in said:
        name = _referred(bytes(item))
        if not name:
            made.append(item)
        elif name not in earlier:
            made.append(found[name])
    members.put("input", msgspec.json.encode(made))
    return msgspec.structs.replace(request, body=members.body())


def conversation(turns: Sequence[tuple[bytes, bytes]]) -> list[msgspec.Raw]:
    """Return all items of responses, the oldest first: each one's own input, and what it answered.

    A turn is the input items and the response, as they were kept. Raises msgspec's errors.
    """
    return [item for said, response in turns for item in (*_items.decode(said), *output_of(response))]


def continued(request: Request, previous: str, before: list[msgspec.Raw]) -> Request:
    """Return a request that continues a response as one that says everything itself; `before` was said earlier."""
    members = Members(request.body)
    said = members.get("input") or b"[]"
    now = _items.decode(said) if said.lstrip()[:1] == b"[" else _items.decode(input_items(said))
    members.put("input", msgspec.json.encode([*before, *now]))
    members.drop("previous_response_id")
    return msgspec.structs.replace(request, body=members.body(), continues=previous)
