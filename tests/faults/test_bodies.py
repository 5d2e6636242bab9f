"""Bodies beyond the plainly wrong ones: what a gateway must not change, must not act on, and must survive.

Rules:
- What the gateway need not know is the engine's to judge and passes byte for byte; nothing is added but what the
  gateway says it adds (the backend's model name; usage in a stream).
- `ELSEWHERE` says for each row of the catalogue that has no test why it has none.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from gateway.fake.engine import FakeEngine
from tests.faults.clients import CHAT, at_rest, chat, config, rest, said
from tests.serving import Served, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ELSEWHERE = {
    "T04, T10-T13": "no scopes, budgets or caches yet",
    "T08": "keys are looked up by SHA-256: nothing compares a secret letter by letter; timings here are noise",
    "T17 by reload": "tests/reload; two keys of one holder overlap in test_tenants",
}
"""Rows about tenants without a test; those about engines, clients and requests are in the catalogue."""


@dataclass
class Stage:
    served: Served
    engine: FakeEngine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path_factory.mktemp("gateway"), config(engine.url)) as served,
    ):
        yield Stage(served, engine)


NUMBERS = {
    "5 000 digits": ("max_tokens", "9" * 5000),
    "a fraction": ("n", "1.5"),
    "beyond all floats": ("n", "1e400"),
    "true": ("seed", "true"),
    "text": ("top_p", '"1"'),
    "a list": ("temperature", "[1]"),
    "an object": ("user", "{}"),
}


@pytest.mark.parametrize("name", NUMBERS)
async def test_a_number_that_is_none(name: str, stage: Stage) -> None:
    field, value = NUMBERS[name]
    body = f'{{"model": "m", "messages": [{{"role": "user", "content": "x"}}], "{field}": {value}}}'
    asked = len(stage.engine.requests)
    answer = await stage.served.post(CHAT, body.encode())
    assert answer.status == 400
    assert answer.error["param"] in (field, None)
    assert len(stage.engine.requests) == asked
    assert at_rest(stage.served)


PASSES: dict[str, dict[str, Any]] = {
    "a seed of 2^64": {"seed": 2**64},
    "a seed of 400 digits": {"seed": -(10**400)},
    "a large float": {"temperature": 1e308},
    "depth 100": {"metadata": json.loads("[" * 100 + "]" * 100)},
    "fields of other gateways": {
        "api_base": "http://169.254.169.254/",
        "base_url": "http://127.0.0.1:1",
        "api_key": "sk-forged",
        "custom_llm_provider": "x",
        "headers": {"authorization": "x"},
    },
    "fields of engines": {"chat_template": "{{ 1 }}", "guided_regex": "(a+)+$", "lora_path": "/etc/passwd"},
    "images by address": {
        "x": [{"image_url": {"url": url}} for url in ("http://169.254.169.254/", "file:///etc/passwd")]
    },
    "a schema with remote references": {
        "response_format": {"type": "json_schema", "json_schema": {"$ref": "http://127.0.0.1:1/"}}
    },
    "nulls": {"stream": None, "max_tokens": None, "temperature": None, "stop": None, "user": None},
    "a large n": {"logit_bias": {str(number): 1 for number in range(5000)}},
    "keys that differ by more than case": {"models": ["other"], "Stream_": True, "Metadata": {"MODEL": "x"}},
    "roles nobody knows": {"tool_choice": "??", "tools": []},
}


@pytest.mark.parametrize("name", PASSES)
async def test_what_is_not_the_gateways_passes_as_it_is(name: str, stage: Stage) -> None:
    """The engine named in the config gets it, under the config's key, with nothing added, dropped or rounded."""
    sent = chat("x", **PASSES[name])
    answer = await stage.served.post(CHAT, sent)
    assert answer.status == 200
    asked = stage.engine.requests[-1]
    assert asked.json() == sent | {"model": "up"}
    assert list(asked.json()) == list(sent)
    assert asked.headers["authorization"] == "Bearer backend-secret"


TEXTS = {
    "control characters": "a\x00b\x01c\x1fd\x7f",
    "line separators": "a\u2028b\u2029c\x85d\r\ne",
    "directions": "\u202e\u2066abc\u2069",
    "an emoji of several": "\U0001f469\u200d\U0001f4bb\U0001f1e9\U0001f1ea",
    "four-byte letters": "\U00020000\U0001f600",
    "what looks like the protocol": "data: [DONE]\n\ndata: {}\n\n: x\n\nevent: error",
    "what looks like the body": '","model":"other","messages":[',
    "a byte order mark": "\ufeffx\ufffe",
}


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("name", TEXTS)
async def test_any_text_goes_and_comes_as_it_is(name: str, escaped: bool, stage: Stage) -> None:
    text = TEXTS[name]

    def choice(key: str, content: str, finish: str | None) -> dict[str, Any]:
        return {"choices": [{"index": 0, key: {"content": content}, "finish_reason": finish}]}

    events = [choice("delta", text, None), choice("delta", "", "stop"), "[DONE]"]
    answers = {True: {"sse": {"events": events}}, False: {"reply": {"body": choice("message", text, "stop")}}}
    try:
        for stream, behaviour in answers.items():
            stage.engine.set(models=["up"], defaults=behaviour)
            body = json.dumps(chat(text, stream=stream), ensure_ascii=escaped).encode()
            answer = await stage.served.post(CHAT, body)
            assert answer.status == 200
            assert stage.engine.requests[-1].json()["messages"][0]["content"] == text
            assert (said(answer) if stream else answer.json()["choices"][0]["message"]["content"]) == text
    finally:
        stage.engine.set(models=["up"])


async def test_a_stream_gains_a_request_for_usage_and_nothing_else(stage: Stage) -> None:
    sent = chat("x", stream=True, seed=1)
    answer = await stage.served.post(CHAT, sent)
    assert answer.status == 200
    assert stage.engine.requests[-1].json() == sent | {
        "model": "up",
        "stream_options": {"include_usage": True},
    }
    assert not [event for event in answer.events[:-1] if event.get("usage")], "usage that nobody asked for"


async def test_large_bodies_many_at_a_time(stage: Stage) -> None:
    """Just below the limit, in parallel: all are served, and all memory for them is given back with the requests."""
    body = json.dumps(chat("x" * 9_000_000)).encode()
    answers = await asyncio.gather(*(stage.served.post(CHAT, body) for _ in range(4)))
    assert [answer.status for answer in answers] == [200] * 4
    await rest(stage.served)
    stage.engine.journal.clear()
