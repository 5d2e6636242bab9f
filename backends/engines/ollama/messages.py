"""Translate OpenAI's chat messages to Ollama's: parts to text and images, tool calls and their results.

Rules:
- A message stays one message. Its texts are joined by line feeds; its images are listed beside them in order.
- Images must be in the request, as base64. An image given by URL is refused: the gateway downloads nothing.
- A tool's result names the tool: by `name`, or else by the last earlier call with the same id.
- Ollama reads the arguments of a call as an object. Of arguments that are none, what can be read is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from backends.base import Failure, Kind, RequestError
from backends.dialect.edits import arguments_object

Members = dict[str, Any]

ROLES = {"developer": "system", "function": "tool"}
"""Roles that have another name in Ollama."""

_DATA_URL = re.compile(r"data:(?:image/[\w.+-]+)?(?:;[\w=-]+)*;base64,", re.ASCII | re.IGNORECASE)


class _Url(msgspec.Struct):
    url: str


class Part(msgspec.Struct):
    """A piece of a message's content."""

    type: str
    text: str = ""
    refusal: str = ""
    image_url: _Url | str = ""


class Function(msgspec.Struct):
    """The function of a call; its arguments are the text of a JSON object."""

    name: str
    arguments: str | Members | None = None


class ToolCall(msgspec.Struct):
    """A call that the model made in an earlier turn."""

    function: Function
    id: str | None = None


class Message(msgspec.Struct):
    """A chat message as OpenAI's clients write it."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None


NOT_FORCED = (
    "it does not hear 'tool_choice' and leaves it to the model whether to call a tool. Ask with 'auto' and offer only "
    "the tool that is to be called, or give the model a target behind another engine: such requests go there"
)
"""Why a tool is refused that must be called, and how to go on."""


def refusal(param: str, why: str, kind: Kind = Kind.UNSUPPORTED) -> RequestError:
    """Return the error for a member that Ollama cannot honour; `why` continues "Ollama cannot do this: "."""
    message = f"Ollama cannot do this: {why}" if kind is Kind.UNSUPPORTED else why
    return RequestError(Failure(kind, message, param=param))


def native_messages(messages: Sequence[Message]) -> list[Members]:
    """Return the messages for Ollama. Raise RequestError for content it cannot accept."""
    names: dict[str | None, str] = {}
    return [_native(message, f"messages[{place}]", names) for place, message in enumerate(messages)]


def _native(message: Message, where: str, names: dict[str | None, str]) -> Members:
    """Return one message; `names` holds the tools called so far by call id, and is extended."""
    native: Members = {"role": ROLES.get(message.role, message.role), "content": message.content or ""}
    if isinstance(message.content, list):
        native["content"] = "\n".join(_texts(message.content, where))
        images = list(_images(message.content, where))
        if images:
            native["images"] = images
    thoughts = message.reasoning_content or message.reasoning
    if isinstance(thoughts, str) and thoughts:
        native["thinking"] = thoughts
    if message.tool_calls:
        native["tool_calls"] = [_call(call) for call in message.tool_calls]
        names.update((call.id, call.function.name) for call in message.tool_calls)
    if native["role"] == "tool":
        name = message.name or names.get(message.tool_call_id)
        if name is not None:
            native["tool_name"] = name
        if message.tool_call_id is not None:
            native["tool_call_id"] = message.tool_call_id
    return native


def _texts(parts: Sequence[Part], where: str) -> Iterator[str]:
    """Yield the texts of a message's parts. Raise RequestError for a part that is neither text nor an image."""
    for place, part in enumerate(parts):
        if part.type in ("text", "refusal"):
            yield part.text or part.refusal
        elif part.type != "image_url":
            raise refusal(f"{where}.content[{place}]", f"it takes text and images, no {part.type!r}")


def _images(parts: Sequence[Part], where: str) -> Iterator[str]:
    """Yield the base64 text of each image. Raise RequestError for an image that is not in the request."""
    for place, part in enumerate(parts):
        if part.type != "image_url":
            continue
        url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
        param = f"{where}.content[{place}].image_url"
        if url[:5].lower() != "data:":
            raise refusal(param, "it fetches no images: send them as data URLs, 'data:image/png;base64,...'")
        head = _DATA_URL.match(url)
        if head is None:
            raise refusal(param, "the data URL is not that of an image in base64", Kind.REJECTED)
        yield url[head.end() :]


def _call(call: ToolCall) -> Members:
    """Return a tool call for Ollama."""
    said = call.function.arguments
    arguments = msgspec.Raw(arguments_object(said)) if isinstance(said, str) else said or {}
    native: Members = {"function": {"name": call.function.name, "arguments": arguments}}
    return native if call.id is None else {"id": call.id, **native}
