"""TGI's native protocol: a completion becomes `inputs` and `parameters`, and the tokens become OpenAI's stream.

Facts are those of TGI 3.3.7.

Rules:
- A request is always for a stream (`/generate_stream`) and has one prompt.
- A token marked as special is not text. The last token comes with the finish reason and the counts; without it the
  answer was cut off.
- TGI leaves a stop string in the text; it is cut off here.
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

PATH = "/generate_stream"
REASONS: Mapping[str, str] = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}
"""TGI's finish reasons, and OpenAI's."""
_SAME = ("top_p", "top_k", "typical_p", "repetition_penalty", "frequency_penalty", "seed", "stop")


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


def body(prompt: str, asked: Mapping[str, Any]) -> bytes:
    """Return the body for a completion; `asked` are the members of OpenAI's request, as TGI expects them."""
    parameters: dict[str, Any] = {name: asked[name] for name in _SAME if asked.get(name) is not None}
    if asked.get("max_tokens") is not None:
        parameters["max_new_tokens"] = asked["max_tokens"]
    temperature = asked.get("temperature")
    # Zero means greedy sampling to OpenAI and is an error to TGI.
    parameters["do_sample"] = temperature != 0
    if temperature:
        parameters["temperature"] = temperature
    return msgspec.json.encode({"inputs": prompt, "parameters": {**parameters, "details": True}})


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
        return (self._chunks.text(0, out) if out else b"") + self._finish(step.details)

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
        return (self._chunks.usage(self.usage) if self._include_usage else b"") + DONE

    def _finish(self, details: _Details | None) -> bytes:
        """Return the end of the answer, if this is its last token."""
        if details is None:
            return b""
        self.finished = True
        self.usage = Usage(details.input_length, details.generated_tokens)
        return self._chunks.finish(0, REASONS.get(details.finish_reason, "stop"))
