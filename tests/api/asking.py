"""What the tests of the operations beside chat ask, and what a fake engine answers: requests, forms, streams, rules.

One model, `public`, is at engines that call it `private`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

from backends.dialect import responses
from gateway.fake.engine import FakeEngine
from gateway.fake.script import Match, Reply, Rule
from tests.serving import Served, serving

EVENTS = "text/event-stream"
FORM = "multipart/form-data; boundary=x1"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
SPEECH = "/v1/audio/speech"
WAV = b"RIFF\r\n\x00\xff--x\r\n\r\n--"


def config(*engines: FakeEngine, kinds: tuple[str, ...] = (), more: str = "") -> str:
    """Return a config with these engines, `openai` unless `kinds` says otherwise; `more` is more of the model."""
    kinds += ("openai",) * (len(engines) - len(kinds))
    backends = "".join(
        f'  e{n}: {{engine: {kind}, url: "{engine.url}"}}\n'
        for n, (engine, kind) in enumerate(zip(engines, kinds, strict=True))
    )
    targets = ", ".join(f"e{n}: private" for n in range(len(engines)))
    return f"backends:\n{backends}models:\n  public: {{targets: {{{targets}}}{more}}}\n"


def answering(path: str, body: Any, kind: str = "application/json", status: int = 200, **more: Any) -> Rule:
    """Return a rule of a fake engine: at this path, this answer."""
    reply = Reply.model_validate({"status": status, "body": body, "headers": {"content-type": kind}})
    return Rule(match=Match(path=path), reply=reply, **more)


@contextlib.asynccontextmanager
async def answered(folder: Path, *rules: Rule) -> AsyncIterator[tuple[FakeEngine, Served]]:
    """Yield an engine that answers by these rules, and the gateway before it."""
    async with FakeEngine(rules=rules) as engine, serving(folder, config(engine)) as served:
        yield engine, served


def form(*fields: tuple[str, str | bytes], boundary: str = "x1") -> bytes:
    """Return a form with these fields; bytes go as a file."""
    parts = []
    for name, value in fields:
        file = "" if isinstance(value, str) else '; filename="a.wav"\r\nContent-Type: audio/wav'
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode() + (value.encode() if isinstance(value, str) else value) + b"\r\n")
    return b"".join([*parts, f"--{boundary}--\r\n".encode()])


class Asked(NamedTuple):
    """An operation's paths, the engine's first; what is asked and what is answered, beside the model."""

    paths: tuple[str, ...]
    asks: dict[str, Any]
    says: dict[str, Any]


RESPONSE: dict[str, Any] = {
    **responses.DEFAULTS,
    "object": "response",
    "created_at": 1,
    "error": None,
    "incomplete_details": None,
    "output": [],
}
"""A response that lacks nothing, without its model."""

ASKED = {
    "rerank": Asked(
        ("/v1/rerank", "/rerank", "/v2/rerank"),
        {"query": "q", "documents": ["a", "b"], "top_n": 1},
        {"results": [{"index": 1, "relevance_score": 0.9}]},
    ),
    "score": Asked(
        ("/v1/score", "/score"),
        {"text_1": "a", "text_2": ["b"]},
        {"data": [{"index": 0, "object": "score", "score": 0.5}]},
    ),
    "tokenize": Asked(("/tokenize", "/v1/tokenize"), {"prompt": ""}, {"count": 0, "tokens": []}),
    "detokenize": Asked(("/detokenize", "/v1/detokenize"), {"tokens": [1, 2]}, {"prompt": "hi"}),
    "infill": Asked(("/infill",), {"input_prefix": "a", "input_suffix": "b"}, {"content": "x", "stop": True}),
    "responses": Asked(
        ("/v1/responses",),
        {"input": "hi"},
        RESPONSE,
    ),
    "messages": Asked(
        ("/v1/messages",),
        {"messages": [{}], "max_tokens": 5},
        {"type": "message", "content": [], "stop_reason": "end_turn"},
    ),
    "count_tokens": Asked(
        ("/v1/messages/count_tokens",), {"messages": [{}]}, {"input_tokens": 16, "context_management": {}}
    ),
    "images": Asked(("/v1/images/generations",), {"prompt": "a cat"}, {"data": [{"b64_json": "aGk="}]}),
}


def event(kind: str, **said: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **said}, separators=(',', ':'))}\n\n"


class Stream(NamedTuple):
    """A stream in two parts: the second holds the event that completes it. It counts 9 tokens in and 2 out."""

    begin: str
    end: str


STREAMS = {
    "responses": Stream(
        event("response.created", response={"model": "private", "status": "in_progress"}, sequence_number=0)
        + event("response.output_text.delta", delta="Hello", logprobs=[], sequence_number=1),
        event(
            "response.completed",
            response={
                **RESPONSE,
                "model": "private",
                "usage": {
                    "input_tokens": 9,
                    "output_tokens": 2,
                    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                    "output_tokens_details": {"reasoning_tokens": 0},
                },
            },
            sequence_number=2,
        ),
    ),
    "messages": Stream(
        event("message_start", message={"model": "private", "usage": {"input_tokens": 9, "output_tokens": 0}})
        + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"})
        + event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2}),
        event("message_stop"),
    ),
    "infill": Stream(
        'data: {"content":"x","stop":false}\n\n',
        'data: {"content":"","stop":true,"model":"private","tokens_evaluated":9,"tokens_predicted":2}\n\n',
    ),
    "images": Stream(
        event("image_generation.partial_image", b64_json="AA"),
        event("image_generation.completed", b64_json="AAAA", usage={"input_tokens": 9, "output_tokens": 2}),
    ),
}


def streaming(operation: str) -> tuple[str, dict[str, Any]]:
    """Where a stream is asked for, and with what."""
    asked = ASKED[operation]
    return asked.paths[0], {"model": "public", **asked.asks, "stream": True}


def public(text: str) -> str:
    return text.replace('"private"', '"public"')
