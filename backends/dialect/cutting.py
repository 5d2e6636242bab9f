"""Cut the text of a stream before its stop strings, for engines that leave them in it or do not hear them.

Rules:
- A choice that was cut has the finish reason `stop`, and says nothing more.
- Once all choices were cut and the engine goes on with one of them, it is left: it would go on until its limit. What it
  would have counted at the end is not known then.
- Without stop strings the stream passes as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from backends.base import Engine, Request
from backends.dialect.chunks import DONE, StopCutter
from backends.dialect.stream import EventStream
from backends.framing import sse

_decode = msgspec.json.Decoder()
_HEAD, _END = len(b"data: "), len(b"\n\n")


class CuttingStream(EventStream):
    """Watches a stream of chats or completions, and cuts its choices before their stop strings."""

    __slots__ = ("_cutters", "_goes_on", "_looks", "_stops")

    def __init__(self, engine: Engine, request: Request, stops: Sequence[str], looks: bool = False) -> None:
        """Prepare to cut before `stops`. With `looks`, `_choice` sees every event even without stop strings."""
        super().__init__(engine, request)
        self._stops = tuple(stops)
        self._looks = looks or bool(self._stops)
        self._cutters: dict[int, StopCutter] = {}
        self._goes_on = False
        """Whether the engine goes on with a choice that was cut."""

    def _learn(self, event: bytes, public: bytes) -> None:
        if not self._looks:
            super()._learn(event, public)

    def _decode(self, payload: bytes, event: bytes) -> bytes:
        public = super()._decode(payload, event)
        if self._looks and self._kept:
            # What is held back of the text belongs into the event with the reason, which does not wait here.
            public, self._kept = self._kept, b""
        if not self._looks or not public or self.failure is not None:
            return public
        chunk: dict[str, Any] = _decode.decode(public[_HEAD:-_END])
        choices = [
            kept for choice in chunk.get("choices") or () if (kept := self._choice(choice)) is not None
        ]
        if chunk.get("choices") and not choices:
            return b""
        chunk["choices"] = choices
        out = sse.encode(msgspec.json.encode(chunk))
        if not self._goes_on or len(self._cutters) < self._wanted:
            return out
        if not all(cutter.hit for cutter in self._cutters.values()):
            return out
        self.finished = self.enough = True
        self._stop()
        return out + DONE

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """Return what an event says of a choice before its stop string; None where that was found before."""
        cutter = self._cutters.setdefault(choice.get("index") or 0, StopCutter(self._stops))
        if cutter.hit:
            return None
        delta = choice.get("delta")
        holder = delta if isinstance(delta, dict) else choice
        name = "text" if holder is choice else "content"
        text = holder.get(name)
        if isinstance(text, str) and text:
            holder[name] = cutter.feed(text)
        if cutter.hit:
            self._goes_on = self._goes_on or not choice.get("finish_reason")
            choice["finish_reason"] = "stop"
            self._ended.add(choice.get("index") or 0)
        elif choice.get("finish_reason"):
            held = cutter.close()
            if held:
                holder[name] = (holder.get(name) or "") + held
        return choice


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return a whole text as far as its first stop string, and whether there was one."""
    cutter = StopCutter(stops)
    kept = cutter.feed(text)
    return kept + cutter.close(), cutter.hit
