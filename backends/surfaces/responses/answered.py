"""A chat completion as a response of OpenAI's Responses API: its items, why it ended, and its counts.

Rules:
- What a response repeats of its request, and the defaults, are those of `backends.dialect.responses`, which completes
  the responses of engines too.
- The words for the end of an answer and the counts are the same for whole answers and streams: both are made here.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from backends.base import Request, Usage
from backends.dialect import partial, responses
from backends.surfaces import chat
from backends.surfaces.responses import included, tools

Members = dict[str, Any]

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Item(NamedTuple):
    """How a call of one kind of tool is told: the beginning of its id, its type, and the member with what is asked."""

    start: str
    type: str
    said: str


_ITEMS: Mapping[str, _Item] = {
    tools.FUNCTION: _Item("fc", "function_call", "arguments"),
    tools.CUSTOM: _Item("ctc", "custom_tool_call", "input"),
    tools.SEARCH: _Item("tsc", "tool_search_call", "arguments"),
}


class Frame:
    """What all forms of one response have in common, whole and in events."""

    def __init__(self, request: Request) -> None:
        said = _decode(request.body)
        self._asked = responses.repeated(said, request)
        self._model = request.model
        self.id = fresh("resp")
        self.created = int(time.time())
        self._tools, _ = tools.offered(said)
        self.included = included.wanted(said)
        """What is told beside the answer."""

    def response(self, status: str, output: list[Any], **more: Any) -> Members:
        """Return the response in a state, with these items."""
        made: Members = {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "output": output,
            **more,
        }
        responses.complete(made, self._asked, self._model)
        return made

    def ended(self, output: list[Any], reason: str | None, usage: Usage) -> Members:
        """Return the response when it is over, for the chat's finish reason."""
        why = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason or "")
        if why is not None:
            return self.response(
                "incomplete", output, incomplete_details={"reason": why}, usage=counts(usage)
            )
        return self.response("completed", output, completed_at=int(time.time()), usage=counts(usage))

    def kept(self, thought: str) -> Members:
        """Return what an item of thoughts has besides, where its client wants to send it back."""
        return {"encrypted_content": included.encoded(thought)} if self.included.thoughts else {}

    def call(self, call_id: str, name: str, arguments: str) -> Members:
        """Return the item of a call that is over, and a new id for it; `name` is that of the chat."""
        tool, kind = self._tools.get(name), self.kind(name)
        start, item_type, said = _ITEMS[kind]
        item: Members = {"id": fresh(start), "type": item_type, "call_id": call_id, "status": "completed"}
        if kind == tools.SEARCH:
            asked = partial.readable(arguments)
            return item | {"execution": "client", said: asked if isinstance(asked, dict) else {}}
        item["name"] = name if tool is None else tool.name
        if tool is not None and tool.namespace:
            item["namespace"] = tool.namespace
        return item | {said: free_text(arguments) if kind == tools.CUSTOM else arguments or "{}"}

    def begun(self, call_id: str, name: str) -> Members:
        """Return the item of a call that begins."""
        item = self.call(call_id, name, "")
        said = _ITEMS[self.kind(name)].said
        return item | {"status": "in_progress", said: type(item[said])()}

    def kind(self, name: str) -> str:
        """Return the type of the tool that the chat calls `name`; a function, if the client offered none."""
        tool = self._tools.get(name)
        return tools.FUNCTION if tool is None else tool.kind


def response(request: Request, answer: bytes, usage: Usage) -> bytes:
    """Return a whole answer. Raise ValueError if it cannot be read."""
    choice = chat.decode(answer).first
    if choice is None or choice.message is None:
        raise ValueError("the answer has no choice")
    said, frame = choice.message, Frame(request)
    output: list[Members] = []
    if said.thought:
        output.append(thinking(fresh("rs"), said.thought) | frame.kept(said.thought))
    logprobs = included.logprobs_of(choice.probabilities) if frame.included.logprobs else []
    if parts := _parts(said, logprobs):
        output.append(message(fresh("msg"), parts))
    for name, call in chat.named(said.tool_calls):
        output.append(frame.call(call.id or fresh("call"), name, chat.arguments_of(call)))
    return msgspec.json.encode(frame.ended(output, choice.finish_reason, usage))


def _parts(said: chat.Said, logprobs: list[Members]) -> list[Members]:
    parts = [text_part(text, logprobs)] if (text := chat.text_of(said.content)) else []
    refusal = chat.text_of(said.refusal)
    return [*parts, {"type": "refusal", "refusal": refusal}] if refusal else parts


def thinking(name: str, text: Any) -> Members:
    """Return the item of what the model thought."""
    parts = [{"type": "reasoning_text", "text": text}]
    return {"id": name, "type": "reasoning", "summary": [], "content": parts, "status": "completed"}


def message(name: str, parts: list[Members]) -> Members:
    """Return the item of what the model said."""
    return {"id": name, "type": "message", "role": "assistant", "status": "completed", "content": parts}


def text_part(text: Any, logprobs: list[Members]) -> Members:
    """Return the part of a message that is text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def free_text(arguments: str) -> str:
    """Return the input of a custom tool out of the arguments of its function; a limit may have cut them."""
    said = partial.readable(arguments)
    found = said.get(tools.INPUT) if isinstance(said, dict) else None
    return found if isinstance(found, str) else arguments


def counts(usage: Usage) -> Members:
    """Return `usage`."""
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached or 0},
        "output_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
    }


def fresh(kind: str) -> str:
    """Return a unique id that starts with `kind`, as OpenAI's do."""
    return f"{kind}_{secrets.token_hex(16)}"
