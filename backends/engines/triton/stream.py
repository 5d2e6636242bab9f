"""A model's responses behind Triton as OpenAI's stream: text in pieces, reasons and counts, whatever the model tells of
them.

Rules:
- A reason the model gives is passed on. Of one that gives none the end of the transfer is the end of the answer, for
  its length or by itself, as far as the tokens were counted.
- A model that tells reasons and ends without one was cut off: that is a failure, not an answer.
- Tokens are the model's own count, else the tokenizer's, else nobody's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from backends.base import Failure, Kind, Request, Usage
from backends.dialect.chunks import DONE, Chunks, StopCutter
from backends.engines.triton.tensors import Role, Tensors
from backends.framing import sse


class TensorStream:
    """Turns a stream of a model's responses into OpenAI's; see `backends.base.StreamDecoder`."""

    __slots__ = (
        "_chunks",
        "_counting",
        "_cutters",
        "_ended",
        "_failed",
        "_framer",
        "_input",
        "_limit",
        "_output",
        "_reasons",
        "_request",
        "_tensors",
        "_texts",
        "_told",
        "content",
        "failure",
        "finished",
        "usage",
    )

    def __init__(
        self,
        tensors: Tensors,
        request: Request,
        chunks: Chunks,
        stops: Sequence[str],
        limit: int,
        failed: Callable[[bytes], Failure],
        counting: Callable[[list[str]], Usage | None],
    ) -> None:
        """`limit` is the most tokens of an answer; `failed` reads an error event; `counting` counts the tokens of the
        prompt and these answers where the model does not say, None where nobody can."""
        self.content = 0
        self.usage: Usage | None = None
        self.finished = False
        self.failure: Failure | None = None
        self._tensors = tensors
        self._request = request
        self._chunks = chunks
        self._limit = limit
        self._failed = failed
        self._counting = counting
        self._framer = sse.Framer()
        self._cutters = defaultdict[int, StopCutter](lambda: StopCutter(() if tensors.stops else stops))
        self._texts = defaultdict[int, str](str)
        self._ended: set[int] = set()
        self._reasons = False
        """The model tells why it ends."""
        self._told = False
        """The model tells how many tokens it read and made."""
        self._input = self._output = 0

    def feed(self, data: bytes) -> bytes:
        out = b"".join([self._response(payload) for payload in self._framer.feed(data)])
        if self._framer.too_long and self.failure is None:
            self.failure = Failure(
                Kind.GARBLED, f"an event in the engine's stream is longer than {sse.LIMIT} bytes"
            )
        return out

    def close(self) -> bytes:
        out = b"".join([self._response(payload) for payload in self._framer.close()])
        if self.failure is not None:
            return out
        open_choices = self._texts.keys() - self._ended
        if not self._texts or (open_choices and self._reasons):
            self.failure = Failure(Kind.RESET, "the engine's stream ended before it was complete")
            return out
        usage = self._count()
        length = usage is not None and usage.output >= self._limit * len(self._texts)
        out += b"".join([self._end(index, "length" if length else "stop") for index in sorted(open_choices)])
        self.usage = usage
        if self._request.include_usage:
            out += self._chunks.usage(usage)
        return out + DONE

    def _response(self, payload: bytes) -> bytes:
        """What one response says, as events for the client."""
        if self.failure is not None:
            return b""
        try:
            said = _response.decode(payload)
        except (ValueError, RecursionError) as error:
            self.failure = Failure(
                Kind.GARBLED, "the engine sent an event that is not valid", detail=str(error)
            )
            return b""
        if "error" in said:
            self.failure = self._failed(payload)
            return b""
        texts = self._elements(said, "output")
        if not texts:
            wanted = f"no tensor {self._tensors.name('output')!r} among {', '.join(said)}"
            self.failure = Failure(Kind.GARBLED, "the engine's stream has no text in it", detail=wanted)
            return b""
        self._note_counts(said)
        out = [self._text(index, str(text)) for index, text in enumerate(texts)]
        reasons = self._elements(said, "finish_reason")
        self._reasons = self._reasons or bool(reasons)
        out += [
            self._end(index, str(reason)) for index, reason in enumerate(reasons) if reason not in _GOES_ON
        ]
        self.finished = bool(self._ended) and self._texts.keys() <= self._ended
        return b"".join(out)

    def _text(self, index: int, text: str) -> bytes:
        """More of a choice's text, cut where it must end."""
        before = self._texts[index]
        if self._tensors.grows:
            text = text[len(before) :]
        self._texts[index] = before + text
        if index in self._ended:
            return b""
        cutter = self._cutters[index]
        text = cutter.feed(text)
        out = b""
        if text:
            self.content += 1
            out = self._chunks.text(index, text)
        return out + self._end(index, "stop") if cutter.hit else out

    def _end(self, index: int, reason: str) -> bytes:
        """The end of a choice, once."""
        if index in self._ended:
            return b""
        self._ended.add(index)
        held = self._cutters[index].close()
        rest = self._chunks.text(index, held) if held else b""
        self.content += bool(held)
        return rest + self._chunks.finish(index, reason)

    def _note_counts(self, said: Mapping[str, Any]) -> None:
        read, made = self._elements(said, "input_tokens"), self._elements(said, "output_tokens")
        if all(type(count) is int for count in (*read, *made)) and (read or made):
            self._told = True
            self._input = max(self._input, sum(read))
            self._output += sum(made)

    def _elements(self, said: Mapping[str, Any], role: Role) -> list[Any]:
        """The elements of a tensor, none where it is not there. Triton writes a single element without brackets."""
        value = said.get(self._tensors.name(role) or "", [])
        return value if isinstance(value, list) else [value]

    def _count(self) -> Usage | None:
        if self._told:
            return Usage(self._input, self._output)
        return self._counting([self._texts[index] for index in sorted(self._texts)])


_GOES_ON = (None, "", "None")
_response = msgspec.json.Decoder(dict[str, Any])
