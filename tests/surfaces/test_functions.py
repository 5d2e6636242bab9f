"""Chats with the older `functions`: said with tools and told back, on every engine that knows only these."""

from typing import Any

import msgspec
import pytest

from backends.base import Failure, Kind, Operation, Reply, Request, RequestError
from backends.dialect.openai import OpenAICompatible
from backends.registry import create, engine, names
from backends.surfaces.codecs import translated
from backends.surfaces.translation import Translation

FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"name": "weather", "arguments": '{"city":"Rome"}'}
HELLO = {"role": "user", "content": "hello"}
HAVING, LACKING = create("openai"), create("vllm")


def request(stream: bool = False, **members: Any) -> Request:
    body = {"model": "m", "messages": [HELLO], "functions": [FUNCTION], **members}
    return Request(Operation.CHAT, msgspec.json.encode(body), "m", stream=stream)


def translation(asked: Request) -> Translation:
    found = translated(asked, LACKING, frozenset({Operation.CHAT}))
    assert found is not None
    return found


def said(**members: Any) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.json.decode(translation(request(**members)).said.body)
    return told


def test_functions_are_tools() -> None:
    told = said(temperature=0.5)
    assert told == {
        "model": "m",
        "messages": [HELLO],
        "temperature": 0.5,
        "tools": [TOOL],
        "parallel_tool_calls": False,
    }


@pytest.mark.parametrize(
    ("choice", "becomes"),
    [
        ("none", "none"),
        ("auto", "auto"),
        ({"name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_a_choice_is_that_of_a_tool(choice: Any, becomes: Any) -> None:
    assert said(function_call=choice)["tool_choice"] == becomes


def test_calls_and_results_of_earlier_turns_belong_together() -> None:
    turns = [
        HELLO,
        {"role": "assistant", "content": None, "function_call": CALL},
        {"role": "function", "name": "weather", "content": "sunny"},
    ]
    told = said(messages=turns)["messages"]
    assert told == [
        HELLO,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": CALL}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    # Also where no function is offered any longer.
    assert said(messages=turns, functions=None)["messages"] == told


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"functions": "x"}, "functions"),
        ({"functions": [1]}, "functions"),
        ({"tools": [TOOL]}, "functions"),
        ({"function_call": "any"}, "function_call"),
        ({"messages": [{"role": "function", "name": "other", "content": "x"}]}, "messages.0.name"),
        ({"messages": [{"role": "assistant", "function_call": "x"}]}, "messages.0.function_call"),
        ({"messages": [{"role": "assistant", "function_call": {}}]}, "messages.0.function_call"),
        ({"messages": [None]}, "messages"),
        ({"functions": None, "function_call": {"name": "weather"}}, "function_call"),
        ({"functions": [], "function_call": "any"}, "function_call"),
        ({"function_call": [[]]}, "function_call"),
    ],
)
def test_a_mistake_is_refused_with_its_place(members: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        translation(request(**members))
    assert (refused.value.failure.kind, refused.value.failure.param) == (Kind.REJECTED, param)


@pytest.mark.parametrize(
    "members",
    [
        {"functions": None},
        {"functions": None, "function_call": None},
        {"functions": None, "messages": [{"role": "user", "content": '"functions" and "function_call"'}]},
        {"functions": None, "messages": [{"role": "assistant", "function_call": None, "content": "x"}]},
    ],
)
def test_a_chat_without_them_passes(members: dict[str, Any]) -> None:
    assert translated(request(**members), LACKING, frozenset({Operation.CHAT})) is None


@pytest.mark.parametrize(
    "members", [{"functions": []}, {"functions": None, "function_call": "auto"}, {"function_call": "none"}]
)
def test_what_asks_for_nothing_reaches_no_engine(members: dict[str, Any]) -> None:
    told = said(**({"functions": []} | members))
    assert told == {"model": "m", "messages": [HELLO]}


def test_where_the_engine_has_them_they_pass() -> None:
    assert translated(request(), HAVING, frozenset({Operation.CHAT})) is None
    assert [name for name in names() if engine(name).has_functions] == ["openai"]


def test_a_call_of_a_whole_answer_is_told_in_the_older_way() -> None:
    call = {"id": "call_x", "type": "function", "function": CALL}
    message = {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "call_y"}]}
    answer = {
        "id": "1",
        "model": "own",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
    }
    asked = request()
    reply = create("vllm").reply(asked, "own", [], msgspec.json.encode(answer))
    assert isinstance(reply, Reply)
    told = translation(asked).reply(reply)
    assert isinstance(told, Reply)
    (choice,) = msgspec.json.decode(told.body)["choices"]
    assert choice["message"] == {"role": "assistant", "content": None, "function_call": CALL}
    assert choice["finish_reason"] == "function_call"


