"""The messages of Ollama's chats as those of OpenAI's: images, calls of tools, and their results.

Rules:
- Ollama knows a result by the tool's name, if at all.
- An image comes without its type, which its first bytes tell.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from backends.surfaces.chat import thoughts, written
from backends.surfaces.places import Members, each, items, member, optional, text, wrong
from backends.surfaces.unanswered import Unanswered

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_BEGINNING: Final = 24
"""Characters of base64 that hold the first 18 bytes of an image."""


def chat(found: list[Any]) -> list[Members]:
    """Return the messages of a chat. Raise InvalidRequest where something in them is wrong."""
    made: list[Members] = []
    calls = Unanswered()
    for place, message in each(found, "messages"):
        role = text(message, "role", place)
        said = optional(message, "content", place, str, "a text") or ""
        if role == "assistant":
            made.append(_assistant(message, place, said, calls))
        elif role == "tool":
            known = optional(message, "tool_call_id", place, str, "a text")
            name = optional(message, "tool_name", place, str, "a text")
            made.append({"role": role, "tool_call_id": calls.answered(known, name), "content": said})
        elif role in ("user", "system"):
            made.append({"role": role, "content": content(message, place, said)})
        else:
            raise wrong(f"{place}.role", "expected user, assistant, system or tool")
    return made


def content(holder: Members, place: str, said: str) -> str | list[Members]:
    """Return a content: the text, or its parts where there are images beside it."""
    at = f"{place}.images" if place else "images"
    pictures = [
        _picture(image, f"{at}.{number}") for number, image in enumerate(items(holder, "images", place))
    ]
    if not pictures:
        return said
    return [*([{"type": "text", "text": said}] if said else []), *pictures]


def _assistant(message: Members, place: str, said: str, calls: Unanswered) -> Members:
    made: Members = {"role": "assistant", "content": said}
    if thought := optional(message, "thinking", place, str, "a text"):
        made |= thoughts(thought)
    told = []
    for at, call in each(items(message, "tool_calls", place), f"{place}.tool_calls"):
        function: Members = member(call, "function", at, dict, "an object")
        name = text(function, "name", f"{at}.function")
        arguments = written(function.get("arguments"))
        known = calls.add(optional(call, "id", at, str, "a text"), name)
        told.append({"id": known, "type": "function", "function": {"name": name, "arguments": arguments}})
    if told:
        made |= {"tool_calls": told, "content": said or None}
    return made


def _picture(image: Any, place: str) -> Members:
    if isinstance(image, str) and image.startswith("data:"):
        return {"type": "image_url", "image_url": {"url": image}}
    kind = _kind(image) if isinstance(image, str) else None
    if kind is None:
        raise wrong(place, "expected a PNG, JPEG, WebP or GIF image in base64")
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{image}"}}


def _kind(image: str) -> str | None:
    """Return the media type of an image in base64; None where it is none that is known."""
    try:
        begins = base64.b64decode(image[:_BEGINNING], validate=True)
    except (binascii.Error, ValueError):
        return None
    if begins.startswith(b"RIFF") and begins[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if begins.startswith(magic)), None)
