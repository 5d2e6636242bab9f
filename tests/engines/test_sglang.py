"""What SGLang's real server does not do, or does in its own way, as clients of the gateway see it.

`make test-engines` runs it. The scheduler behind the server is a script.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from backends.base import Health
from tests.conformance import operations, shapes
from tests.engines import servers
from tests.engines.hosts import Hosts
from tests.engines.servers import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from tests.serving import Answer, Served

pytestmark = [pytest.mark.engines, pytest.mark.timeout(200), pytest.mark.asyncio(loop_scope="session")]

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
PLACES = 2 + 4
"""Requests that the server computes and that may wait; see `hosts.py`."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with servers.gateway(hosts, "sglang", tmp_path_factory.mktemp("gateway")) as started:
        yield started


NULLS = {
    CHAT: "n stream logprobs presence_penalty frequency_penalty parallel_tool_calls ignore_eos min_tokens "
    "skip_special_tokens tool_choice tools stop seed response_format stream_options",
    COMPLETIONS: "n stream echo temperature top_p presence_penalty frequency_penalty stop seed suffix best_of",
    RESPONSES: "tools tool_choice stream service_tier temperature instructions metadata text reasoning",
}


@pytest.mark.parametrize("path", NULLS)
async def test_nulls_mean_nothing(served: Served, path: str) -> None:
    asked = {CHAT: servers.chat, COMPLETIONS: servers.completion, RESPONSES: servers.response}[path]
    answer = await served.post(path, asked(say="a b") | dict.fromkeys(NULLS[path].split()))
    assert answer.status == 200 and b"a b" in answer.body, answer.body[:500]


async def test_what_is_wrong_with_a_body_is_told_without_the_servers_files(served: Served) -> None:
    answer = await served.post(CHAT, servers.chat(say="a") | {"min_tokens": "many"})
    found = shapes.error(answer, 400)
    assert found["param"] == "min_tokens"
    assert found["message"] == (
        "min_tokens: Input should be a valid integer, unable to parse string as an integer"
    )


@contextlib.asynccontextmanager
async def full(served: Served) -> AsyncIterator[None]:
    """Keep the server busy, and its queue full, with answers that come to no end."""
    busy = servers.chat(say="a", stall=1, ends=False)
    tasks = [asyncio.create_task(served.post(CHAT, busy)) for _ in range(PLACES)]
    try:
        await asyncio.sleep(1)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(30):
            while (await served.post(CHAT, servers.chat(say="a"))).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.5)


async def test_a_full_queue_is_told_as_one(served: Served) -> None:
    asked = ((CHAT, servers.chat), (COMPLETIONS, servers.completion), (RESPONSES, servers.response))
    async with full(served):
        for path, body in asked:
            shapes.error(await served.post(path, body(say="a")), 503, "overloaded")


@BOTH
async def test_a_message_is_asked_as_a_chat_because_its_own_end_cannot_be_trusted(
    served: Served, stream: bool
) -> None:
    answer = await served.post(MESSAGES, servers.message(say="a") | {"stream": stream})
    operations.said(answer)
    assert answer.status == 200 and b"end_turn" in answer.body
    assert served.metric("gateway_translations_total", dialect="anthropic", way="translated") > 0


TOO_LONG = "The gateway is one URL in front of many engines. " * 800


@BOTH
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
async def test_a_prompt_that_is_too_long_is_the_clients_mistake(
    served: Served, path: str, stream: bool
) -> None:
    body: dict[str, Any] = {
        CHAT: servers.chat() | {"messages": servers.user(TOO_LONG)},
        COMPLETIONS: servers.completion() | {"prompt": TOO_LONG},
        RESPONSES: servers.response() | {"input": TOO_LONG},
    }[path]
    shapes.error(await served.post(path, body | {"stream": stream}), 400, "context_length_exceeded")
    assert servers.untouched(served)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_an_adapter_that_is_not_there_is_a_missing_model(served: Served, path: str) -> None:
    asked = servers.chat if path == CHAT else servers.completion
    answer = await served.post(path, asked(say="a") | {"model": "adapter"})
    shapes.error(answer, 502, "upstream_model_missing")


async def test_an_adapter_is_not_asked_for_where_the_bare_model_would_answer(served: Served) -> None:
    answer = await served.post(RESPONSES, servers.response(say="a") | {"model": "adapter"})
    shapes.error(answer, 400, "not_supported")


async def act(served: Served, action: str, **arguments: object) -> Answer:
    return await served.post(f"/gateway/backends/engine/{action}", arguments)


