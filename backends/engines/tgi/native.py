"""TGI's native protocol: a completion request as its `inputs` and `parameters`, its tokens as OpenAI's stream.

Rules:
- Always a stream, `/generate_stream`; one prompt. Facts: TGI 3.3.7.
- A token marked special is no text. The last one brings why it ended and the counts; without it the answer was cut off.
- TGI leaves a stop string in the text; it is cut here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from backends.base import Failure, Kind, Request, Usage
from backends.dialect.chunks import DONE, Chunks, StopCutter
from backends.dialect.errors import garbled
from backends.framing import sse

PATH = "/generate_stream"
REASONS: Mapping[str, str] = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}
"""TGI's own words for why a generation ended."""
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
    """The request for a completion; `asked` are the members of OpenAI's, already as TGI takes them."""
    parameters: dict[str, Any] = {name: asked[name] for name in _SAME if asked.get(name) is not None}
    if asked.get("max_tokens") is not None:
        parameters["max_new_tokens"] = asked["max_tokens"]
    temperature = asked.get("temperature")
    # Zero is greedy to OpenAI and an error to TGI.
    parameters["do_sample"] = temperature != 0
    if temperature:
        parameters["temperature"] = temperature
    return msgspec.json.encode({"inputs": prompt, "parameters": {**parameters, "details": True}})


class NativeStream:
    """Turns one native stream into OpenAI's; see `backends.base.StreamDecoder`."""

    __slots__ = (
        "_chunks",
        "_cutter",
        "_failed",
        "_framer",
        "_include_usage",
        "content",
        "failure",
        "finished",
        "usage",
    )

    def __init__(
        self, request: Request, chunks: Chunks, stops: Sequence[str], failed: Callable[[bytes], Failure]
    ) -> None:
        """`failed` reads an error event."""
        self.content = 0
        self.usage: Usage | None = None
        self.finished = False
        self.failure: Failure | None = None
        self._chunks = chunks
        self._cutter = StopCutter(stops)
        self._failed = failed
        self._framer = sse.Framer()
        self._include_usage = request.include_usage

    def feed(self, data: bytes) -> bytes:
        out = b"".join([self._event(payload) for payload in self._framer.feed(data)])
        if self._framer.too_long and self.failure is None:
            self.failure = Failure(
                Kind.GARBLED, f"an event in the engine's stream is longer than {sse.LIMIT} bytes"
            )
        return out

    def close(self) -> bytes:
        out = b"".join([self._event(payload) for payload in self._framer.close()])
        if self.failure is None and not self.finished:
            self.failure = Failure(Kind.RESET, "the engine's stream ended before it was complete")
        if self.failure is not None:
            return out
        return out + (self._chunks.usage(self.usage) if self._include_usage else b"") + DONE

    def _event(self, payload: bytes) -> bytes:
        if self.failure is not None or self.finished:
            return b""
        try:
            step = _step.decode(payload)
        except (ValueError, RecursionError) as error:
            self.failure = garbled("the engine sent an event that is not valid", payload, error)
            return b""
        if step.error:
            self.failure = self._failed(payload)
            return b""
        text = "" if step.token is None or step.token.special else step.token.text
        out = self._cutter.feed(text)
        if step.details is not None:
            out += self._cutter.close()
        self.content += bool(out)
        return (self._chunks.text(0, out) if out else b"") + self._end(step.details)

    def _end(self, details: _Details | None) -> bytes:
        if details is None:
            return b""
        self.finished = True
        self.usage = Usage(details.input_length, details.generated_tokens)
        return self._chunks.finish(0, REASONS.get(details.finish_reason, "stop"))
