"""Read requests as an OpenAI-compatible engine does, and make its answers and stream payloads.

Rules:
- Pure and deterministic: the same request under the same behaviour gives the same bytes, ids included.
- Counts are plausible, not exact: a token is a word.
- Nothing here knows HTTP or SSE; payloads are JSON.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, NamedTuple

from gateway.fake.script import MOST_TOKENS, Behaviour

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
GENERATING = (CHAT, COMPLETIONS, EMBEDDINGS)
CREATED = 1_700_000_000
DONE = b"[DONE]"
_MOST_CHOICES = 128
_LOREM = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore".split()
_UNICODE = [
    "line\u2028separator",
    "paragraph\u2029separator",
    "next\u0085line",
    "e\u0301",
    "\U0001f469\u200d\U0001f4bb",
    "汉字",
    "\u202eabc",
]


class Payload(NamedTuple):
    """One event of a stream: its JSON text and how many tokens it carries."""

    text: bytes
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, as far as a fake engine needs it. A body that is no JSON object asks for nothing."""

    path: str
    model: str | None
    stream: bool
    include_usage: bool
    limit: int | None
    choices: int
    prompt: str
    """The last message, or the prompt."""
    prompt_tokens: int
    inputs: tuple[str, ...]
    encoded: bool
    """Embeddings in base64."""
    dimensions: int
    id: str
    fault: str | None
    """Why the body cannot be answered."""


def understand(path: str, body: bytes) -> Asked:
    """Read a request's body. Never raise: what is wrong with it becomes `fault`."""
    fault = None
    try:
        fields = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        fields, fault = {}, "the body is not valid JSON"
    if not isinstance(fields, dict):
        fields, fault = {}, "the body is not a JSON object"
    options = fields.get("stream_options")
    prompt, words = _prompt(fields)
    model = fields.get("model")
    return Asked(
        path=path,
        model=model if isinstance(model, str) else None,
        stream=fields.get("stream") is True and path != EMBEDDINGS,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        limit=_count(fields.get("max_completion_tokens"), fields.get("max_tokens")),
        choices=min(_count(fields.get("n")) or 1, _MOST_CHOICES),
        prompt=prompt,
        prompt_tokens=words,
        inputs=_inputs(fields.get("input")),
        encoded=fields.get("encoding_format") == "base64",
        dimensions=min(_count(fields.get("dimensions")) or 8, 4096),
        id=hashlib.sha256(body).hexdigest()[:24],
        fault=fault,
    )


def _count(*values: Any) -> int | None:
    """Return the first value that is a whole number of at least 0."""
    whole = (value for value in values if isinstance(value, int) and not isinstance(value, bool))
    return next((value for value in whole if value >= 0), None)


def _inputs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or (value and all(isinstance(item, int) for item in value)):
        value = [value]
    return tuple(item if isinstance(item, str) else json.dumps(item) for item in value)


def _prompt(fields: dict[str, Any]) -> tuple[str, int]:
    """Return the text to echo, and the number of words in all that was sent."""
    messages = fields.get("messages")
    if isinstance(messages, list):
        texts = [_text(message.get("content")) for message in messages if isinstance(message, dict)]
        return (texts[-1] if texts else ""), sum(len(text.split()) for text in texts)
    given = fields.get("prompt", fields.get("input", ""))
    parts = given if isinstance(given, list) else [given]
    texts = [_text(part) for part in parts]
    return " ".join(texts), sum(len(text.split()) for text in texts)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else "" if content is None else str(content)


