"""The tokens of a message: by the engine's tokenizer, of messages or of their text, else an estimate that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import pytest

from backends import registry
from backends.base import Operation, Reply, Request, RequestError
from backends.surfaces.codecs import translated
from backends.surfaces.translation import Translation
from gateway.fake.engine import FakeEngine
from tests.api.asking import answering
from tests.serving import serving
from tests.surfaces.chatting import ENGINE

NATIVE = frozenset({Operation.CHAT, Operation.TOKENIZE})
PATH = "/v1/messages/count_tokens"
TOOL = {"name": "get", "input_schema": {"type": "object"}}
CALL = {"type": "tool_use", "id": "a", "name": "get", "input": {"city": "Oslo"}}
ASKED: dict[str, Any] = {"model": "m", "system": "be brief", "messages": [{"role": "user", "content": "hi"}]}


def translation(body: dict[str, Any]) -> Translation:
    request = Request(Operation.COUNT_TOKENS, msgspec.json.encode(body), "m")
    found = translated(request, ENGINE, NATIVE)
    assert found is not None
    return found


def test_the_tokenizer_gets_what_the_template_reads() -> None:
    found = translation(
        ASKED | {"tools": [TOOL], "tool_choice": {"type": "any"}, "thinking": {"type": "disabled"}}
    )
    assert found.said.operation is Operation.TOKENIZE
    assert json.loads(found.said.body) == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}],
        "chat_template_kwargs": {"enable_thinking": False},
    }


@pytest.mark.parametrize("engine", ["llama-cpp-python", "tensorrt-llm"])
def test_a_tokenizer_of_texts_gets_the_text(engine: str) -> None:
    turns = [*ASKED["messages"], {"role": "assistant", "content": [CALL]}]
    found = translation(ASKED | {"messages": turns, "tools": [TOOL]})
    call = found.call(registry.create(engine), "up")
    assert found.dropped == ("chat_template",)
    for said in (b"be brief", b"hi", b"Oslo", b"object"):
        assert said in call.body
    assert b"messages" not in call.body


@pytest.mark.parametrize("answer", [b'{"count":3,"tokens":[1,2,3]}', b'{"tokens":[1,2,3]}'])
def test_the_answer_is_anthropics(answer: bytes) -> None:
    found = translation(ASKED).reply(Reply(answer))
    assert isinstance(found, Reply) and found.body == b'{"input_tokens":3}'


def test_a_mistake_has_its_place() -> None:
    with pytest.raises(RequestError) as caught:
        translation(ASKED | {"messages": [{"role": "user", "content": [{"type": "image"}]}]})
    assert caught.value.failure.param == "messages.0.content.0.source"


def config(kind: str, engine: FakeEngine, native: str = "{}") -> str:
    return f"""
backends: {{a: {{engine: {kind}, url: "{engine.url}", models: [up], native: {native}}}}}
models: {{m: {{targets: {{a: up}}}}}}
"""


async def test_anthropics_client_gets_the_count_of_a_tokenizer(tmp_path: Path) -> None:
    rule = answering("/tokenize", {"count": 7, "tokens": list(range(7)), "max_model_len": 99})
    async with (
        FakeEngine(rules=[rule]) as engine,
        serving(tmp_path, config("openai", engine, "{count_tokens: false}")) as served,
        anthropic.AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0) as asks,
    ):
        raw = await asks.messages.with_raw_response.count_tokens(**ASKED)
        assert (await raw.parse()).input_tokens == 7 and "x-gateway-estimated" not in raw.headers
        assert [one.path for one in engine.requests if one.method == "POST"] == ["/tokenize"]


@pytest.mark.parametrize("native", ["{}", "{count_tokens: false}"])
async def test_an_engine_that_has_no_such_path_makes_it_an_estimate(tmp_path: Path, native: str) -> None:
    async with FakeEngine() as engine, serving(tmp_path, config("openai", engine, native)) as served:
        answer = await served.post(PATH, ASKED)
        assert (answer.status, answer.headers["x-gateway-estimated"]) == (200, "input_tokens")
        assert served.metric("gateway_requests_total", operation="count_tokens", outcome="ok") == 1
        more = await served.post(PATH, ASKED | {"tools": [TOOL | {"description": "x" * 400}]})
        assert more.json()["input_tokens"] >= answer.json()["input_tokens"] + 100 > 100


async def test_an_engine_without_a_tokenizer_makes_it_an_estimate(tmp_path: Path) -> None:
    async with FakeEngine() as engine, serving(tmp_path, config("ollama", engine)) as served:
        answer = await served.post(PATH, ASKED)
        assert (answer.status, answer.headers["x-gateway-estimated"]) == (200, "input_tokens")
        assert 0 < answer.json()["input_tokens"] < 60
        assert (await served.post(PATH, ASKED | {"model": "n"})).status == 404
