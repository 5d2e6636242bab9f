"""TGI's native protocol, its stream: the tokens become OpenAI's events. `asked.py` writes its requests.

Facts are those of TGI 3.3, tried on its own router with a scripted model.

Rules:
- A token marked as special is not text. The last token comes with the finish reason and the counts; without it the
  answer was cut off.
- TGI leaves a stop string in the text; it is cut off here. Where it is inside a token TGI would go on, so it is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from backends.base import ReadFailure, Request, Usage
from backends.dialect.chunks import DONE, Chunks, StopCutter
from backends.dialect.decoder import FramedDecoder
from backends.dialect.errors import garbled
from backends.framing import sse

_REASONS: Mapping[str, str] = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}
"""TGI's finish reasons, and OpenAI's."""


class _Token(msgspec.Struct):
    text: str = ""
    special: bool = False


class _Details(msgspec.Struct):
    finish_reason: str
    generated_tokens: int = 0
    input_length: int = 0


class _Step(msgspec.Struct):
    token: _Token | None = None
    details: _Details | None = None
    error: Any = None


_step = msgspec.json.Decoder(_Step)


class NativeStream(FramedDecoder):
    """Turns one native stream into OpenAI's; see `backends.base.StreamDecoder`."""

    __slots__ = ("_chunks", "_cutter", "_include_usage", "_read_failure")

    def __init__(
        self, request: Request, chunks: Chunks, stops: Sequence[str], read_failure: ReadFailure
    ) -> None:
        super().__init__(sse.Framer())
        self._chunks = chunks
        self._cutter = StopCutter(stops)
        self._read_failure = read_failure
        self._include_usage = request.include_usage

    def _event(self, piece: bytes) -> bytes:
        if self.over or self.finished:
            return b""
        try:
            step = _step.decode(piece)
        except (ValueError, RecursionError) as error:
            self.fail(garbled("the engine sent an event that is not valid", piece, error))
            return b""
        if step.error:
            self.fail(self._read_failure(500, (), piece))
            return b""
        text = "" if step.token is None or step.token.special else step.token.text
        out = self._cutter.feed(text)
        if step.details is not None:
            out += self._cutter.close()
        self.content += bool(out)
        said = self._chunks.text(0, out) if out else b""
        if step.details is None and self._cutter.hit:
            self.finished = self.enough = True
            return said + self._chunks.finish(0, "stop")
        return said + self._finish(step.details)

    def _is_whole(self, piece: bytes) -> bool:
        try:
            _step.decode(piece)
        except (ValueError, RecursionError):
            return False
        return True

    def _end(self) -> bytes:
        if not self.finished:
            self.fail_incomplete()
            return b""
        told = self._include_usage and self.usage is not None
        return (self._chunks.usage(self.usage) if told else b"") + DONE

    def _finish(self, details: _Details | None) -> bytes:
        """Return the end of the answer, if this is its last token."""
        if details is None:
            return b""
        self.finished = True
        self.usage = Usage(details.input_length, details.generated_tokens)
        reason = "stop" if self._cutter.hit else _REASONS.get(details.finish_reason, "stop")
        return self._chunks.finish(0, reason)
