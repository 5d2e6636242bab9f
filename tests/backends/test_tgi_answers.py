"""What TGI's real answers mean: cut before stop strings, calls that were cut, counts of the right generation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Failure, Kind, Operation, Reply, Request, Usage
from backends.dialect.chunks import Stamp
from backends.dialect.stream import EventStream
from backends.engines.tgi.engine import TGI
from tests.backends.recorded import played, recorded, request

ENGINE = TGI(lambda operation: Stamp("id-1", 7))
SIZES = pytest.mark.parametrize("size", [1, 7, 1 << 20])
TEXT = "The gateway is one URL in front of many engines, and it speaks the OpenAI API."


def events(stream: bytes) -> list[Any]:
    found = [event.removeprefix(b"data: ") for event in stream.split(b"\n\n") if event]
    return [event.decode() if event == b"[DONE]" else json.loads(event) for event in found]


def told(said: list[Any]) -> tuple[str, list[str]]:
    """Return the text of a stream's only choice, and its finish reasons."""
    choices = [choice for event in said if event != "[DONE]" for choice in event["choices"]]
    text = "".join(
        (choice.get("delta") or choice).get("content") or choice.get("text") or "" for choice in choices
    )
    return text, [choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None]


def asked_for(name: str, **more: Any) -> Request:
    """Return a client's request that leads to the recorded one."""
    found = json.loads(recorded("tgi", name).body)
    operation = Operation.CHAT if "messages" in found else Operation.COMPLETIONS
    return request(operation, **{**found, "stream": False, **more})


def whole(name: str, **more: Any) -> dict[str, Any]:
    """Return the whole answer that a client gets, as the recorded status line and headers have it."""
    found = recorded("tgi", name)
    headers = [tuple(line.split(b": ", 1)) for line in found.headers]
    asked, status = asked_for(name, **more), int(found.status.split()[1])
    if status == 200:
        reply = ENGINE.reply(asked, "demo", headers, found.answer)  # type: ignore[arg-type]
    else:
        reply = ENGINE.refusal(asked, status, (), found.answer)
    assert isinstance(reply, Reply), reply
    if asked.stream:
        return {"events": events(reply.body)}
    return dict(json.loads(reply.body))


def call_of(answer: dict[str, Any]) -> tuple[str, str, str]:
    """Return the reason, and the name and arguments of the only call."""
    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["id"].startswith("call-") and call["type"] == "function"
    return choice["finish_reason"], call["function"]["name"], call["function"]["arguments"]


# --- whole answers


def test_a_whole_answer() -> None:
    body = whole("chat")
    assert body["id"] == "id-1" and body["model"] == "public"
    assert body["choices"][0]["message"]["content"] == TEXT and body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 19


@pytest.mark.parametrize("name", ["chat_tools", "tools_auto", "tools_named", "tools_whole_compact"])
def test_calls_have_ids_their_reason_and_no_null(name: str) -> None:
    answers = [whole(name) for _ in range(2)]
    reason, _, arguments = call_of(answers[0])
    assert reason == "tool_calls" and json.loads(arguments)
    message = answers[0]["choices"][0]["message"]
    assert message["content"] is None and "description" not in message["tool_calls"][0]["function"]
    assert len({answer["choices"][0]["message"]["tool_calls"][0]["id"] for answer in answers}) == 2
    assert call_of(whole("tools_whole_no_arguments")) == ("tool_calls", "now", "{}")


def test_a_call_is_streamed_from_the_whole_answer() -> None:
    """TGI's own streams of the same tokens have arguments that are no JSON, or `{}`."""
    said = whole("tools_whole_compact", stream=True)["events"]
    deltas = [choice["delta"] for event in said[:-1] for choice in event["choices"]]
    (call,) = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert (
        call["index"] == 0 and json.loads(call["function"]["arguments"]) and told(said)[1] == ["tool_calls"]
    )
    for name in ("tools_stream_comma_apart", "tools_stream_compact", "tools_stream_compact_two"):
        assert json.loads(recorded("tgi", name).body)["stream"]
        assert ENGINE.call(asked_for(name, stream=True), "demo").whole


def test_a_call_that_its_limit_cuts_is_an_answer() -> None:
    assert call_of(whole("tools_cut_in_arguments")) == ("length", "get_port", '{"engine"')
    before = whole("tools_cut_before_name")["choices"][0]
    assert before["finish_reason"] == "length" and before["message"] == {"role": "assistant", "content": ""}
    assert "usage" not in whole("tools_cut_before_name")
    said = whole("tools_cut_in_arguments", stream=True)["events"]
    assert told(said)[1] == ["length"] and said[-1] == "[DONE]"


def test_a_call_that_a_stop_string_cuts_is_an_answer() -> None:
    assert call_of(whole("tools_stopped")) == ("stop", "get_port", '{"engine": "')


