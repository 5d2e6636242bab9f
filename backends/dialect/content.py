"""What counts as an engine speaking, in every dialect: one definition, one table.

Rules:
- Content is whatever a client could use: text, reasoning in any form, refusals, tool calls, images, sound, annotations,
  and what an engine tells of its progress. A member that is not known counts, because engines invent new ones.
- Silence is what only makes room for content: roles, ids, empty values, pings, an event that opens an empty block or
  closes one.
- The first content commits a stream, and each further one restarts its clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Members(Protocol):
    """An event of an API other than chat and completions, with the members that may say something."""

    delta: Any
    audio: Any
    item: Any
    part: Any
    text: Any
    content_block: Any
    content: Any
    prompt_progress: Any
    """How much of the prompt llama.cpp has read, where it was asked to tell."""

    def choice_members(self) -> Sequence[Mapping[str, Any]]:
        """Return the choices of an event in the form of chats."""


SILENT_MEMBERS = frozenset({"role", "id", "index", "type", "status", "object", "phase"})
"""Members of a delta, a block or an item that say nothing by themselves."""

LAST = frozenset(
    {
        "response.completed",
        "response.incomplete",
        "message_stop",
        "transcript.text.done",
        "speech.audio.done",
        "image_generation.completed",
        "image_edit.completed",
    }
)
"""The types of the events that complete a stream, of all APIs."""

_SILENT_TYPES = LAST | {
    "ping",
    "keepalive",
    "message_start",
    "message_delta",
    "content_block_stop",
    "response.created",
    "response.queued",
    "response.in_progress",
}
"""The types of other events that say nothing. Those of one tool at work, such as
`response.web_search_call.searching`, are not among them: they are progress."""

_HOLDERS: Mapping[str, str] = {
    "content_block_start": "content_block",
    "content_block_delta": "delta",
    "response.output_item.added": "item",
    "response.content_part.added": "part",
    "response.reasoning_summary_part.added": "part",
}
"""The types of events that say something only if this member of theirs holds something."""

_FINISHED: Mapping[str, str] = {
    "response.output_item.done": "item",
    "response.content_part.done": "part",
    "response.output_text.done": "text",
}
"""The types of events that repeat what was said, and the member that does. LMDeploy 0.18 finishes what it has begun,
empty as it is, before it says that the request was refused."""

_DELTAS = ("delta", "audio")
"""The members that hold what an event adds whose type ends in `.delta`."""
CHOICE = ("delta", "text", "logprobs", "token_ids")
"""The members of a choice of a completion that may say something."""


def holds(value: Any) -> bool:
    """Return whether a delta, a block, an item or a plain value has something in it that a client could use."""
    if isinstance(value, dict):
        return any(held and name not in SILENT_MEMBERS for name, held in value.items())
    return bool(value)


def _says(value: Any) -> bool:
    """Return whether a finished item or part says something anywhere in it."""
    if isinstance(value, dict):
        return any(name not in SILENT_MEMBERS and _says(held) for name, held in value.items())
    if isinstance(value, list):
        return any(map(_says, value))
    return bool(value)


def in_event(kind: str, event: Members) -> bool:
    """Return whether an event says something; `kind` is its type, empty for an API whose events have none."""
    if not kind:
        spoken = any(holds(choice.get(name)) for choice in event.choice_members() for name in CHOICE)
        return spoken or bool(event.content or event.prompt_progress)
    if kind in _SILENT_TYPES:
        return False
    holder = _HOLDERS.get(kind)
    if holder is not None:
        return holds(getattr(event, holder))
    finished = _FINISHED.get(kind)
    if finished is not None:
        return _says(getattr(event, finished))
    return not kind.endswith(".delta") or any(holds(getattr(event, name)) for name in _DELTAS)
