"""OpenAI's stream, written for engines that speak otherwise: text, a reason and counts in, whole events out.

Rules:
- The shape is OpenAI's to the letter: `role` with a choice's first piece, a finish reason with its last event, usage in
  an event of its own.
- An id and a time, which OpenAI's clients want and such engines do not give, come in as a `Stamp`.
- Text is cut at a stop string here where the engine cannot: what might be the beginning of one is held back.
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
    """What an answer is known by: its id, and when it was made in seconds since 1970."""

    id: str
    created: int


def stamp(operation: Operation) -> Stamp:
    """A new one, of now."""
    return Stamp(fresh_id("chatcmpl" if operation is Operation.CHAT else "cmpl"), int(time.time()))


def fresh_id(kind: str) -> str:
    """An id that nothing else has."""
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
        """More text of a choice."""
        return self._choice(index, text, b"null")

    def finish(self, index: int, reason: str) -> bytes:
        """The end of a choice."""
        return self._choice(index, None, msgspec.json.encode(reason))

    def usage(self, usage: Usage | None) -> bytes:
        """The tokens counted, null where nobody counted them."""
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
    """Cuts one text, coming in pieces, before the first stop string in it. `hit`: one was found."""

    __slots__ = ("_held", "_stops", "hit")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit = False

    def feed(self, piece: str) -> str:
        """Take more text; return what of it surely comes before a stop string."""
        if self.hit or not self._stops:
            return "" if self.hit else piece
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.hit = True
            self._held = ""
            return text[: min(places)]
        keep = max(self._begun(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def close(self) -> str:
        """The text ended; return what was held back for nothing."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """How many of the last characters may be the beginning of `stop`."""
        longest = min(len(stop) - 1, len(text))
        return next((count for count in range(longest, 0, -1) if text.endswith(stop[:count])), 0)
