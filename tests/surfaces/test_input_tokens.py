"""The tokens of a response's input: by the engine's tokenizer, else an estimate that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from backends.base import Operation, Reply, Request, RequestError
from backends.surfaces.codecs import translated
from backends.surfaces.translation import Translation
from gateway.fake.engine import FakeEngine
from tests.api.asking import answering
from tests.serving import serving
from tests.surfaces.chatting import ENGINE
from tests.surfaces.test_count_tokens import NATIVE, config

PATH = "/v1/responses/input_tokens"
TOOL = {"type": "function", "name": "get", "parameters": {"type": "object"}}
ASKED: dict[str, Any] = {"model": "m", "instructions": "be brief", "input": "hi"}


def translation(body: dict[str, Any]) -> Translation:
    found = translated(Request(Operation.INPUT_TOKENS, msgspec.json.encode(body), "m"), ENGINE, NATIVE)
    assert found is not None
    return found


def test_the_tokenizer_gets_what_the_template_reads() -> None:
    found = translation(
        ASKED | {"tools": [TOOL], "reasoning": {"effort": "none"}, "text": {"verbosity": "low"}}
    )
    assert found.said.operation is Operation.TOKENIZE
    assert json.loads(found.said.body) == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}],
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_the_answer_is_openais() -> None:
    found = translation(ASKED).reply(Reply(b'{"tokens":[1,2,3]}'))
    assert isinstance(found, Reply)
    assert json.loads(found.body) == {"object": "response.input_tokens", "input_tokens": 3}


def test_what_is_kept_elsewhere_cannot_be_counted() -> None:
    with pytest.raises(RequestError) as caught:
        translation(ASKED | {"previous_response_id": "resp_1"})
    assert caught.value.failure.param == "previous_response_id"


async def test_openais_client_gets_the_count_of_a_tokenizer(tmp_path: Path) -> None:
    rule = answering("/tokenize", {"count": 7, "tokens": list(range(7)), "max_model_len": 99})
    async with (
        FakeEngine(rules=[rule]) as engine,
        serving(tmp_path, config("openai", engine)) as served,
        openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as asks,
    ):
        raw = await asks.responses.input_tokens.with_raw_response.count(**ASKED)
        counted = raw.parse()
        assert (counted.input_tokens, counted.object) == (7, "response.input_tokens")
        assert "x-gateway-estimated" not in raw.headers
        assert [one.path for one in engine.requests if one.method == "POST"] == ["/tokenize"]


async def test_an_engine_without_a_tokenizer_makes_it_an_estimate(tmp_path: Path) -> None:
    async with FakeEngine() as engine, serving(tmp_path, config("ollama", engine)) as served:
        answer = await served.post(PATH, ASKED)
        assert (answer.status, answer.headers["x-gateway-estimated"]) == (200, "input_tokens")
        assert answer.json()["object"] == "response.input_tokens" and 0 < answer.json()["input_tokens"] < 60
        more = await served.post(PATH, ASKED | {"tools": [TOOL | {"description": "x" * 400}]})
        assert more.json()["input_tokens"] >= answer.json()["input_tokens"] + 100


async def test_what_is_continued_counts_too(tmp_path: Path) -> None:
    text = f"server: {{listen: '127.0.0.1:0', data: {tmp_path / 'data'}}}\n"
    async with (
        FakeEngine() as engine,
        serving(tmp_path, text + config("openai", engine, "{responses: false}")) as served,
    ):
        made = await served.post("/v1/responses", {"model": "m", "input": "word " * 400})
        more = await served.post(PATH, ASKED | {"previous_response_id": made.json()["id"]})
        assert more.status == 200 and more.json()["input_tokens"] > 400
        unknown = await served.post(PATH, ASKED | {"previous_response_id": "resp_x"})
        assert unknown.error["code"] == "previous_response_not_found"
        kept = served.gateway.core.kept
        assert kept is not None
        await kept.close()
