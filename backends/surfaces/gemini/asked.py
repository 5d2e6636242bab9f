"""A request of Google's `generateContent`, said as a chat completion.

Rules:
- What is left out and could have changed the answer is named; what only books the request is not.
- A prompt that only Google's service keeps (`cachedContent`) is refused: without it the answer would be to another one.
"""

from __future__ import annotations

from typing import Final

from backends.base import Operation, Request
from backends.surfaces.gemini import config, content
from backends.surfaces.gemini.fields import body_of
from backends.surfaces.gemini.tools import tools
from backends.surfaces.places import Members, wrong
from backends.surfaces.translation import Said, said

_READ: Final = frozenset(
    {
        *("model", "stream", "alt", "contents", "systemInstruction", "tools", "toolConfig"),
        *("generationConfig", "cachedContent"),
    }
)
_WITHOUT_EFFECT: Final = frozenset({"labels", "serviceTier", "store"})
"""Members that book a request, or ask for a price."""


def chat(request: Request) -> Said:
    """Return a request for content as a chat. Raise InvalidRequest where something in it is wrong."""
    body = body_of(request.body)
    dropped: list[str] = []
    made: Members = {"messages": content.messages(body)}
    if body.get("cachedContent"):
        raise wrong("cachedContent", "this gateway keeps no prompts: send the whole contents")
    made |= config.sampling(body, request.choices, dropped)
    made |= tools(body, dropped)
    dropped += [name for name in body if name not in _READ and name not in _WITHOUT_EFFECT and body[name]]
    return said(request, Operation.CHAT, made, dropped)
