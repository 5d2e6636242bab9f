"""Complete what engines leave out of the Responses API, which strict clients refuse to read without it.

Facts: the types of OpenAI's Python SDK 3.52 and its reference; llama.cpp b11549 (no numbers, indexes or facts of the
request in its events), Ollama v0.33 and llama.cpp (`completed` where a limit was reached), vLLM 0.32 (a response that
is `incomplete` in an event `response.completed`).

Rules:
- What the engine said stays. A member is added only where it is missing: what the client asked for, else the default of
  OpenAI's API.
- A response with as many tokens as its limit allowed was ended by it: it is `incomplete`, whatever the engine calls it.
  (A chat tells its finish reason, so one that is said as a response is not judged by this.)
- An event that is complete keeps its bytes.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from backends.base import Operation, Request
from backends.dialect import rewrite
from backends.dialect.chunks import fresh_id
from backends.framing import sse

Members = dict[str, Any]

DEFAULTS: Members = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
}
"""Members of a response that repeat the request."""

_IN_A_PART = (
    "response.content_part.",
    "response.output_text.",
    "response.refusal.",
    "response.reasoning_text.",
)
"""The beginnings of the types of events that belong to one part of an item."""
WITH_LOGPROBS = ("response.output_text.delta", "response.output_text.done")
"""The types of events that have log probabilities, at least an empty list of them; LMDeploy 0.18 leaves it out."""
_COMPLETED = "response.completed"
_DETAILS = {
    "input_tokens_details": ("cached_tokens", "cache_write_tokens"),
    "output_tokens_details": ("reasoning_tokens",),
}
"""Counts within `usage` that no client can read a response without."""

_OF_SERVICE = (b'"conversation"', b'"prompt"')
_PREVIOUS = "previous_response_id"

_members = msgspec.json.Decoder(Members)


def names_what_openai_keeps(request: Request) -> bool:
    """Tell whether a request names a conversation or a prompt that OpenAI's service keeps; other servers do not."""
    body = request.body
    if request.operation is not Operation.RESPONSES or not any(mark in body for mark in _OF_SERVICE):
        return False
    members = rewrite.members(body)
    return any(members.get(mark[1:-1].decode(), b"null") != b"null" for mark in _OF_SERVICE)


def asked_of(request: Request) -> Members:
    """Return the members of a request that its response repeats."""
    return repeated(_members.decode(request.body), request)


def repeated(said: Members, request: Request) -> Members:
    """Return the members of a request that its response repeats; `said` is its body, decoded."""
    found = {name: default if said.get(name) is None else said[name] for name, default in DEFAULTS.items()}
    return found | {_PREVIOUS: request.continues} if request.continues else found


def complete(response: Members, asked: Members, model: str) -> None:
    """Add what a response lacks."""
    response.setdefault("created_at", int(time.time()))
    for name, value in {
        "model": model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        **asked,
    }.items():
        response.setdefault(name, value)
    if asked[_PREVIOUS] is not None:
        # The engine was told the conversation, not which response it continues.
        response[_PREVIOUS] = asked[_PREVIOUS]
    complete_items(response["output"])
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return
    for name, counts in _DETAILS.items():
        told = usage.get(name)
        usage[name] = dict.fromkeys(counts, 0) | (told if isinstance(told, dict) else {})


def _complete_from_engine(response: Members, asked: Members, model: str) -> None:
    """Add what an engine's response lacks, and say so where its limit ended it."""
    complete(response, asked, model)
    usage = response.get("usage")
    limit, made = asked["max_output_tokens"], usage.get("output_tokens") if isinstance(usage, dict) else None
    is_limited = type(limit) is int and type(made) is int and 0 < limit <= made
    if response.get("status") == "completed" and is_limited:
        response["status"] = "incomplete"
        response["incomplete_details"] = {"reason": "max_output_tokens"}


def failed(request: Request, identity: str, message: str) -> Members:
    """Return the response of a request whose stream broke off, with the reason.

    `identity` is the id that its events had, empty where there were none. Of the codes that OpenAI's types allow here,
    only one means a server that failed.
    """
    error = {"code": "server_error", "message": message}
    response: Members = {
        "id": identity or fresh_id("resp"),
        "object": "response",
        "status": "failed",
        "error": error,
    }
    complete(response, asked_of(request), request.model)
    return response