@dataclass(frozen=True, slots=True)
class Generation:
    """The text generated for one request under one behaviour."""

    asked: Asked
    behaviour: Behaviour
    model: str

    @property
    def words(self) -> Sequence[str]:
        """The words of the answer, repeated where an answer is longer."""
        if self.behaviour.say is not None:
            return self.behaviour.say.split(" ")
        if self.behaviour.text == "echo":
            return self.asked.prompt.split() or ["…"]
        return {"lorem": _LOREM, "unicode": _UNICODE}.get(self.behaviour.text, ())

    @property
    def wanted(self) -> int:
        """How many tokens the model would generate without the request's limit."""
        if self.behaviour.tokens is not None:
            return self.behaviour.tokens
        if self.behaviour.say is not None or self.behaviour.text == "echo":
            return len(self.words)
        return 16 if self.asked.limit is None else min(self.asked.limit, MOST_TOKENS)

    @property
    def count(self) -> int:
        """How many tokens each choice has."""
        return self.wanted if self.asked.limit is None else min(self.wanted, self.asked.limit)

    @property
    def finish(self) -> str | None:
        if self.behaviour.finish != "auto":
            return self.behaviour.finish
        return "length" if self.asked.limit is not None and self.count == self.asked.limit else "stop"

    def pieces(self) -> Iterator[str]:
        """Yield the text of each token, without end."""
        source: Iterable[str] = cycle(self.words) if self.words else (f"word{n}" for n in _naturals())
        for number, word in enumerate(source):
            yield f" {word}" if number else word

    def usage(self, said: int) -> dict[str, int]:
        total = self.asked.prompt_tokens + said
        return {"prompt_tokens": self.asked.prompt_tokens, "completion_tokens": said, "total_tokens": total}

    def whole(self) -> bytes:
        """Return the body of an answer that is not streamed."""
        if self.asked.path == EMBEDDINGS:
            return _dump(self._embeddings())
        chat = self.asked.path != COMPLETIONS
        text = "".join(islice(self.pieces(), self.count))
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choices = [
            {"index": index, **said, "logprobs": None, "finish_reason": self.finish}
            for index in range(self.asked.choices)
        ]
        kind = "chat.completion" if chat else "text_completion"
        usage = self.usage(self.count * self.asked.choices)
        return _dump(self._envelope(kind) | {"choices": choices, "usage": usage})

    def events(self) -> Iterator[Payload]:
        """Yield the payloads of a stream, `[DONE]` included; without end where the behaviour says so."""
        chat = self.asked.path != COMPLETIONS
        said = 0
        if chat:
            for index in range(self.asked.choices):
                yield self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, 0)
        pieces = self.pieces() if self.behaviour.endless else islice(self.pieces(), self.count)
        for piece in pieces:
            for index in range(self.asked.choices):
                said += 1
                delta = {"delta": {"content": piece}} if chat else {"text": piece}
                yield self._chunk(index, delta, said, tokens=1)
        if self.finish is not None:
            for index in range(self.asked.choices):
                yield self._chunk(index, {"delta": {}} if chat else {"text": ""}, said, finish=self.finish)
        if self._usage_told:
            yield Payload(_dump(self._envelope(self._kind) | {"choices": [], "usage": self.usage(said)}))
        if self.behaviour.sse.done != "never":
            yield Payload(DONE)
        if self.behaviour.sse.done == "twice":
            yield Payload(DONE)

    @property
    def _usage_told(self) -> bool:
        how = self.behaviour.usage
        return how == "always" or (how != "never" and self.asked.include_usage)

    @property
    def _kind(self) -> str:
        return "text_completion" if self.asked.path == COMPLETIONS else "chat.completion.chunk"

    def _chunk(
        self, index: int, said: dict[str, Any], so_far: int, tokens: int = 0, finish: str | None = None
    ) -> Payload:
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish}
        chunk = self._envelope(self._kind) | {"choices": [choice]}
        if self.behaviour.usage == "every":
            chunk["usage"] = self.usage(so_far)
        elif self.behaviour.usage == "null":
            chunk["usage"] = None
        return Payload(_dump(chunk), tokens)

    def _envelope(self, kind: str) -> dict[str, Any]:
        prefix = "cmpl" if self.asked.path == COMPLETIONS else "chatcmpl"
        return {"id": f"{prefix}-{self.asked.id}", "object": kind, "created": CREATED, "model": self.model}

    def _embeddings(self) -> dict[str, Any]:
        data = []
        for index, text in enumerate(self.asked.inputs):
            vector = _vector(text, self.asked.dimensions)
            packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            embedding = packed if self.asked.encoded else vector
            data.append({"object": "embedding", "index": index, "embedding": embedding})
        usage = {"prompt_tokens": self.asked.prompt_tokens, "total_tokens": self.asked.prompt_tokens}
        return {"object": "list", "data": data, "model": self.model, "usage": usage}


def models(names: Iterable[str]) -> bytes:
    """Return the body of the model list."""
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "fake"} for name in names]
    return _dump({"object": "list", "data": data})


def error(message: str, kind: str, code: str | int | None = None) -> bytes:
    """Return an error in OpenAI's shape."""
    return _dump({"error": {"message": message, "type": kind, "param": None, "code": code}})


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _naturals() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _vector(text: str, dimensions: int) -> list[float]:
    """Return an embedding that depends on the text alone."""
    seed = hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(dimensions)
    return [round(byte / 127.5 - 1, 6) for byte in seed]
