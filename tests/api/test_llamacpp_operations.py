"""The operations of the real, embedded llama.cpp through the gateway: what it can do it does, what it cannot it says.

The demo model is no reranker; asked to be one it answers numbers without a meaning, in the true form.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai.types import Completion
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from backends.base import Failure, Signal, Status
from backends.engines.llamacpp.engine import LlamaCpp
from gateway.wire.ask import ask
from tests.api.asking import FORM, WAV, form
from tests.serving import Answer, Served, serving

pytestmark = pytest.mark.slow

MODEL = Path(__file__).parents[2] / "models" / "demo.gguf"
ASKS: dict[str, Any] = {"model": "small", "temperature": 0}
RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def config(**more: Any) -> str:
    launch = {"model": str(MODEL), "name": "demo", "parallel": 2, "context": 512, **more}
    return (
        f"backends: {{local: {{engine: llamacpp, launch: {json.dumps(launch)}}}}}\n"
        "models: {small: {targets: {local: demo}}}\n"
    )


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, config()) as running:
        yield running


def named_events(answer: Answer) -> list[tuple[str, Any]]:
    """Return the names and the data of a stream's events."""
    assert answer.status == 200 and answer.whole, answer.body
    found = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_tokens_and_back(served: Served) -> None:
    told = (
        await served.post("/tokenize", {**ASKS, "prompt": "Grüße, 网关", "return_token_strs": True})
    ).json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert all(isinstance(token, int) for token in told["tokens"])
    plain = (await served.post("/v1/tokenize", {**ASKS, "prompt": "Grüße, 网关"})).json()
    assert plain == {"count": told["count"], "tokens": told["tokens"]}
    for path in ("/detokenize", "/v1/detokenize"):
        text = await served.post(path, {**ASKS, "tokens": told["tokens"]})
        assert text.json() == {"prompt": "Grüße, 网关"}
    wrong = await served.post("/detokenize", {**ASKS, "tokens": [9_999_999]})
    assert (wrong.status, wrong.error["message"]) == (400, "one of the tokens is none of the model's")


async def test_responses(served: Served) -> None:
    asked = {**ASKS, "input": "What is this gateway?", "max_output_tokens": 8}
    whole = (await served.post("/v1/responses", asked)).json()
    assert (whole["object"], whole["status"], whole["model"]) == ("response", "incomplete", "small")
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}
    Response.model_validate(whole)
    events = named_events(await served.post("/v1/responses", {**asked, "stream": True}))
    assert [name for name, _ in events] == [said["type"] for _, said in events]
    assert (events[0][0], events[-1][0]) == ("response.created", "response.incomplete")
    assert [said["sequence_number"] for _, said in events] == list(range(len(events)))
    for _, said in events:
        RESPONSE_EVENT.validate_python(said)
    assert events[-1][1]["response"]["model"] == "small"
    text = "".join(said["delta"] for name, said in events if name == "response.output_text.delta")
    assert text and text == whole["output"][0]["content"][0]["text"]
    ended = (await served.post("/v1/responses", asked | {"max_output_tokens": 200})).json()
    assert (ended["status"], ended["incomplete_details"]) == ("completed", None)


SCHEMA = {"type": "object", "properties": {"name": {"enum": ["gateway"]}}, "required": ["name"]}


async def test_the_formats_of_a_response_and_of_a_message_are_kept(served: Served) -> None:
    form = {"type": "json_schema", "name": "thing", "schema": SCHEMA, "strict": True}
    for stream in (False, True):
        asked = {**ASKS, "input": "Name it.", "text": {"format": form}, "stream": stream}
        answer = await served.post("/v1/responses", asked)
        said = named_events(answer)[-1][1]["response"] if stream else answer.json()
        assert json.loads(said["output"][0]["content"][0]["text"]) == {"name": "gateway"}
        assert said["text"]["format"] == form
    message = {**ASKS, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    held = await served.post("/v1/messages", message | {"max_tokens": 50, "output_config": {"format": form}})
    assert json.loads(held.json()["content"][0]["text"]) == {"name": "gateway"}
    assert (await served.post("/v1/messages", message | {"output_config": {"effort": "low"}})).status == 200


async def test_a_stop_sequence_that_was_hit_is_why_a_message_ended(served: Served) -> None:
    asked = {
        **ASKS,
        "messages": [{"role": "user", "content": "Hello"}],
        "stop_sequences": ["a"],
        "max_tokens": 40,
    }
    whole = (await served.post("/v1/messages", asked)).json()
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", "a")
    events = named_events(await served.post("/v1/messages", {**asked, "stream": True}))
    (end,) = [said["delta"] for name, said in events if name == "message_delta"]
    assert (end["stop_reason"], end["stop_sequence"]) == ("stop_sequence", "a")


async def test_log_probabilities_of_a_completion_have_the_form_of_completions(served: Served) -> None:
    asked = {**ASKS, "prompt": "The gateway", "max_tokens": 3, "logprobs": 2}
    whole = Completion.model_validate((await served.post("/v1/completions", asked)).json()).choices[0]
    told = whole.logprobs
    assert told is not None and told.tokens and told.text_offset and told.top_logprobs
    assert "".join(told.tokens) == whole.text and len(told.top_logprobs[0]) == 2
    streamed = await served.post("/v1/completions", asked | {"stream": True})
    chunks = [json.loads(line[6:]) for line in streamed.body.split(b"\n\n") if line.startswith(b"data: {")]
    parts = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice["logprobs"]]
    assert [token for part in parts for token in part["tokens"]] == told.tokens
    assert [offset for part in parts for offset in part["text_offset"]] == told.text_offset