def complete_items(items: Any) -> None:
    """Add what items of an answer lack."""
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict):
            # llama.cpp names a call by its `call_id` alone, and refers to it by that.
            item.setdefault("id", item.get("call_id") or fresh_id("item"))
            parts = item.get("content")
            for part in parts if isinstance(parts, list) else ():
                complete_part(part)


def complete_part(part: Any) -> None:
    """Add what a part of a message lacks."""
    if isinstance(part, dict) and part.get("type") == "output_text":
        part.setdefault("annotations", [])
        part.setdefault("logprobs", [])


def whole(request: Request, body: bytes) -> bytes:
    """Return a whole response with what it lacks; `body` itself where it lacks nothing."""
    response = _members.decode(body)
    _complete_from_engine(response, asked_of(request), request.model)
    return body if response == _members.decode(body) else msgspec.json.encode(response)


class Numbering:
    """The events of one stream: gives them their numbers and indexes, and completes what they hold."""

    def __init__(self, request: Request) -> None:
        self._asked = asked_of(request)
        self._model = request.model
        self._places: dict[str, int] = {}
        """The items by id, and their indexes in the answer."""
        self._parts: dict[str, int] = {}
        """How many parts each item has so far."""
        self._nameless: dict[int, str] = {}
        """The ids of items to which the engine gives an empty one, by their indexes."""
        self._latest = -1
        """The index of the item without an id that came last."""

    def completed(self, payload: bytes, number: int) -> bytes:
        """Return an event that is not complete as it should be, `event` line included; `number` is its own."""
        event = _members.decode(payload)
        kind = str(event.get("type"))
        event.setdefault("sequence_number", number)
        response = event.get("response")
        if isinstance(response, dict):
            self._name_all(response.get("output"))
            _complete_from_engine(response, self._asked, self._model)
            if kind == _COMPLETED and response.get("status") == "incomplete":
                kind = event["type"] = "response.incomplete"
        item = event.get("item")
        if isinstance(item, dict):
            if item.get("id") == "":
                item["id"] = self._name(event, begins=kind == "response.output_item.added")
            complete_items([item])
            place = self._places.setdefault(str(item["id"]), len(self._places))
            event.setdefault("output_index", place)
        of = event.get("item_id")
        if of == "":
            of = event["item_id"] = self._name(event)
        if isinstance(of, str):
            event.setdefault("output_index", self._places.get(of, max(0, len(self._places) - 1)))
            self._number_part(event, kind, of)
        return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(event)

    def _name(self, event: Members, *, begins: bool = False) -> str:
        """Return an id for the item of an event that names none: by its index, or else by its order."""
        place = event.get("output_index")
        if type(place) is not int:
            place = self._latest + begins
        self._latest = place
        return self._nameless.setdefault(place, fresh_id("item"))

    def _name_all(self, output: Any) -> None:
        """Give the items of a response the ids that they had in its events."""
        for place, item in enumerate(output if isinstance(output, list) else ()):
            if isinstance(item, dict) and item.get("id") == "":
                item["id"] = self._nameless.get(place) or fresh_id("item")

    def _number_part(self, event: Members, kind: str, item: str) -> None:
        """Say which part of its item an event belongs to."""
        if not kind.startswith(_IN_A_PART):
            return
        count = self._parts.get(item, 0)
        if kind == "response.content_part.added":
            self._parts[item] = count = count + 1
        event.setdefault("content_index", max(0, count - 1))
        complete_part(event.get("part"))
        if kind in WITH_LOGPROBS:
            event.setdefault("logprobs", [])

    def last(self, block: bytes, payload: bytes, number: int) -> bytes:
        """Return the last event of a stream that is numbered: `block` itself where it lacks nothing."""
        event = self.completed(payload, number)
        same = _members.decode(sse.payload(event) or b"") == _members.decode(payload)
        return block if same else event