async def test_adapters_come_and_go(served: Served) -> None:
    loaded = await act(served, "load_lora", name="sql", path="/adapters/sql")
    assert loaded.status == 200, loaded.body
    assert "demo:sql" in [card.id for card in served.gateway.pool.backends["engine"].models or ()]
    answer = await served.post(CHAT, servers.chat(say="a") | {"model": "adapter"})
    assert servers.text_of(answer) == ("a", "stop")
    assert (await act(served, "unload_lora", name="sql")).status == 200
    refused = await act(served, "load_lora", name="bad", path="/adapters/bad")
    assert refused.status == 400 and "cannot be read" in refused.error["message"]


def is_in(served: Served, health: Health) -> bool:
    return served.gateway.pool.backends["engine"].health is health


async def test_it_gets_nothing_while_it_sleeps(served: Served) -> None:
    backend = served.gateway.pool.backends["engine"]
    assert backend.upstream is not None
    assert (await act(served, "sleep")).status == 200
    try:
        host, port = backend.upstream.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /ready HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert Answer.read(await reader.read()).status == 503
        writer.close()
        async with asyncio.timeout(60):
            while not is_in(served, Health.LOADING):
                backend.woken.set()
                await asyncio.sleep(0.1)
    finally:
        assert (await act(served, "wake")).status == 200
    async with asyncio.timeout(60):
        while not is_in(served, Health.READY):
            await served.gateway.pool.change()
    assert servers.text_of(await served.post(CHAT, servers.chat(say="a"))) == ("a", "stop")


async def test_a_call_without_arguments_is_history_like_any_other(served: Served) -> None:
    asked = servers.chat() | {"messages": servers.history("")}
    assert servers.text_of(await served.post(CHAT, asked))[0] == "fine"
    cut_off = asked | {"messages": servers.history('{"a')}
    assert servers.text_of(await served.post(CHAT, cut_off))[0] == "fine"


async def test_a_conversation_that_ends_with_the_assistant_is_gone_on_with(served: Served) -> None:
    messages = [*servers.user(servers.script(echo=True)), {"role": "assistant", "content": "The"}]
    said = servers.prompt_of(await served.post(CHAT, servers.chat() | {"messages": messages}))
    assert said.endswith("<im_start>assistant\nThe")


async def test_texts_in_parts_are_one_text(served: Served) -> None:
    parts = [{"type": "text", "text": text} for text in ("What is ", "this? ", servers.script(echo=True))]
    asked = servers.chat() | {"messages": [{"role": "user", "content": parts}]}
    assert "What is this? Go." in servers.prompt_of(await served.post(CHAT, asked))


async def test_a_developer_speaks_as_the_system(served: Served) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *servers.user(servers.script(echo=True))]
    said = servers.prompt_of(await served.post(CHAT, servers.chat() | {"messages": messages}))
    assert "<im_start>system\nBe brief." in said


@BOTH
@pytest.mark.parametrize("stop", ["", [""], ["", "###"]])
async def test_an_empty_stop_string_is_none(served: Served, stop: object, stream: bool) -> None:
    asked = servers.chat(say="one two") | {"stop": stop, "stream": stream}
    assert servers.text_of(await served.post(CHAT, asked)) == ("one two", "stop")


@BOTH
async def test_only_the_first_tool_is_used_where_the_client_wants_one(served: Served, stream: bool) -> None:
    tools = [{"type": "function", "function": tool} for tool in (servers.PORT, servers.WEATHER)]
    for parallel, expected in ((True, ["get_port", "get_weather"]), (False, ["get_port"])):
        asked = servers.chat(**servers.TWO_CALLS) | {"tools": tools, "stream": stream}
        answer = await served.post(CHAT, asked | {"parallel_tool_calls": parallel})
        if stream:
            calls = shapes.streamed(answer).tool_calls
            assert [call["name"] for call in calls.values()] == expected
            assert json.loads(calls[0]["arguments"]) == {"engine": "ollama"}
        else:
            found = answer.json()["choices"][0]["message"]["tool_calls"]
            assert [call["function"]["name"] for call in found] == expected


async def test_seeds_of_any_size_are_taken(served: Served) -> None:
    for seed in (-1, 1 << 63, 1 << 64, 7):
        assert servers.text_of(await served.post(CHAT, servers.chat(say="a") | {"seed": seed}))[0] == "a"


REFUSED = [
    (COMPLETIONS, {"suffix": "x"}),
    (COMPLETIONS, {"best_of": 2}),
    ("/tokenize", {"return_token_strs": True}),
]


@pytest.mark.parametrize(("path", "more"), REFUSED, ids=["suffix", "best_of", "token_strs"])
async def test_what_it_would_ignore_is_refused_by_name(
    served: Served, path: str, more: dict[str, Any]
) -> None:
    body = {CHAT: servers.chat(say="a"), COMPLETIONS: servers.completion(say="a")}.get(
        path, {"model": shapes.MODEL, "prompt": "a"}
    )
    found = shapes.error(await served.post(path, body | more), 400, "not_supported")
    assert next(iter(more)) in found["message"]
