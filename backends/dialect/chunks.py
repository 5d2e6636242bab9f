"""Write OpenAI's stream for engines that speak another protocol: text, finish reasons and counts in; events out.

Rules:
- The shape is exactly OpenAI's: `role` in a choice's first event, the finish reason in its last one, usage in an event
  of its own.
- Ids and times, which OpenAI's clients expect and such engines do not send, are passed in as a `Stamp`.
- For engines that cannot cut text at a stop string, `StopCutter` does; it holds back what may be the start of one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from backends.base import Operation, Request, Usage
from backends.dialect.usage import openai_usage
from backends.framing import sse

DONE = sse.encode(b"[DONE]")


@dataclass(frozen=True, slots=True)
class Stamp:
    """The id of an answer, and its creation time in seconds since 1970."""

    id: str
    created: int


def stamp(operation: Operation) -> Stamp:
    """Return a new stamp with the current time."""
    return Stamp(fresh_id("chatcmpl" if operation is Operation.CHAT else "cmpl"), int(time.time()))


def fresh_id(kind: str) -> str:
    """Return a unique id that starts with `kind`."""
    return f"{kind}-{secrets.token_hex(12)}"


class Chunks:
    """Writes the events of one streamed answer."""

    __slots__ = ("_chat", "_head", "_spoken")

    def __init__(self, request: Request, known_by: Stamp) -> None:
        self._chat = request.operation is Operation.CHAT
        head = {
            "id": known_by.id,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": known_by.created,
            "model": request.model,
        }
        self._head = msgspec.json.encode(head)[:-1]
        self._spoken: set[int] = set()

    def text(self, index: int, text: str) -> bytes:
        """Return the event for more text of a choice."""
        return self._choice(index, text, b"null")

    def finish(self, index: int, reason: str) -> bytes:
        """Return the event that ends a choice."""
        return self._choice(index, None, msgspec.json.encode(reason))

    def usage(self, usage: Usage | None) -> bytes:
        """Return the event with the token counts; null if there are none."""
        counts = None if usage is None else openai_usage(usage)
        return sse.encode(self._head + b',"choices":[],"usage":' + msgspec.json.encode(counts) + b"}")

    def _choice(self, index: int, text: str | None, reason: bytes) -> bytes:
        said = b'"text":' + msgspec.json.encode(text or "")
        if self._chat:
            delta: dict[str, str] = {} if text is None else {"content": text}
            if index not in self._spoken:
                self._spoken.add(index)
                delta = {"role": "assistant", **delta}
            said = b'"delta":' + msgspec.json.encode(delta)
        place = b',"choices":[{"index":%d,' % index
        return sse.encode(self._head + place + said + b',"logprobs":null,"finish_reason":' + reason + b"}]}")


class StopCutter:
    """Cuts a text that arrives in pieces before the first stop string in it.

    `hit` is true once one was found, and `found` is which.
    """

    __slots__ = ("_held", "_stops", "found", "hit")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit = False
        self.found: str | None = None

    def feed(self, piece: str) -> str:
        """Process more text; return the part that is certain to precede any stop string."""
        if self.hit or not self._stops:
            return "" if self.hit else piece
        text = self._held + piece
        places = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.hit = True
            self._held = ""
            place, self.found = min(places)
            return text[:place]
        keep = max(self._begun(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def close(self) -> str:
        """Return the text that was held back; the text has ended."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """Return how many of the last characters may be the beginning of `stop`."""
        longest = min(len(stop) - 1, len(text))
        return next((count for count in range(longest, 0, -1) if text.endswith(stop[:count])), 0)
