"""Read LMDeploy's answers: text is cut before stop strings, tokens of log probabilities are text, aborts are failures.

Facts are those of LMDeploy 0.18.

Rules:
- Once a stop string was found in every choice the engine is left: it would go on until the limit. What it would have
  counted at the end is not known then: a chat or completion has no usage, a Message the number of its pieces.
- Tokens of log probabilities come as the vocabulary has them, where bytes stand for other characters and U+2581 for a
  space, and the token that was chosen is missing among the most probable ones.
- A Message that was aborted ends as if a stop sequence had been hit, without naming one. No other does.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from backends.base import Engine, Operation, Request, StreamDecoder
from backends.dialect import cutting, reasons
from backends.dialect.chunks import StopCutter, fresh_id
from backends.dialect.cutting import CuttingStream
from backends.dialect.passed import MessageEvents
from backends.dialect.shapes import Event
from backends.engines.lmdeploy.asked import Wanted, wanted
from backends.framing import sse

NO_ID: Final = (b'"id": "-1"', b'"id":"-1"')
"""The id of every completion, streamed and whole."""

_decode = msgspec.json.Decoder()


def decoder(engine: Engine, request: Request, plain: StreamDecoder) -> StreamDecoder:
    """Return the decoder of a streamed answer; `plain` is that of an answer in which nothing has to be changed."""
    match request.operation:
        case Operation.CHAT | Operation.COMPLETIONS:
            todo = wanted(request)
            needed = todo.stops or todo.logprobs or request.operation is Operation.COMPLETIONS
            return Completion(engine, request, todo) if needed else plain
        case Operation.MESSAGES:
            return Message(engine, request, wanted(request))
    return plain


class Completion(CuttingStream):
    """Watches a stream of chunks, gives completions an id of their own and reads the tokens of log probabilities."""

    __slots__ = ("_id", "_logprobs")

    def __init__(self, engine: Engine, request: Request, todo: Wanted) -> None:
        super().__init__(engine, request, todo.stops, looks=todo.logprobs)
        self._id = b'"id": "%b"' % fresh_id("cmpl").encode()
        self._logprobs = todo.logprobs

    def _public(self, event: bytes, said: Event) -> bytes:
        return super()._public(event, said).replace(NO_ID[0], self._id, 1)

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        logprobs = choice.get("logprobs")
        if logprobs and self._logprobs:
            read_logprobs(logprobs)
        return super()._choice(choice)


class Message(MessageEvents):
    """Watches a stream of Anthropic's events; cuts its text before stop sequences, and knows an abort."""

    __slots__ = ("_block", "_calls", "_cutter", "_left_out", "_one_call")

    def __init__(self, engine: Engine, request: Request, todo: Wanted) -> None:
        super().__init__(engine, request)
        self._cutter = StopCutter(todo.stops)
        self._one_call = todo.one_call
        self._calls = 0
        self._left_out = False
        """Whether the block that comes now is another tool call than the only one wanted."""
        self._block = 0

    def _event(self, piece: bytes) -> bytes:
        out = super()._event(piece)
        if not out or self.failure is not None:
            return out
        said: dict[str, Any] = _decode.decode(sse.payload(piece) or b"null") or {}
        match said.get("type"):
            case "message_delta":
                delta = said.get("delta") or {}
                if delta.get("stop_reason") == "stop_sequence" and delta.get("stop_sequence") is None:
                    self.fail(reasons.broke_off("stop_sequence"))
                    return b""
            case "content_block_start":
                self._block = said.get("index") or 0
                self._calls += (said.get("content_block") or {}).get("type") == "tool_use"
                self._left_out = self._one_call and self._calls > 1
                return b"" if self._left_out else out
            case "content_block_delta":
                return b"" if self._left_out else self._text(said, out)
            case "content_block_stop":
                held = self._cutter.close()
                return b"" if self._left_out else (self._said(held) if held else b"") + out
        return out

    def _text(self, said: dict[str, Any], out: bytes) -> bytes:
        """Return a delta with the text before a stop sequence, and the end of the message where it was hit."""
        text = (said.get("delta") or {}).get("text")
        if not isinstance(text, str) or not text:
            return out
        kept = self._cutter.feed(text)
        if not self._cutter.hit:
            return out if kept == text else self._said(kept) if kept else b""
        delta = {"stop_reason": "stop_sequence", "stop_sequence": self._cutter.found}
        end: tuple[dict[str, Any], ...] = (
            {"type": "content_block_stop", "index": self._block},
            {"type": "message_delta", "delta": delta, "usage": {"output_tokens": self.content}},
            {"type": "message_stop"},
        )
        self.finished = self.enough = self.over = True
        return (self._said(kept) if kept else b"") + b"".join(map(_named, end))

    def _said(self, text: str) -> bytes:
        """Return the event for more text of the block."""
        delta = {"type": "text_delta", "text": text}
        return _named({"type": "content_block_delta", "index": self._block, "delta": delta})


def _named(event: dict[str, Any]) -> bytes:
    """Return an event of Anthropic's, whose name is its type."""
    return b"event: %b\n" % event["type"].encode() + sse.encode(msgspec.json.encode(event))


def cut(body: bytes, todo: Wanted) -> bytes:
    """Return a whole completion, of several prompts, cut before the stop strings and with an id of its own."""
    body = body.replace(NO_ID[1], b'"id":"%b"' % fresh_id("cmpl").encode(), 1)
    if not todo.stops:
        return body
    answer = _decode.decode(body)
    for choice in answer["choices"]:
        choice["text"], hit = cutting.cut(choice.get("text") or "", todo.stops)
        if hit:
            choice["finish_reason"] = "stop"
    return msgspec.json.encode(answer)


# --- tokens of log probabilities

_PRINTED = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
_BYTES: Final = {
    **{chr(byte): byte for byte in _PRINTED},
    **{
        chr(256 + place): byte
        for place, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)
    },
}
"""The byte for each character of a byte-level vocabulary (GPT-2's): those that print are themselves, the others follow
from U+0100."""
_SPACE = "\u2581"
"""What stands for a space in a vocabulary of SentencePiece."""
_HEX = frozenset("0123456789ABCDEF")


def read_logprobs(logprobs: dict[str, Any]) -> None:
    """Turn the tokens in the log probabilities of a choice into text, and put the chosen one among the others."""
    for token in logprobs.get("content") or ():
        _read_token(token)
        others = token.get("top_logprobs") or []
        for other in others:
            _read_token(other)
        chosen = {name: token[name] for name in ("token", "bytes", "logprob") if name in token}
        token["top_logprobs"] = sorted([*others, chosen], key=_probability, reverse=True)


def _probability(token: dict[str, Any]) -> float:
    return float(token.get("logprob") or 0)


def _read_token(token: dict[str, Any]) -> None:
    raw = token.get("token")
    if not isinstance(raw, str):
        return
    data = _bytes_of(raw)
    token["token"] = data.decode(errors="replace")
    token["bytes"] = list(data)


def _bytes_of(raw: str) -> bytes:
    """Return the bytes of a token, from a byte-level vocabulary or one of SentencePiece."""
    if (
        len(raw) == len("<0x0A>")
        and raw.startswith("<0x")
        and raw.endswith(">")
        and _HEX.issuperset(raw[3:5])
    ):
        return bytes.fromhex(raw[3:5])
    if _SPACE not in raw and all(character in _BYTES for character in raw):
        return bytes(_BYTES[character] for character in raw)
    return raw.replace(_SPACE, " ").encode()
