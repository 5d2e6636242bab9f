"""Tools that must be called, on the llama.cpp that runs here: with a chat template that knows none, and with one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.conformance import sdk
from tests.conformance.checks import CHAT, PORT, PORT_TOOL, user
from tests.conformance.operations import MESSAGE_WITH_TOOLS, MESSAGES, RESPONSES, named
from tests.serving import Served, serving

CONFIG = """
defaults: {timeouts: {first_byte: 50s, first_token: 50s, idle: 50s}}
backends:
  talks: {engine: llamacpp, launch: {model: models/demo.gguf, name: talks, threads: 1}}
  calls:
    engine: llamacpp
    launch: {model: models/demo.gguf, name: calls, threads: 1, chat_template: tests/conformance/tools.jinja}
models:
  talks: {targets: {talks: talks}}
  calls: {targets: {calls: calls}}
  both: {targets: {talks: talks, calls: calls}, balance: round_robin}
"""
QUESTION = "Which port does Ollama use?"
FORCED: dict[str, tuple[dict[str, Any], bytes]] = {
    CHAT: ({"messages": user(QUESTION), "tools": [PORT_TOOL], "tool_choice": "required"}, b'"tool_calls":['),
    MESSAGES: (MESSAGE_WITH_TOOLS, b'"type":"tool_use"'),
    RESPONSES: (
        {"input": QUESTION, "tools": [{"type": "function", **PORT}], "tool_choice": "required"},
        b'"type":"function_call"',
    ),
}
"""Of each API a request that must call a tool, and what its answer has then."""
LIMITS = {CHAT: "max_tokens", MESSAGES: "max_tokens", RESPONSES: "max_output_tokens"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("gateway"), CONFIG, alone=False) as running:
        yield running


def asked(path: str, model: str, limit: int, *, stream: bool) -> dict[str, Any]:
    return FORCED[path][0] | {"model": model, "temperature": 0, "stream": stream, LIMITS[path]: limit}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", FORCED)
@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_in_words_is_refused_before_any_of_it_is_sent(
    served: Served, path: str, *, stream: bool
) -> None:
    answer = await served.post(path, asked(path, "talks", 100, stream=stream))
    assert (answer.status, answer.error["code"]) == (400, "not_supported"), answer.body
    assert answer.error["param"] == "tool_choice"
    assert not served.gateway.pool.backends["talks"].breaker.open


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", FORCED)
@pytest.mark.asyncio(loop_scope="module")
async def test_another_backend_calls_the_tool_instead(served: Served, path: str, *, stream: bool) -> None:
    tried = served.metric("gateway_attempts_total", backend="talks", result="unsupported")
    for _ in range(2):
        answer = await served.post(path, asked(path, "both", 100, stream=stream))
        assert answer.status == 200 and answer.whole, answer.body
        assert FORCED[path][1] in answer.body and b"11434" not in answer.body
        assert answer.headers["x-gateway-backend"] == "calls"
    assert served.metric("gateway_attempts_total", backend="talks", result="unsupported") == tried + 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", FORCED)
@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_that_its_limit_has_cut_passes(served: Served, path: str, *, stream: bool) -> None:
    answer = await served.post(path, asked(path, "talks", 4, stream=stream))
    assert answer.status == 200 and answer.whole, answer.body
    assert b"Ollama" in answer.body and FORCED[path][1] not in answer.body
    ends = {CHAT: b'"length"', MESSAGES: b'"max_tokens"', RESPONSES: b'"incomplete"'}
    assert ends[path] in answer.body


@pytest.mark.parametrize("limit", [100, 12], ids=["whole", "cut"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_call_of_the_responses_api_fits_the_types_of_its_sdk(served: Served, limit: int) -> None:
    answer = await served.post(RESPONSES, asked(RESPONSES, "calls", limit, stream=False))
    sdk.fits(answer.json())
    events = named(await served.post(RESPONSES, asked(RESPONSES, "calls", limit, stream=True)))
    for event in events:
        sdk.fits_response_event(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    said = "".join(
        event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"
    )
    (call,) = events[-1]["response"]["output"]
    assert said == call["arguments"] == answer.json()["output"][0]["arguments"]
    assert {event["output_index"] for event in events if "output_index" in event} == {0}


@pytest.mark.parametrize("path", FORCED)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_call_that_its_limit_has_cut_passes(served: Served, path: str) -> None:
    answer = await served.post(path, asked(path, "calls", 12, stream=False))
    assert answer.status == 200, answer.body
    body = answer.json()
    found = {
        CHAT: lambda: body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"],
        MESSAGES: lambda: body["content"][0]["input"],
        RESPONSES: lambda: body["output"][0]["arguments"],
    }
    assert found[path]() in ("{", {}), body
    assert not served.gateway.pool.backends["calls"].breaker.open


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_that_the_engine_cannot_read_is_no_fault_of_the_engine(
    served: Served, *, stream: bool
) -> None:
    """With this template llama.cpp (b11549) expects a call although none has to be made, and says 500 to words."""
    body = asked(CHAT, "calls", 100, stream=stream) | {"tool_choice": "auto"}
    for _ in range(8):
        answer = await served.post(CHAT, body)
        assert (answer.status, answer.error["code"]) == (502, "upstream_error"), answer.body
        assert "chat template" in answer.error["message"]
    assert not served.gateway.pool.backends["calls"].breaker.open


ARGUMENTS = '{"engine": "oll'
FUNCTION = {"name": "get_port", "arguments": ARGUMENTS}
CUT: dict[str, list[dict[str, Any]]] = {
    CHAT: [
        *user(QUESTION),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "11434"},
    ],
    RESPONSES: [
        *user(QUESTION),
        {"type": "function_call", "call_id": "c1", **FUNCTION},
        {"type": "function_call_output", "call_id": "c1", "output": "11434"},
    ],
}
"""Of each API a conversation with a call that a limit has cut."""


@pytest.mark.parametrize("path", CUT)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_call_that_was_cut_spoils_no_later_turn(served: Served, path: str) -> None:
    member = "messages" if path == CHAT else "input"
    answer = await served.post(path, {"model": "calls", member: CUT[path], LIMITS[path]: 3})
    assert answer.status == 200, answer.body
