"""What the parts of messages in OpenAI's Responses API are in its chat.

Rules:
- Text that is empty is left out.
- Files are read as text. One that is none, or that only OpenAI's service has, is the client's mistake here, with its
  place.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from backends.surfaces.places import Members, each, member, text, wrong

Part = dict[str, Any]

_TEXTS = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "summary_text": "text",
    "refusal": "refusal",
}
"""The types of parts that are text, and the member that holds it."""
_READABLE = ("text/", "application/json", "application/xml", "application/yaml", "application/x-yaml")
"""How the media types of files begin that are text."""


def parts(item: Members, place: str, called: str = "content") -> list[Part]:
    """Return the parts of an item's content, which the client calls `called`; a text is one of them."""
    said = item.get("content")
    at = f"{place}.{called}"
    if isinstance(said, str):
        return [{"type": "text", "text": said}] if said else []
    if not isinstance(said, list):
        raise wrong(at, "expected a text or a list of parts")
    return [made for where, part in each(said, at) if (made := _part(part, where)) is not None]


def plain(item: Members, place: str) -> str:
    """Return a content that may only be text."""
    found = parts(item, place)
    if any(part["type"] != "text" for part in found):
        raise wrong(f"{place}.content", "expected text")
    return "".join([part["text"] for part in found])


def _part(part: Members, place: str) -> Part | None:
    kind = text(part, "type", place)
    if kind in _TEXTS:
        said = text(part, _TEXTS[kind], place)
        return {"type": "text", "text": said} if said else None
    if kind == "input_image":
        if part.get("image_url") is None and part.get("file_id") is not None:
            raise wrong(f"{place}.file_id", "this model's engines keep no files: send an image_url")
        return {"type": "image_url", "image_url": {"url": text(part, "image_url", place)}}
    if kind == "input_file":
        return {"type": "text", "text": _file(part, place)}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": member(part, "input_audio", place, dict, "an object")}
    raise wrong(f"{place}.type", f"a part of the type {kind!r} cannot be sent to this model's engines")


def _file(part: Members, place: str) -> str:
    """Return a file as text, below its name."""
    for name in ("file_id", "file_url"):
        if part.get(name) is not None:
            raise wrong(f"{place}.{name}", "this model's engines fetch no files: send file_data")
    head, _, data = text(part, "file_data", place).partition(",")
    if not head.startswith("data:") or not data:
        raise wrong(f"{place}.file_data", "expected a data URL, such as data:text/plain;base64,...")
    kind = head.removeprefix("data:").partition(";")[0]
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise wrong(f"{place}.file_data", "expected base64") from None
    named = part.get("filename")
    try:
        said = (
            raw.decode() if kind.startswith(_READABLE) or kind in ("", "application/octet-stream") else None
        )
    except UnicodeDecodeError:
        said = None
    if said is None:
        raise wrong(
            f"{place}.file_data", f"a file for this model's engines must be text, not {kind or 'bytes'}"
        )
    return f"{named}\n{said}" if isinstance(named, str) and named else said