@pytest.mark.parametrize(
    "members",
    [{"functions": []}, {"functions": None, "messages": [{"role": "assistant", "function_call": CALL}]}],
)
def test_where_tools_are_offered_their_calls_are_told(members: dict[str, Any]) -> None:
    call = {"index": 0, "id": "call_x", "type": "function", "function": CALL}
    asked = request(tools=[TOOL], **members)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "tool_calls": [call]},
        "finish_reason": "tool_calls",
    }
    answer = msgspec.json.encode({"id": "1", "model": "m", "choices": [choice]})
    told = translation(asked).reply(Reply(answer))
    assert isinstance(told, Reply) and told.body == answer
    asked = request(stream=True, tools=[TOOL], **members)
    made = translation(asked)
    pieces = [chunk({"tool_calls": [call]}), chunk({}, "tool_calls"), b"data: [DONE]\n\n"]
    vllm = create("vllm")
    assert isinstance(vllm, OpenAICompatible)
    decoder = made.decoder(vllm.decoder(made.said, "m"))
    assert decoder.feed(b"".join(pieces)) + decoder.close() == b"".join(pieces)
    assert decoder.failure is None


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    said = {"id": "1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return b"data: " + msgspec.json.encode(said) + b"\n\n"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_call_of_a_stream_is_told_in_the_older_way(size: int) -> None:
    first = {"index": 0, "id": "call_x", "type": "function", "function": {"name": "weather", "arguments": ""}}
    pieces = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "I "}),
        chunk({"content": "ask"}),
        chunk({"tool_calls": [first]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Rome"}'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "b", "arguments": "{}"}}]}),
        chunk({}, "tool_calls"),
        b"data: [DONE]\n\n",
    ]
    asked = request(stream=True)
    made = translation(asked)
    vllm = create("vllm")
    assert isinstance(vllm, OpenAICompatible)
    decoder = made.decoder(vllm.decoder(made.said, "m"))
    whole = b"".join(pieces)
    out = b"".join(decoder.feed(whole[at : at + size]) for at in range(0, len(whole), size))
    out += decoder.close()
    assert decoder.failure is None and decoder.finished
    *events, done = [part.removeprefix(b"data: ") for part in out.split(b"\n\n") if part]
    assert done == b"[DONE]"
    told = [msgspec.json.decode(event)["choices"][0] for event in events]
    assert [choice["delta"] for choice in told] == [
        {"role": "assistant", "content": ""},
        {"content": "I "},
        {"content": "ask"},
        {"function_call": {"name": "weather", "arguments": ""}},
        {"function_call": {"arguments": '{"city":"Rome"}'}},
        {},
        {},
    ]
    assert told[-1]["finish_reason"] == "function_call"


def test_a_stream_that_breaks_off_gets_no_end() -> None:
    asked = request(stream=True)
    made = translation(asked)
    decoder = made.decoder(create("vllm").decoder(made.said, "m"))
    out = decoder.feed(chunk({"content": "I "})) + decoder.close()
    assert isinstance(decoder.failure, Failure) and b"[DONE]" not in out
