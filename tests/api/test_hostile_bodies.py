"""Bodies that nobody means well: whatever is in them, the answer is an error of the client's dialect, and never a 500.

Rules:
- A number that no program can hold, a wrong type and deep nesting are tried in members that the gateway reads, and in
  those that only a translation or an engine's adapter reads.
- Every engine is asked, because each reads more of a request or less.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends import registry
from backends.base import OLLAMA, Operation
from backends.operation import GEMINI
from gateway.api.endpoints import ENDPOINTS, FORM
from gateway.fake.engine import FakeEngine
from tests.conformance import gemini_types
from tests.serving import Answer, serving

HI = '"messages":[{"role":"user","content":"x"}]'
CONTENTS = '"contents":[{"parts":[{"text":"hi"}]}]'
BODIES: dict[Operation, str] = {
    Operation.CHAT: HI,
    Operation.COMPLETIONS: '"prompt":"x"',
    Operation.EMBEDDINGS: '"input":"x"',
    Operation.RESPONSES: '"input":"x"',
    Operation.INPUT_TOKENS: '"input":"x"',
    Operation.MESSAGES: f'"max_tokens":5,{HI}',
    Operation.COUNT_TOKENS: HI,
    Operation.RERANK: '"query":"q","documents":["a"]',
    Operation.SCORE: '"text_1":"a","text_2":"b"',
    Operation.TOKENIZE: '"prompt":"x"',
    Operation.DETOKENIZE: '"tokens":[1]',
    Operation.INFILL: '"input_prefix":"a","input_suffix":"b"',
    Operation.SPEECH: '"input":"x","voice":"a"',
    Operation.IMAGES: '"prompt":"x"',
    Operation.OLLAMA_CHAT: f'{HI},"stream":false',
    Operation.OLLAMA_GENERATE: '"prompt":"x","stream":false',
    Operation.OLLAMA_EMBED: '"input":"x"',
    Operation.OLLAMA_EMBEDDINGS: '"prompt":"x"',
    Operation.GEMINI_GENERATE: CONTENTS,
    Operation.GEMINI_COUNT_TOKENS: CONTENTS,
    Operation.GEMINI_EMBED: '"content":{"parts":[{"text":"x"}]}',
    Operation.GEMINI_BATCH_EMBED: '"requests":[{"content":{"parts":[{"text":"x"}]}}]',
}
"""What each operation needs, beside the model."""
ODD = (
    '"x":1e999',
    '"tools":[{"type":"function","function":{"name":"f","parameters":{"a":1e999}}}]',
    '"keep_alive":1e999',
    '"options":{"seed":-1e999}',
    '"service_tier":1e999',
    '"seed":' + "9" * 400,
    '"metadata":' + '{"a":' * 3000 + "1" + "}" * 3000,
    '"user":"\\ud800"',
)
CONFIG = """
backends: {{e: {{engine: {kind}, url: "{url}", models: [up], native: {{messages: false, responses: false}}}}}}
models: {{m: {{targets: {{e: up}}}}}}
"""


def dialect(operation: Operation, answer: Answer) -> None:
    """Hold an error to the dialect of its operation."""
    body = answer.json()
    if operation in OLLAMA:
        assert set(body) == {"error"} and isinstance(body["error"], str)
    elif operation in GEMINI:
        assert gemini_types.read(body, gemini_types.Refused).error.status != "INTERNAL"
    else:
        assert answer.error["code"] != "internal_error"


@pytest.mark.parametrize("kind", registry.ENGINES)
async def test_no_body_is_a_fault_of_the_gateway(kind: str, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, CONFIG.format(kind=kind, url=engine.url), alone=False, patient=False) as served,
    ):
        for endpoint in ENDPOINTS:
            if endpoint.takes == FORM:
                continue
            for odd in ODD:
                sent = f'{{"model":"m",{BODIES[endpoint.operation]},{odd}}}'.encode()
                answer = await served.post(endpoint.paths[0].format(model="m"), sent)
                what = f"{endpoint.operation}: {odd[:40]}: {answer.status} {answer.body[:200]!r}"
                assert answer.status != 500, what
                if answer.status >= 400:
                    dialect(endpoint.operation, answer)


VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**30, 1e308, 10**400, "", "x", "\0", "1e999", "9" * 40 + "h"),
    *([], [[]], {}, {"a": {}}, [None], [1], ["x"], [{}], {"type": "object"}),
)
MEMBERS = (
    *("model", "messages", "prompt", "input", "options", "format", "think", "keep_alive", "stream", "tools"),
    *("images", "system", "suffix", "raw", "template", "context", "logprobs", "top_logprobs", "dimensions"),
)


def wrong(path: str) -> Iterator[dict[str, Any]]:
    """Yield bodies for one of Ollama's paths, each with one member of another type, or in another place."""
    body: dict[str, Any] = {"model": "m", "stream": False}
    if path == "/api/chat":
        body |= {"messages": [{"role": "user", "content": "hi"}]}
        for value in VALUES:
            for name in ("role", "content", "images", "tool_calls", "thinking", "tool_name"):
                yield body | {"messages": [{"role": "assistant", "content": "x", name: value}]}
            call = {"function": {"name": "f", "arguments": value}}
            yield body | {"messages": [{"role": "assistant", "tool_calls": [call]}]}
            yield body | {"tools": [{"type": "function", "function": value}]}
    elif path != "/api/show":
        body |= {"input": "a", "prompt": "a"}
    for value in VALUES:
        for name in MEMBERS:
            yield body | {name: value}
        for name in ("temperature", "top_k", "seed", "num_predict", "stop", "num_ctx"):
            yield body | {"options": {name: value}}


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"])
async def test_every_wrong_type_is_said_in_ollamas_shape(path: str, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, CONFIG.format(kind="openai", url=engine.url)) as served,
    ):
        for body in wrong(path):
            answer = await served.post(path, body)
            what = f"{json.dumps(body)[:300]}: {answer.status} {answer.body[:200]!r}"
            assert answer.status in (200, 400, 404), what
            if answer.status != 200:
                assert set(answer.json()) == {"error"} and isinstance(answer.json()["error"], str), what