def test_a_model_may_take_no_tool() -> None:
    (choice,) = whole("tools_declined")["choices"]
    assert choice["finish_reason"] == "stop" and choice["message"] == {"role": "assistant", "content": ""}


def test_text_of_a_cut_answer_is_read_as_rust_writes_it() -> None:
    text = '{"function": {"_name": "say \\"x\\"", "text": "é\\n\u200b\\t'
    written = text.replace("\\", "\\\\").replace('"', '\\"').replace("\u200b", "\\u{200b}")
    error = f'Tool error: Failed to parse generated text: EOF while parsing a string at line 1 column 9 "{written}"'
    body = json.dumps({"error": error, "error_type": "tool_error"}).encode()
    reply = ENGINE.refusal(asked_for("tools_declined"), 422, (), body)
    assert isinstance(reply, Reply)
    assert call_of(json.loads(reply.body)) == ("length", 'say "x"', '{"text": "é\\n\u200b\\t')


def test_other_refusals_stay_refusals() -> None:
    found = recorded("tgi", "tools_named_missing")
    failure = ENGINE.refusal(asked_for("tools_named_missing"), 422, (), found.answer)
    assert isinstance(failure, Failure) and failure.kind is Kind.REJECTED
    no_tools = ENGINE.refusal(asked_for("chat"), 422, (), recorded("tgi", "tools_declined").answer)
    assert isinstance(no_tools, Failure)
    for body in (
        b"",
        b"5",
        b'{"error":5}',
        b'{"error":"Failed to parse generated text","error_type":"tool_error"}',
    ):
        assert isinstance(ENGINE.refusal(asked_for("tools_declined"), 422, (), body), Failure)


def test_a_text_beside_tools_is_counted_by_its_own_generation() -> None:
    body = whole("tools_no_tool_cut")
    assert body["choices"][0]["finish_reason"] == "length" and body["usage"]["completion_tokens"] == 40
    body = whole("tools_no_tool")
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 26, "completion_tokens": 19, "total_tokens": 45}
    assert whole("tools_no_tool_logprobs")["choices"][0]["logprobs"] is None
    assert whole("chat_logprobs")["choices"][0]["logprobs"]["content"]


