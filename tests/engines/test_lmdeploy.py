"""What LMDeploy's real server does not do, or does in its own way, as clients of the gateway see it.

`make test-engines` runs it. The model behind the server is a script.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.conformance import shapes
from tests.engines import servers
from tests.engines.hosts import Hosts
from tests.engines.servers import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from tests.serving import Served

pytestmark = [pytest.mark.engines, pytest.mark.timeout(200), pytest.mark.asyncio(loop_scope="session")]

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with servers.gateway(hosts, "lmdeploy", tmp_path_factory.mktemp("gateway")) as started:
        yield started


ENDLESS: dict[str, Any] = {"say": "one two ### three", "ends": False, "pace": 0.02}
"""What the model would go on with until the limit."""


@BOTH
@pytest.mark.parametrize("stop", ["###", ["Observation:", "###"], ["", " ###"]])
async def test_a_stop_string_of_several_tokens_ends_a_chat(
    served: Served, stop: object, stream: bool
) -> None:
    asked = servers.chat(**ENDLESS) | {"stop": stop, "stream": stream, "max_tokens": 1500}
    text, reason = servers.text_of(await served.post(CHAT, asked))
    assert (text.rstrip(), reason) == ("one two", "stop")


@BOTH
async def test_a_stop_string_of_several_tokens_ends_a_completion(served: Served, stream: bool) -> None:
    asked = servers.completion(**ENDLESS) | {"stop": "###", "stream": stream, "max_tokens": 1500}
    answer = await served.post(COMPLETIONS, asked)
    assert servers.text_of(answer) == ("one two ", "stop")
    ids = {event["id"] for event in servers.events(answer)} if stream else {answer.json()["id"]}
    assert len(ids) == 1 and ids.pop().startswith("cmpl-")


@BOTH
async def test_a_stop_sequence_ends_a_message_and_is_named(served: Served, stream: bool) -> None:
    asked = servers.message(**ENDLESS) | {"stop_sequences": ["###"], "stream": stream, "max_tokens": 1500}
    answer = await served.post(MESSAGES, asked)
    if stream:
        said = servers.events(answer)
        text = "".join(
            event["delta"].get("text", "") for event in said if event["type"] == "content_block_delta"
        )
        (end,) = [event["delta"] for event in said if event["type"] == "message_delta"]
        assert said[-1] == {"type": "message_stop"}
    else:
        end = answer.json()
        (block,) = end["content"]
        text = block["text"]
    assert text == "one two "
    assert (end["stop_reason"], end["stop_sequence"]) == ("stop_sequence", "###")


async def test_what_may_have_begun_a_stop_string_is_not_lost(served: Served) -> None:
    asked = servers.chat(say="one ##") | {"stop": ["###"], "stream": True}
    assert servers.text_of(await served.post(CHAT, asked)) == ("one ##", "stop")


@BOTH
async def test_messages_are_answered(served: Served, stream: bool) -> None:
    asked = servers.message(say="a b c") | {"stream": stream}
    answer = await served.post(MESSAGES, asked, anthropic_version="2023-06-01", anthropic_beta="x")
    assert answer.status == 200, answer.body[:500]
    if stream:
        assert [event["type"] for event in servers.events(answer)][-2:] == ["message_delta", "message_stop"]
    else:
        assert answer.json()["content"] == [{"type": "text", "text": "a b c"}]
        assert answer.json()["stop_reason"] == "end_turn"
        assert answer.json()["usage"]["output_tokens"] == 3


@BOTH
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
async def test_an_aborted_answer_is_no_answer(served: Served, path: str, stream: bool) -> None:
    asked = {
        CHAT: servers.chat,
        COMPLETIONS: servers.completion,
        RESPONSES: servers.response,
        MESSAGES: servers.message,
    }[path]
    asking = asyncio.create_task(served.post(path, asked(say="a b c d", stall=2) | {"stream": stream}))
    upstream = served.gateway.pool.backends["engine"].upstream
    assert upstream is not None
    host, port = upstream.url.removeprefix("http://").split(":")
    body = b'{"abort_all": true}'
    head = b"POST /abort_request HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nConnection: close\r\n"
    while not asking.done():
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await reader.read()
        writer.close()
        await asyncio.wait([asking], timeout=0.3)
    answer = await asking
    if stream and answer.status == 200:
        # A failed response has an event of its own, and ends its stream.
        ends = path == RESPONSES
        assert answer.whole == ends and (b"response.failed" if ends else b"error") in answer.body
    else:
        shapes.error(answer, 502, "upstream_error")
    servers.forgive(served)


async def test_several_prompts_are_streamed_each_under_its_own_index(served: Served) -> None:
    prompts = [servers.script(say="first a"), servers.script(say="second b")]
    asked = servers.completion() | {"prompt": prompts, "stream": True}
    said = {0: "", 1: ""}
    for event in servers.events(await served.post(COMPLETIONS, asked)):
        for choice in event["choices"]:
            said[choice["index"]] += choice["text"]
    assert said == {0: "first a", 1: "second b"}


REFUSED = [
    (COMPLETIONS, {"logprobs": 1}),
    (COMPLETIONS, {"n": 2}),
    (COMPLETIONS, {"best_of": 2}),
    (COMPLETIONS, {"echo": True}),
    (COMPLETIONS, {"suffix": "x"}),
    (COMPLETIONS, {"prompt": [1, 2]}),
    (COMPLETIONS, {"response_format": {"type": "json_object"}}),
    (CHAT, {"presence_penalty": 0.5}),
    (RESPONSES, {"stop": "x"}),
]


@pytest.mark.parametrize(
    ("path", "more"), REFUSED, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
async def test_what_it_would_ignore_is_refused_by_name(
    served: Served, path: str, more: dict[str, Any]
) -> None:
    asked = {CHAT: servers.chat, COMPLETIONS: servers.completion, RESPONSES: servers.response}[path]
    for stream in (False, True):
        answer = await served.post(path, asked(say="a") | more | {"stream": stream})
        found = shapes.error(answer, 400, "not_supported")
        assert next(iter(more)) in found["message"]
    assert servers.untouched(served)


async def test_no_prompt_is_the_clients_mistake(served: Served) -> None:
    for stream in (False, True):
        answer = await served.post(COMPLETIONS, servers.completion() | {"prompt": [], "stream": stream})
        assert shapes.error(answer, 400)["param"] == "prompt"


NULLS = {
    CHAT: "tool_choice tools n logprobs stop seed top_p stream_options response_format user logit_bias",
    COMPLETIONS: "n best_of echo suffix logprobs stop seed top_p stream_options user",
    RESPONSES: "tools tool_choice temperature instructions metadata text reasoning previous_response_id",
    MESSAGES: "stream system tools tool_choice temperature top_p top_k stop_sequences metadata thinking",
}


@pytest.mark.parametrize("path", NULLS)
async def test_nulls_mean_nothing(served: Served, path: str) -> None:
    asked = {
        CHAT: servers.chat,
        COMPLETIONS: servers.completion,
        RESPONSES: servers.response,
        MESSAGES: servers.message,
    }[path]
    answer = await served.post(path, asked(say="a b") | dict.fromkeys(NULLS[path].split()))
    assert answer.status == 200 and b"a b" in answer.body, answer.body[:500]


async def test_a_call_without_arguments_is_history_like_any_other(served: Served) -> None:
    asked = servers.chat() | {"messages": servers.history("")}
    assert servers.text_of(await served.post(CHAT, asked))[0] == "fine"
    cut_off = asked | {"messages": servers.history('{"a')}
    assert servers.text_of(await served.post(CHAT, cut_off))[0] == "fine"
    items = [
        {"type": "function_call", "call_id": "c", "name": "get_port", "arguments": ""},
        {"type": "function_call_output", "call_id": "c", "output": "11434"},
        {"role": "user", "content": servers.script(say="fine")},
    ]
    answer = await served.post(RESPONSES, servers.response() | {"input": items})
    assert answer.status == 200, answer.body[:500]


TOOLS = [{"type": "function", "function": tool} for tool in (servers.PORT, servers.WEATHER)]


@BOTH
async def test_a_named_tool_is_called(served: Served, stream: bool) -> None:
    choice = {"type": "function", "function": {"name": "get_port"}}
    asked = servers.chat(calls=[["get_port", {"engine": "vllm"}]]) | {"tools": TOOLS, "tool_choice": choice}
    answer = await served.post(CHAT, asked | {"stream": stream})
    if stream:
        (call,) = shapes.streamed(answer).tool_calls.values()
        assert call["name"] == "get_port" and json.loads(call["arguments"]) == {"engine": "vllm"}
    else:
        (found,) = answer.json()["choices"][0]["message"]["tool_calls"]
        assert found["function"]["name"] == "get_port"
    choice["function"] = {"name": "no_such_tool"}
    shapes.error(await served.post(CHAT, asked | {"tool_choice": choice, "stream": stream}), 400)


@BOTH
async def test_only_the_first_tool_is_used_where_a_message_wants_one(served: Served, stream: bool) -> None:
    tools = [
        {"name": tool["name"], "input_schema": tool["parameters"]} for tool in (servers.PORT, servers.WEATHER)
    ]
    for one, expected in ((False, ["get_port", "get_weather"]), (True, ["get_port"])):
        choice = {"type": "any", "disable_parallel_tool_use": one}
        asked = servers.message(**servers.TWO_CALLS) | {
            "tools": tools,
            "tool_choice": choice,
            "stream": stream,
        }
        answer = await served.post(MESSAGES, asked)
        if stream:
            starts = [event for event in servers.events(answer) if event["type"] == "content_block_start"]
            blocks = [event["content_block"] for event in starts]
        else:
            blocks = answer.json()["content"]
        assert [block["name"] for block in blocks if block["type"] == "tool_use"] == expected


async def test_a_message_may_forbid_its_tools(served: Served) -> None:
    tools = [{"name": "get_port", "input_schema": servers.PORT["parameters"]}]
    asked = servers.message(say="no tool") | {"tools": tools, "tool_choice": {"type": "none"}}
    answer = await served.post(MESSAGES, asked)
    assert answer.status == 200 and answer.json()["content"][0]["text"] == "no tool"


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh"])
async def test_every_reasoning_effort_of_openai_is_taken(served: Served, effort: str) -> None:
    asked = servers.chat(say="a") | {"reasoning_effort": effort}
    assert servers.text_of(await served.post(CHAT, asked)) == ("a", "stop")


async def test_texts_in_parts_are_one_text(served: Served) -> None:
    parts = [{"type": "text", "text": text} for text in ("What is ", "this? ", servers.script(echo=True))]
    asked = servers.chat() | {"messages": [{"role": "user", "content": parts}]}
    assert "What is this? Go." in servers.prompt_of(await served.post(CHAT, asked))


@pytest.mark.parametrize(
    "content",
    [[{"text": "a"}], [{"type": "input_text", "text": "a"}], [{"type": "refusal", "refusal": "a"}], {"a": 1}],
)
async def test_a_content_that_would_be_lost_is_refused(served: Served, content: object) -> None:
    asked = servers.chat() | {"messages": [{"role": "user", "content": content}, *servers.user("b")]}
    shapes.error(await served.post(CHAT, asked), 400)


async def test_a_developer_speaks_as_the_system(served: Served) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *servers.user(servers.script(echo=True))]
    said = servers.prompt_of(await served.post(CHAT, servers.chat() | {"messages": messages}))
    assert "<im_start>system\nBe brief." in said


@BOTH
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
async def test_what_the_engine_finds_too_long_is_the_clients_mistake(
    served: Served, path: str, stream: bool
) -> None:
    asked = {CHAT: servers.chat, COMPLETIONS: servers.completion, RESPONSES: servers.response}[path]
    answer = await served.post(path, asked(say="a", fail=0, status=400) | {"stream": stream})
    shapes.error(answer, 400, "context_length_exceeded")
    assert servers.untouched(served)


async def test_an_engine_that_has_stopped_is_not_overloaded(served: Served) -> None:
    answer = await served.post(CHAT, servers.chat(say="a", fail=0, status=503))
    shapes.error(answer, 502, "upstream_error")


async def test_a_whole_answer_that_hangs_gives_its_place_back_when_its_client_leaves(served: Served) -> None:
    places = 8  # `max_num_seqs` of the server
    body = json.dumps(servers.chat(say="a b", stall=1)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writers = []
    for _ in range(places):
        _, writer = await served.connect()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        writers.append(writer)
    await asyncio.sleep(1)
    for writer in writers:
        writer.close()
    async with asyncio.timeout(20):
        assert servers.text_of(await served.post(CHAT, servers.chat(say="a b"))) == ("a b", "stop")


async def test_seeds_of_any_size_are_taken(served: Served) -> None:
    for seed in (-1, 1 << 64, 7):
        assert servers.text_of(await served.post(CHAT, servers.chat(say="a") | {"seed": seed}))[0] == "a"
