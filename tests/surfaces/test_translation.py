"""The seam between an engine's stream and a client's dialect: how a stream may end, and how its bytes may split."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import registry
from backends.base import Failure, Kind, Operation, Reply, Request, RequestError
from backends.surfaces import chat
from backends.surfaces.codecs import translated
from tests.surfaces.chatting import ENGINE, NATIVE, chunk, counted, events, stream, streamed, translation

ASKED: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "stream": True,
    "messages": [{"role": "user", "content": "hi"}],
}
SAID = [chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}), chunk({"content": "b"})]
END = [chunk({}, "stop"), counted(3, 2)]
NAMELESS = {"index": 0, "id": "c", "function": {"arguments": "{}"}}
UNNAMED = {"index": 0, "id": "c", "function": None}
EMPTY = {"index": 0, "function": None}
"""What says nothing, not even that a call begins."""


def named(name: str) -> dict[str, Any]:
    return {"index": 0, "function": {"name": name, "arguments": ""}}


def ended(data: bytes, closes: bool = True) -> tuple[list[str], Failure | None]:
    """Return the types of the events that the client gets, and how the stream failed."""
    found = translation(Operation.MESSAGES, ASKED)
    decoder = found.decoder(ENGINE.decoder(found.said, "up"))
    out = decoder.feed(data)
    if closes and decoder.failure is None:
        out += decoder.close()
    return [event["type"] for event in events(out)], decoder.failure


def test_a_stream_that_is_done_has_its_end() -> None:
    kinds, failure = ended(stream([*SAID, *END]))
    assert kinds[-2:] == ["message_delta", "message_stop"] and failure is None


def test_a_stream_that_closes_after_its_last_word_has_its_end() -> None:
    kinds, failure = ended(stream([*SAID, *END], done=False))
    assert kinds[-1] == "message_stop" and failure is None


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(stream(SAID, done=False), Kind.RESET, id="closes in the middle"),
        pytest.param(stream(SAID), Kind.GARBLED, id="done without a reason"),
        pytest.param(stream(SAID, done=False) + b"data: {broken\n\n", Kind.GARBLED, id="no JSON"),
        pytest.param(stream(SAID, done=False) + b'data: {"choices": [', Kind.RESET, id="half an event"),
        pytest.param(
            stream([*SAID, {"error": {"message": "out of memory"}}]), Kind.FAILED, id="an error of the engine"
        ),
        pytest.param(stream([*SAID, chunk({"tool_calls": "x"})]), Kind.GARBLED, id="no such shape"),
        pytest.param(
            stream([*SAID, chunk({"tool_calls": [NAMELESS]}), chunk({}, "tool_calls")]),
            Kind.GARBLED,
            id="a call without a name",
        ),
        pytest.param(
            stream([*SAID, chunk({"tool_calls": [UNNAMED]}), chunk({}, "tool_calls")]),
            Kind.GARBLED,
            id="a call of nothing",
        ),
        pytest.param(stream([*SAID, chunk({"content": 5})]), Kind.GARBLED, id="content that is a number"),
        pytest.param(stream([*SAID, chunk({"content": {}})]), Kind.GARBLED, id="content that is an object"),
    ],
)
def test_a_stream_that_fails_has_no_end(data: bytes, kind: Kind) -> None:
    kinds, failure = ended(data)
    assert "message_stop" not in kinds and "message_delta" not in kinds
    assert kinds[:3] == ["message_start", "content_block_start", "content_block_delta"]
    assert failure is not None and failure.kind is kind


@pytest.mark.parametrize("operation", [Operation.MESSAGES, Operation.RESPONSES, Operation.OLLAMA_CHAT])
def test_a_call_of_two_names_is_the_engines_failure(operation: Operation) -> None:
    found = translation(operation, ASKED | {"input": "hi"})
    decoder = found.decoder(ENGINE.decoder(found.said, "up"))
    for name, failed in (("get_", False), ("get_", False), ("weather", True)):
        decoder.feed(stream([chunk({"tool_calls": [named(name)]})], done=False))
        assert (decoder.failure is not None) is failed
    assert decoder.failure is not None and decoder.failure.kind is Kind.GARBLED


@pytest.mark.parametrize("operation", [Operation.MESSAGES, Operation.RESPONSES])
def test_a_piece_that_says_nothing_is_no_call(operation: Operation) -> None:
    found = translation(operation, ASKED | {"input": "hi"})
    streamed(found, stream([*SAID, chunk({"tool_calls": [EMPTY]}), *END]))


def test_nothing_is_ended_that_goes_on() -> None:
    kinds, failure = ended(stream([*SAID, chunk({}, "stop")], done=False), closes=False)
    assert kinds[-1] == "content_block_delta" and failure is None


TEXTS = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6)


ARGUMENTS = st.dictionaries(st.text(max_size=9), st.text(max_size=20) | st.integers(), max_size=3)


def plain(data: bytes) -> str:
    """Return what a client gets without ids that are new for each answer, and times."""
    said = re.sub(r'"(id|item_id)":"[a-z]+_[0-9a-f]+"', '"id":""', data.decode())
    return re.sub(r'"(created_at|completed_at|[a-z_]+_duration)":("[^"]*"|\d+)', '"time":0', said)


@pytest.mark.parametrize("operation", [Operation.MESSAGES, Operation.RESPONSES, Operation.OLLAMA_CHAT])
@settings(max_examples=40)
@given(texts=TEXTS, thoughts=TEXTS, arguments=ARGUMENTS, cut=st.integers(0, 30), size=st.integers(1, 200))
def test_the_split_of_the_bytes_changes_nothing(
    operation: Operation,
    texts: list[str],
    thoughts: list[str],
    arguments: dict[str, Any],
    cut: int,
    size: int,
) -> None:
    told = msgspec.json.encode(arguments).decode()
    begun = {"index": 0, "id": "c1", "function": {"name": "get", "arguments": told[:cut]}}
    more = {"index": 0, "function": {"arguments": told[cut:]}}
    said = [
        *[chunk({"reasoning_content": text}) for text in thoughts],
        *[chunk({"content": text}) for text in texts],
        *[chunk({"tool_calls": [piece]}) for piece in (begun, more)],
    ]
    asked, data = ASKED | {"input": "hi"}, stream([*said, *END])
    once = streamed(translation(operation, asked), data)
    assert plain(streamed(translation(operation, asked), data, size)) == plain(once)
    if operation is Operation.MESSAGES:
        deltas = [event["delta"] for event in events(once) if event["type"] == "content_block_delta"]
        found = {name: [delta[name] for delta in deltas if name in delta] for name in ("text", "thinking")}
        assert "".join(found["text"]) == "".join(texts)
        assert "".join(found["thinking"]) == "".join(thoughts)
        pieces = [delta["partial_json"] for delta in deltas if "partial_json" in delta]
        assert "".join(pieces) == told


def test_a_whole_answer_to_a_stream_becomes_its_events() -> None:
    found = translation(Operation.MESSAGES, ASKED)
    reply = found.reply(Reply(stream([*SAID, *END]), None))
    assert isinstance(reply, Reply)
    assert events(reply.body)[-1] == {"type": "message_stop"}


def test_an_answer_that_makes_no_sense_is_the_engines_failure() -> None:
    found = translation(Operation.MESSAGES, ASKED | {"stream": False})
    failure = found.reply(Reply(b'{"choices": []}', None))
    assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED


@pytest.mark.parametrize("operation", [Operation.MESSAGES, Operation.RESPONSES, Operation.OLLAMA_CHAT])
@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"content": "a", "tool_calls": [NAMELESS]}, id="a call without a name"),
        pytest.param({"content": "a", "tool_calls": [UNNAMED]}, id="a call of nothing"),
        pytest.param({"content": 5}, id="content that is a number"),
    ],
)
def test_a_message_that_cannot_be_read_is_the_engines_failure(
    operation: Operation, message: dict[str, Any]
) -> None:
    found = translation(operation, ASKED | {"stream": False, "input": "hi"})
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "tool_calls"}
    failure = found.reply(Reply(msgspec.json.encode({"choices": [choice]}), None))
    assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED


def test_a_request_that_cannot_be_said_is_refused_with_its_place() -> None:
    odd = ASKED | {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]}
    with pytest.raises(RequestError) as caught:
        translation(Operation.MESSAGES, odd)
    assert caught.value.failure.kind is Kind.REJECTED
    assert caught.value.failure.param == "messages.0.content.0.source.type"


@pytest.mark.parametrize("operation", [Operation.MESSAGES, Operation.RESPONSES])
def test_more_text_is_passed_on_without_being_decoded(
    operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    decode = chat.decode

    def counting(payload: bytes) -> chat.Completion:
        decoded.append(payload)
        return decode(payload)

    monkeypatch.setattr(chat, "decode", counting)
    found = translation(operation, ASKED | {"input": "hi"})
    texts = [f" word{number}" for number in range(50)]
    decoder = translation(operation, ASKED | {"input": "hi"}).decoder(ENGINE.decoder(found.said, "up"))
    for event in SAID[:1], *[[chunk({"content": text})] for text in texts], END:
        decoder.feed(stream(list(event), done=False))
    assert len(decoded) == 4, "the role, the first text, the end and the counts"


ODD = [
    "x\r\nset-cookie: a=b",
    "search tool",
    "\u00fcber",
    "y" * 65,
    *[f"tool_{number}" for number in range(40)],
]


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        (Operation.MESSAGES, {"tools": [{"type": name, "name": "n"} for name in ODD]}),
        (Operation.COUNT_TOKENS, {"tools": [{"type": name, "name": "n"} for name in ODD]}),
        (Operation.RESPONSES, {"input": "hi", "tools": [{"type": name} for name in ODD]}),
        (Operation.OLLAMA_CHAT, {"max_tokens": None, "options": dict.fromkeys(ODD, 1)}),
    ],
)
def test_what_is_left_out_is_named_as_far_as_a_header_can_hold_it(
    operation: Operation, more: dict[str, Any]
) -> None:
    request = Request(operation, msgspec.json.encode(ASKED | more), "m")
    found = translated(request, ENGINE, NATIVE | {Operation.TOKENIZE})
    assert found is not None and found.dropped == tuple(f"tool_{number}" for number in range(16))


NATIVELY = frozenset(
    {Operation.CHAT, Operation.TOKENIZE, Operation.MESSAGES, Operation.RESPONSES}
    | {Operation.COUNT_TOKENS, Operation.INPUT_TOKENS}
)
HELLO: dict[Operation, dict[str, Any]] = {
    Operation.MESSAGES: ASKED,
    Operation.COUNT_TOKENS: ASKED,
    Operation.RESPONSES: {"model": "m", "input": "hi"},
    Operation.INPUT_TOKENS: {"model": "m", "input": "hi"},
}
WEB = {"type": "web_search_20250305", "name": "web_search"}
GET = {"name": "get", "input_schema": {"type": "object"}}
FUNCTION = {"type": "function", "name": "get", "parameters": {"type": "object"}}
PATCH = {"type": "custom", "name": "apply_patch"}
PATCHED = {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "x"}


def said_to(engine: str, operation: Operation, more: dict[str, Any]) -> Any:
    """Return what an engine that has all operations itself is told in other words; None where the bytes pass."""
    body = HELLO[operation] | more
    request = Request(operation, msgspec.json.encode(body), "m", stream=bool(body.get("stream")))
    found = translated(request, registry.create(engine), NATIVELY)
    return found and (msgspec.json.decode(found.said.body).get("tools"), found.dropped)


@pytest.mark.parametrize("engine", ["vllm", "llamacpp", "ollama", "lmdeploy"])
@pytest.mark.parametrize("operation", [Operation.MESSAGES, Operation.COUNT_TOKENS])
def test_tools_that_only_anthropic_runs_reach_no_engine(operation: Operation, engine: str) -> None:
    (tool,), dropped = said_to(engine, operation, {"tools": [WEB, GET]})
    assert tool["function"]["name"] == "get" and dropped == ("web_search_20250305",)
    for tools in ([GET], [GET | {"type": "custom"}], [GET | {"type": None}], [], None, 5):
        assert said_to(engine, operation, {"tools": tools}) is None
    assert said_to("openai", operation, {"tools": [WEB, GET]}) is None


@pytest.mark.parametrize("engine", ["vllm", "llamacpp", "ollama", "lmdeploy", "sglang"])
@pytest.mark.parametrize("operation", [Operation.RESPONSES, Operation.INPUT_TOKENS])
def test_custom_tools_and_those_that_only_openai_runs_are_said_in_a_chat(
    operation: Operation, engine: str
) -> None:
    tools, dropped = said_to(engine, operation, {"tools": [PATCH, {"type": "web_search"}, FUNCTION]})
    assert [tool["function"]["name"] for tool in tools] == ["apply_patch", "get"]
    assert dropped == ("web_search",)
    space = {"type": "namespace", "name": "words", "tools": [FUNCTION]}
    tools, _ = said_to(engine, operation, {"tools": [space]})
    assert [tool["function"]["name"] for tool in tools] == ["words__get"]
    assert said_to(engine, operation, {"input": [PATCHED]}) == (None, ())
    for more in ({"tools": [FUNCTION]}, {}, {"tools": [PATCH], "previous_response_id": "resp_1"}):
        assert said_to(engine, operation, more) is None
    assert said_to("openai", operation, {"tools": [PATCH], "input": [PATCHED]}) is None


def test_tools_that_an_engine_may_run_itself_pass_to_it() -> None:
    tools = [{"type": "web_search_preview"}, {"type": "code_interpreter", "container": {"type": "auto"}}]
    for engine, passes in (("vllm", True), ("sglang", True), ("llamacpp", False)):
        assert (said_to(engine, Operation.RESPONSES, {"tools": tools}) is None) is passes
