"""Turn the responses of a model behind Triton into OpenAI's stream, with the reasons and counts that the model reports.

Rules:
- A finish reason from the model is passed on. If a model reports none, the end of the transfer ends the answer: with
  `length` if the tokens counted reach the limit, else with `stop`.
- If a model reports finish reasons and ends without one, it was cut off: a failure.
- Tokens are counted by the model, else by the tokenizer, else not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from backends.base import Failure, Kind, ReadFailure, Usage
from backends.dialect.chunks import DONE, Chunks, StopCutter
from backends.dialect.decoder import FramedDecoder
from backends.dialect.errors import reason_of
from backends.engines.triton.tensors import Role, Tensors
from backends.framing import sse


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the client asked for, as far as its answer depends on it; `limit` is the most tokens of one choice."""

    tensors: Tensors
    stops: Sequence[str]
    limit: int
    include_usage: bool


class TensorStream(FramedDecoder):
    """Turns a stream of a model's responses into OpenAI's; see `backends.base.StreamDecoder`."""

    __slots__ = (
        "_chunks",
        "_counting",
        "_cutters",
        "_ended",
        "_gives_reasons",
        "_input",
        "_output",
        "_read_failure",
        "_tells_counts",
        "_texts",
        "_wanted",
    )

    def __init__(
        self,
        wanted: Wanted,
        chunks: Chunks,
        read_failure: ReadFailure,
        counting: Callable[[list[str]], Usage | None],
    ) -> None:
        """Make a decoder. `counting` counts the tokens of prompt and answers, if it can, where the model does not."""
        super().__init__(sse.Framer())
        self._wanted = wanted
        self._chunks = chunks
        self._read_failure = read_failure
        self._counting = counting
        stops = () if wanted.tensors.stops else wanted.stops
        self._cutters = defaultdict[int, StopCutter](lambda: StopCutter(stops))
        self._texts = defaultdict[int, str](str)
        self._ended: set[int] = set()
        self._gives_reasons = False
        """Whether the model says why it ends."""
        self._tells_counts = False
        """Whether the model says how many tokens it read and made."""
        self._input = self._output = 0

    def _end(self) -> bytes:
        open_choices = self._texts.keys() - self._ended
        if not self._texts or (open_choices and self._gives_reasons):
            self.fail_incomplete()
            return b""
        usage = self._count()
        length = usage is not None and usage.output >= self._wanted.limit * len(self._texts)
        reason = "length" if length else "stop"
        out = b"".join([self._finish(index, reason) for index in sorted(open_choices)])
        self.usage = usage
        if self._wanted.include_usage:
            out += self._chunks.usage(usage)
        return out + DONE

    def _event(self, piece: bytes) -> bytes:
        """Return the events that one response becomes. Half of one at the end is not dropped but fails the stream."""
        if self.over:
            return b""
        try:
            said = _response.decode(piece)
        except (ValueError, RecursionError) as error:
            message = "the engine sent an event that is not valid"
            self.fail(Failure(Kind.GARBLED, message, facts=reason_of(error)))
            return b""
        if "error" in said:
            self.fail(self._read_failure(500, (), piece))
            return b""
        texts = self._elements(said, "output")
        if not texts:
            missing = f"no tensor {self._wanted.tensors.name('output')!r}"
            self.fail(Failure(Kind.GARBLED, "the engine's stream has no text in it", facts=missing))
            return b""
        self._note_counts(said)
        out = [self._text(index, str(text)) for index, text in enumerate(texts)]
        reasons = self._elements(said, "finish_reason")
        self._gives_reasons = self._gives_reasons or bool(reasons)
        out += [
            self._finish(index, str(reason)) for index, reason in enumerate(reasons) if reason not in _GOES_ON
        ]
        self.finished = bool(self._ended) and self._texts.keys() <= self._ended
        return b"".join(out)

    def _text(self, index: int, text: str) -> bytes:
        """Return more of a choice's text, cut before a stop string."""
        before = self._texts[index]
        if self._wanted.tensors.grows:
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
        return out + self._finish(index, "stop") if cutter.hit else out

    def _finish(self, index: int, reason: str) -> bytes:
        """Return the end of a choice; nothing the second time."""
        if index in self._ended:
            return b""
        self._ended.add(index)
        held = self._cutters[index].close()
        rest = self._chunks.text(index, held) if held else b""
        self.content += bool(held)
        return rest + self._chunks.finish(index, reason)

    def _note_counts(self, said: Mapping[str, Any]) -> None:
        """Record the token counts in a response, if it has any."""
        read, made = self._elements(said, "input_tokens"), self._elements(said, "output_tokens")
        if all(type(count) is int for count in (*read, *made)) and (read or made):
            self._tells_counts = True
            self._input = max(self._input, sum(read))
            self._output += sum(made)

    def _elements(self, said: Mapping[str, Any], role: Role) -> list[Any]:
        """Return the elements of a tensor; none if it is missing. Triton writes a single element without brackets."""
        value = said.get(self._wanted.tensors.name(role) or "", [])
        return value if isinstance(value, list) else [value]

    def _count(self) -> Usage | None:
        """Return the tokens counted by the model or the tokenizer; None if neither did."""
        if self._tells_counts:
            return Usage(self._input, self._output)
        return self._counting([self._texts[index] for index in sorted(self._texts)])


_GOES_ON = (None, "", "None")
_response = msgspec.json.Decoder(dict[str, Any])