async def test_what_it_would_ignore_is_refused(served: Served) -> None:
    answer = await served.post("/v1/completions", {**ASKS, "prompt": "a", "echo": True})
    assert (answer.status, answer.error["code"]) == (400, "not_supported")


async def test_messages(served: Served) -> None:
    asked = {**ASKS, "messages": [{"role": "user", "content": "What is this gateway?"}], "max_tokens": 8}
    whole = (await served.post("/v1/messages", asked)).json()
    assert (whole["type"], whole["stop_reason"], whole["model"]) == ("message", "max_tokens", "small")
    before = served.metric("gateway_tokens_total", direction="in")
    events = named_events(await served.post("/v1/messages", {**asked, "stream": True}))
    assert (events[0][0], events[-1][0]) == ("message_start", "message_stop")
    assert events[0][1]["message"]["model"] == "small"
    text = "".join(said["delta"]["text"] for name, said in events if name == "content_block_delta")
    assert text and text == whole["content"][0]["text"]
    # What came out of the cache counts as much as what was read.
    assert served.metric("gateway_tokens_total", direction="in") == 2 * before > 0


async def test_what_this_model_or_engine_cannot_do(served: Served) -> None:
    asked: dict[str, dict[str, Any]] = {
        "/infill": {"input_prefix": "a", "input_suffix": "b"},
        "/v1/rerank": {"query": "a", "documents": ["b"]},
        "/v1/score": {"text_1": "a", "text_2": "b"},
        "/v1/images/generations": {"prompt": "a"},
        "/v1/audio/speech": {"input": "a"},
        "/tokenize": {"messages": [{"role": "user", "content": "hi"}]},
    }
    for path, wish in asked.items():
        answer = await served.post(path, {**ASKS, **wish})
        assert (answer.status, answer.error["code"]) == (400, "not_supported"), path
    sent = form(("model", "small"), ("file", WAV))
    heard = await served.post("/v1/audio/transcriptions", sent, content_type=FORM)
    assert (heard.status, heard.error["code"]) == (400, "not_supported")


async def test_rerank(tmp_path: Path) -> None:
    async with serving(tmp_path, config(rerank=True)) as served:
        asked = {**ASKS, "query": "gateway", "documents": ["a river", "one URL", "a door"], "top_n": 2}
        for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
            said = (await served.post(path, asked)).json()
            assert said["model"] == "small"
            scores = [ranked["relevance_score"] for ranked in said["results"]]
            assert len(scores) == 2 and scores == sorted(scores, reverse=True)
            assert {ranked["index"] for ranked in said["results"]} <= {0, 1, 2}


async def test_its_signals(served: Served) -> None:
    await served.post(
        "/v1/messages", {**ASKS, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    )
    upstream = served.gateway.pool.backends["local"].upstream
    assert upstream is not None
    engine = LlamaCpp()
    told = [await ask(upstream, call, 10) for call in engine.signal_calls()]
    signals = engine.signals_of([answer[1] for answer in told if not isinstance(answer, Failure)])
    assert {signal: reading.status for signal, reading in signals.items()} == dict.fromkeys(
        signals, Status.OK
    )
    values = {signal: reading.value for signal, reading in signals.items()}
    idle = {Signal.RUNNING: 0, Signal.WAITING: 0, Signal.KV_USE: 0, Signal.SLOTS: 2, Signal.LORAS: 0}
    assert {signal: values[signal] for signal in idle} == idle


async def test_what_it_measures_of_itself(served: Served) -> None:
    await served.gateway.fleet.poll("local").ask()
    names = (
        "prompt_tokens",
        "generation_tokens",
        "drafted_tokens",
        "accepted_tokens",
        "prompt_tokens_cached",
    )

    def told() -> dict[str, float]:
        return {name: served.metric(f"gateway_backend_{name}_total", engine="llamacpp") for name in names}

    before = told()
    body = {**ASKS, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    answer = await served.post("/v1/chat/completions", body)
    await served.gateway.fleet.poll("local").ask()
    usage, after = answer.json()["usage"], told()
    assert after["generation_tokens"] - before["generation_tokens"] == usage["completion_tokens"] == 4
    assert after["prompt_tokens"] - before["prompt_tokens"] == usage["prompt_tokens"] > 0
    page = (await served.get("/metrics")).body.decode()
    assert 'gateway_backend_requests_running{backend="local",engine="llamacpp"} 0.0\n' in page
    assert 'gateway_backend_drafted_tokens_total{backend="local",engine="llamacpp"} 0.0\n' in page
    assert "gateway_backend_preemptions_total{" not in page, "it does not tell them"


async def test_its_own_page(served: Served) -> None:
    answer = await served.get("/backends/local/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4"
    assert b"\nllamacpp:tokens_predicted_total " in answer.body