def test_stop_strings_are_cut() -> None:
    (choice,) = whole("chat_stop")["choices"]
    assert "OpenAI" not in choice["message"]["content"] and choice["finish_reason"] == "stop"
    (choice,) = whole("stop_inside_token_cut")["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("The gateway is one URL in", "stop")


def test_choices_of_several_prompts_are_in_order() -> None:
    body = whole("completions_two")
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert [choice["text"] for choice in body["choices"]][1] == "second."
    assert body["usage"] == {"prompt_tokens": 14, "completion_tokens": 21, "total_tokens": 35}
    reply = ENGINE.reply(
        asked_for("completions_two", stream=True), "demo", (), recorded("tgi", "completions_two").answer
    )
    assert isinstance(reply, Reply) and reply.usage == Usage(14, 21)
    assert b"<|im_end|>" not in reply.body and events(reply.body)[-1] == "[DONE]"


def test_answers_that_are_none() -> None:
    for body in (b"", b"[]", b'{"choices": 5}', b'{"choices": [5]}', b'{"choices": []}', b"<html>"):
        failure = ENGINE.reply(request(Operation.CHAT), "m", (), body)
        assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED


@pytest.mark.parametrize("calls", [[5], {"a": 1}, [{"function": 5}], "ab", [{"index": []}]])
def test_tool_calls_that_are_none(calls: Any) -> None:
    answer = {"choices": [{"index": 0, "message": {"tool_calls": calls}, "finish_reason": "stop"}]}
    assert isinstance(
        ENGINE.reply(request(Operation.CHAT), "up", (), json.dumps(answer).encode()), Reply | Failure
    )


# --- chat streams


@SIZES
@pytest.mark.parametrize("include_usage", [False, True])
def test_a_chat_stream(size: int, include_usage: bool) -> None:
    asked = Request(
        Operation.CHAT, asked_for("chat_stream").body, "public", True, include_usage=include_usage
    )
    out, decoder = played(ENGINE, asked, "chat_stream", size)
    said = events(out)
    assert told(said) == (TEXT, ["stop"]) and decoder.usage == Usage(16, 19) and decoder.finished
    assert {(event["id"], event["model"]) for event in said[:-1]} == {("id-1", "public")}
    assert [bool(event.get("usage")) for event in said[:-1]] == [False] * (len(said) - 2) + [include_usage]
    assert any("usage" in event for event in said[:-1]) is include_usage, "a null nobody asked for"


@SIZES
def test_a_stop_string_in_a_stream(size: int) -> None:
    out, decoder = played(ENGINE, asked_for("stop_stream", stream=True), "stop_stream", size)
    text, reasons = told(events(out))
    (stop,) = json.loads(recorded("tgi", "stop_stream").body)["stop"]
    assert stop not in text and TEXT.startswith(text) and reasons == ["stop"]
    assert decoder.finished and not decoder.enough and decoder.usage is not None, "the engine ended by itself"


@SIZES
def test_a_stop_string_inside_a_token_ends_the_stream(size: int) -> None:
    """TGI would go on until its limit."""
    out, decoder = played(ENGINE, asked_for("chat_stream", stream=True, stop=" fro"), "chat_stream", size)
    assert told(events(out)) == ("The gateway is one URL in", ["stop"]) and events(out)[-1] == "[DONE]"
    assert decoder.finished and decoder.enough and decoder.failure is None


@pytest.mark.parametrize(
    "name", ["overloaded_stream", "shard_dead_stream", "failed_stream_mid", "shard_died_stream"]
)
def test_failures_in_a_stream(name: str) -> None:
    out, decoder = played(ENGINE, request(Operation.CHAT, stream=True), name)
    kind = Kind.OVERLOADED if name == "overloaded_stream" else Kind.FAILED
    assert decoder.failure is not None and decoder.failure.kind is kind and b"[DONE]" not in out


def test_no_event_takes_the_short_way_past_stop_strings() -> None:
    """The relay offers each whole event to `more` first; where stop strings are searched it must be decoded."""
    event = recorded("tgi", "chat_stream").answer.split(b"\n\n")[0] + b"\n\n"
    searched = ENGINE.decoder(request(Operation.CHAT, stream=True, stop="END"), "up")
    passed = ENGINE.decoder(request(Operation.CHAT, stream=True), "up")
    assert isinstance(searched, EventStream) and isinstance(passed, EventStream)
    for stream in (searched, passed):
        stream.feed(event)
    assert searched.more(event, 0, len(event)) is None
    assert passed.more(event, 0, len(event)) is not None


# --- the native protocol


def native(name: str, size: int = 1 << 20, **more: Any) -> tuple[list[Any], Any]:
    asked = request(Operation.COMPLETIONS, prompt="The gateway is", stream=True, **more)
    asked = Request(asked.operation, asked.body, "public", True, include_usage=True)
    out, decoder = played(ENGINE, asked, name, size)
    return events(out), decoder


@SIZES
def test_a_completion_ends_without_its_end_token(size: int) -> None:
    """The Messages API streams it as text, and any special token before it."""
    said, decoder = native("native_stream", size)
    assert told(said) == (TEXT.removeprefix("The gateway is"), ["stop"])
    assert (
        decoder.usage == Usage(3, 16) and said[-2]["usage"]["total_tokens"] == 19 and said[0]["id"] == "id-1"
    )
    assert told(native("native_length", size)[0])[1] == ["length"]
    assert b"<|im_end|>" in recorded("tgi", "completions_special").answer


@SIZES
def test_a_completion_is_cut_before_its_stop_string(size: int) -> None:
    said, decoder = native("native_stop", size, stop=" front")
    assert told(said) == (" one URL in", ["stop"]) and decoder.usage == Usage(3, 4) and not decoder.enough
    said, decoder = native("native_stream", size, stop=" fro")
    assert told(said) == (" one URL in", ["stop"]) and decoder.enough and decoder.usage is None
    said, decoder = native("native_length", size, stop="fro")
    assert told(said)[1] == ["stop"], "cut by us before its limit"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("native_overflow", Kind.CONTEXT),
        ("native_failed", Kind.FAILED),
        ("overloaded_native", Kind.OVERLOADED),
    ],
)
def test_failures_of_the_native_protocol(name: str, kind: Kind) -> None:
    said, decoder = native(name)
    assert decoder.failure is not None and decoder.failure.kind is kind and "[DONE]" not in said


@pytest.mark.parametrize(
    "data", [b"", b'data:{"token":{"text":"a"}}\n\n', b"data: {nonsense}\n\n", b"data: x" * 9]
)
def test_a_native_stream_that_breaks(data: bytes) -> None:
    stream = ENGINE.decoder(request(Operation.COMPLETIONS, prompt="a", stream=True), "up")
    out = stream.feed(data) + stream.close()
    assert stream.failure is not None and b"[DONE]" not in out


MEMBERS = [
    *(
        "choices",
        "delta",
        "index",
        "content",
        "tool_calls",
        "function",
        "finish_reason",
        "usage",
        "id",
        "error",
    ),
    *("token", "text", "details"),
]
JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4)
    ),
)


@given(st.lists(JSON, max_size=4))
def test_no_events_make_it_fall(said: list[Any]) -> None:
    data = b"".join(b"data:" + json.dumps(event).encode() + b"\n\n" for event in said)
    for operation in (Operation.CHAT, Operation.COMPLETIONS):
        stream = ENGINE.decoder(request(operation, prompt="a", stream=True, stop="x"), "up")
        out = stream.feed(data)
        out += b"" if stream.enough else stream.close()
        assert out.endswith(b"data: [DONE]\n\n") is (stream.failure is None)
