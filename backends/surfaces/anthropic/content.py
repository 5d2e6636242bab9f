"""What the blocks of Anthropic's messages are in OpenAI's chat.

Rules:
- Text that is empty is left out: templates and other APIs refuse it.
- Documents are read as text. One that is none (a PDF), and a file that only Anthropic has, are the client's mistake
  here, with their place.
- `cache_control` and `citations` ask for nothing that an engine of one's own could do, and are left out.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from backends.surfaces.places import Members, each, member, optional, text, wrong

Part = dict[str, Any]

FOREIGN = frozenset(
    {
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "redacted_thinking",
        "container_upload",
        "compaction",
    }
)
"""Blocks of earlier turns that only Anthropic's own service wrote and can read; they are left out."""


def blocks(holder: Members, name: str, place: str) -> list[tuple[str, Members]]:
    """Return a content as blocks with their places; a text is one block of it."""
    said = holder.get(name)
    at = f"{place}.{name}" if place else name
    if isinstance(said, str):
        return [(at, {"type": "text", "text": said})]
    return each(member(holder, name, place, list, "a text or a list of blocks"), at)


def kind_of(block: Members, place: str) -> str:
    """Return the type of a block."""
    return text(block, "type", place)


def plain(found: list[tuple[str, Members]], between: str) -> str:
    """Return blocks that may only be text, joined by `between`."""
    said = []
    for at, block in found:
        if kind_of(block, at) != "text":
            raise wrong(f"{at}.type", "expected text")
        said.append(text(block, "text", at))
    return between.join([one for one in said if one])


def parts(found: list[tuple[str, Members]]) -> list[Part]:
    """Return the parts of a user's message, or of a tool's result, for blocks of what can be read or seen."""
    made: list[Part] = []
    for at, block in found:
        kind = kind_of(block, at)
        if kind == "image":
            made.append({"type": "image_url", "image_url": {"url": _picture(block, at)}})
        elif kind not in FOREIGN and (said := _text_of(kind, block, at)):
            made.append({"type": "text", "text": said})
    return made


def _text_of(kind: str, block: Members, place: str) -> str:
    if kind == "text":
        return text(block, "text", place)
    if kind == "document":
        return _document(block, place)
    if kind == "search_result":
        said = plain(blocks(block, "content", place), "\n")
        return _headed(said, block.get("title"), block.get("source"))
    if kind == "tool_reference":
        return f"[tool: {text(block, 'tool_name', place)}]"
    raise wrong(f"{place}.type", f"a block of the type {kind!r} cannot be sent to this model's engines")


def _headed(said: str, *above: Any) -> str:
    """Return a text below the lines that describe it."""
    return "\n".join([*[line for line in above if isinstance(line, str) and line], said])


def _document(block: Members, place: str) -> str:
    source: Members = member(block, "source", place, dict, "an object")
    at = f"{place}.source"
    kind = text(source, "type", at)
    if kind == "text":
        said = text(source, "data", at)
    elif kind == "content":
        said = plain(blocks(source, "content", at), "\n")
    elif kind == "base64" and text(source, "media_type", at).startswith("text/"):
        said = _decoded(source, at).decode(errors="replace")
    else:
        raise wrong(
            at, "a document for this model's engines must be text: a source of the type text or content"
        )
    return _headed(said, block.get("title"), block.get("context"))


def _picture(block: Members, place: str) -> str:
    """Return the URL of an image; one in the request itself becomes a data URL."""
    source: Members = member(block, "source", place, dict, "an object")
    at = f"{place}.source"
    kind = text(source, "type", at)
    if kind == "url":
        return text(source, "url", at)
    if kind == "base64":
        return f"data:{text(source, 'media_type', at)};base64,{text(source, 'data', at)}"
    raise wrong(f"{at}.type", "expected base64 or url: this gateway keeps no files for messages")


def _decoded(source: Members, place: str) -> bytes:
    try:
        return base64.b64decode(text(source, "data", place), validate=True)
    except (binascii.Error, ValueError):
        raise wrong(f"{place}.data", "expected base64") from None


def result(block: Members, place: str) -> tuple[Part, list[Part]]:
    """Return the message that holds a tool's result, and its images, which only a user's message can hold."""
    made = parts(blocks(block, "content", place)) if block.get("content") is not None else []
    said = "\n".join([part["text"] for part in made if part["type"] == "text"])
    pictures = [part for part in made if part["type"] != "text"]
    if optional(block, "is_error", place, bool, "true or false") and not said.lower().startswith("error"):
        said = f"Error: {said}" if said else "Error"
    if pictures and not said:
        said = "The result is an image, which follows."
    return {"role": "tool", "tool_call_id": text(block, "tool_use_id", place), "content": said}, pictures
