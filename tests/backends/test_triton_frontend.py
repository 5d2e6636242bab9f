"""Triton's OpenAI frontend: what it is sent, and its real replies, read as a client gets them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from backends.base import (
    Action,
    Call,
    Failure,
    Health,
    Kind,
    ModelCard,
    Operation,
    Reply,
    Request,
    RequestError,
    Signal,
    Status,
    Usage,
)
from backends.engines.triton.engine import Triton, TritonOptions
from backends.engines.triton.frontend import TritonFrontend
from tests.backends import recorded as replies

ENGINE = TritonOptions(api="openai", max_tokens=77).engine()
FOLDER = "triton-openai"
USER = {"role": "user", "content": "Hi"}


def chat(**body: Any) -> Request:
    return replies.request(Operation.CHAT, **{"messages": [USER], **body})


def completion(**body: Any) -> Request:
    return replies.request(Operation.COMPLETIONS, **{"prompt": "Hi", **body})


def embedding(given: Any, **body: Any) -> Request:
    return replies.request(Operation.EMBEDDINGS, input=given, **body)


def sent(request: Request) -> dict[str, Any]:
    """Return what the frontend is asked, without what every request has."""
    body: dict[str, Any] = json.loads(ENGINE.call(request, "demo").body)
    assert body.pop("model") == "demo"
    return body


def refused(request: Request) -> Failure:
    with pytest.raises(RequestError) as error:
        ENGINE.call(request, "demo")
    return error.value.failure


def failed(name: str) -> Failure:
    found = replies.recorded(FOLDER, name)
    return ENGINE.failure(int(found.status.split()[1]), (), found.answer)


def whole(request: Request, name: str) -> dict[str, Any]:
    """Return a recorded answer as the client gets it that sent this request."""
    reply = ENGINE.reply(request, "demo", (), replies.recorded(FOLDER, name).answer)
    assert isinstance(reply, Reply)
    return json.loads(reply.body)  # type: ignore[no-any-return]


def events(data: bytes) -> list[dict[str, Any]]:
    payloads = [event.removeprefix(b"data: ") for event in data.split(b"\n\n") if event]
    assert payloads.pop() == b"[DONE]"
    return [json.loads(payload) for payload in payloads]


def streamed(request: Request, name: str, size: int = 1 << 20) -> tuple[str, str | None, Usage | None]:
    """Return the text of a recorded stream, its finish reason, and its usage."""
    decoder = ENGINE.decoder(request, "demo")
    data = replies.recorded(FOLDER, name).answer
    out = b"".join(decoder.feed(data[start : start + size]) for start in range(0, len(data), size))
    out += decoder.close()
    assert decoder.failure is None and decoder.finished
    choices = [choice for event in events(out) for choice in event["choices"]]
    text = "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    assert reasons == [choices[-1]["finish_reason"]]
    return text, reasons[0], decoder.usage


# --- requests

KNOWN_BY_NAME = {"ignore_eos": True, "min_tokens": 2, "seed": 3, "user": "u", "presence_penalty": 0.5}


def test_only_members_that_it_knows_are_sent() -> None:
    notes = {"metadata": {"a": "b"}, "store": True, "parallel_tool_calls": True, "n": 1, "logit_bias": {}}
    nulls = {"temperature": None, "max_tokens": None, "top_k": None, "response_format": None}
    asked = chat(**notes, **nulls, **KNOWN_BY_NAME)
    assert sent(asked) == {"messages": [USER], "max_tokens": 77, **KNOWN_BY_NAME}
    asked = completion(**notes, **KNOWN_BY_NAME, best_of=1, suffix="", echo=False)
    assert sent(asked) == {"prompt": "Hi", "max_tokens": 77, "echo": False, **KNOWN_BY_NAME}
    assert sent(embedding("x", metadata={}, encoding_format=None)) == {"input": "x"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("logit_bias", {"1": 1}),
        ("top_k", 5),
        ("min_p", 0.1),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("response_format", {"type": "json_object"}),
        ("functions", [{"name": "f"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(name: str, value: Any) -> None:
    failure = refused(chat(**{name: value}))
    assert (failure.kind, failure.param) == (Kind.UNSUPPORTED, name)


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (completion(prompt=["a", "b"]), "prompt"),
        (completion(prompt=[1, 2]), "prompt"),
        (completion(best_of=2), "best_of"),
        (completion(suffix="x"), "suffix"),
        (embedding(["a", "b"]), "input"),
        (embedding([[1], [2]]), "input"),
    ],
)
def test_one_input_and_one_answer(request_: Request, name: str) -> None:
    failure = refused(request_)
    assert (failure.kind, failure.param) == (Kind.UNSUPPORTED, name)


def test_a_list_of_one_is_that_one() -> None:
    assert sent(completion(prompt=["a"]))["prompt"] == "a"
    assert sent(embedding(["a"])) == {"input": "a"}
    assert sent(embedding([[1, 2]])) == {"input": [1, 2]}
    assert sent(embedding([1, 2])) == {"input": [1, 2]}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -7}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"top_p": 0}, "top_p"),
    ],
)
def test_values_that_end_as_an_error_of_the_servers_are_the_clients_mistake(
    body: dict[str, Any], name: str
) -> None:
    failure = refused(chat(**body))
    assert (failure.kind, failure.param) == (Kind.REJECTED, name)


def test_values_are_put_right() -> None:
    assert "stop" not in sent(chat(stop=""))
    assert sent(chat(stop=["", "x"]))["stop"] == ["x"]
    assert 0 <= sent(chat(seed=-1))["seed"] < 1 << 63
    assert sent(chat(max_completion_tokens=5)) == {"messages": [USER], "max_completion_tokens": 5}
    assert sent(completion(max_completion_tokens=5)) == {"prompt": "Hi", "max_tokens": 5}


def test_histories_are_what_templates_can_read() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    def call(arguments: Any) -> dict[str, Any]:
        return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}

    asked = chat(
        messages=[
            {"role": "developer", "content": parts},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "tool_calls": [call(""), call('{"a":1,"b')]},
            {"role": "tool", "tool_call_id": "c", "content": parts},
            {"role": "assistant", "content": "Yes.", "tool_calls": []},
        ]
    )
    assert sent(asked)["messages"] == [
        {"role": "system", "content": "ab"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "", "tool_calls": [call("{}"), call('{"a":1}')]},
        {"role": "tool", "tool_call_id": "c", "content": "ab"},
        {"role": "assistant", "content": "Yes."},
    ]


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def test_tools() -> None:
    schema = {"type": "object", "properties": {"a": {}}}
    given = [tool("f"), tool("g", parameters=schema), tool("h", parameters=None)]
    asked = sent(chat(tools=given))
    assert [one["function"]["parameters"] for one in asked["tools"]] == [
        {"type": "object", "properties": {}},
        schema,
        {"type": "object", "properties": {}},
    ]
    failure = refused(chat(tools=given, tool_choice="required"))
    assert (failure.kind, failure.param) == (Kind.UNSUPPORTED, "tool_choice")
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": given[:1]}}
    failure = refused(chat(tools=given, tool_choice=allowed))
    assert (failure.kind, failure.param) == (Kind.UNSUPPORTED, "tool_choice")
    assert sent(chat(tools=given[:1], tool_choice="required"))["tool_choice"] == "required"
    named = {"type": "function", "function": {"name": "g"}}
    assert sent(chat(tools=given, tool_choice=named))["tool_choice"] == named
    for body in ({"tools": given, "tool_choice": "none"}, {"tools": [], "tool_choice": "auto"}):
        assert sent(chat(**body)) == {"messages": [USER], "max_tokens": 77}


def test_tools_and_prompts_that_are_repeated_are_asked_for_whole() -> None:
    options = {"stream_options": {"include_usage": True}}
    for asked in (
        chat(tools=[tool("f")], stream=True, **options),
        completion(echo=True, stream=True, **options),
    ):
        assert ENGINE.call(asked, "demo").whole
        body = sent(asked)
        assert "stream" not in body and "stream_options" not in body
    for asked in (
        chat(stream=True),
        completion(stream=True),
        chat(tools=[tool("f")], tool_choice="none", stream=True),
    ):
        assert not ENGINE.call(asked, "demo").whole
        assert sent(asked)["stream"] is True and sent(asked)["stream_options"] == {"include_usage": True}


SCHEMA = {"type": "object", "properties": {"e": {"$ref": "#/$defs/E"}}, "$defs": {"E": {"type": "string"}}}
BY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}


def test_an_answer_by_a_schema_is_asked_for_as_arguments() -> None:
    asked = chat(response_format=BY_SCHEMA, stream=True)
    assert sent(asked) == {
        "messages": [USER],
        "max_tokens": 77,
        "tools": [{"type": "function", "function": {"name": "answer", "parameters": SCHEMA}}],
        "tool_choice": {"type": "function", "function": {"name": "answer"}},
    }
    assert ENGINE.call(asked, "demo").whole
    for request_ in (
        chat(response_format=BY_SCHEMA, tools=[tool("f")]),
        completion(response_format=BY_SCHEMA),
    ):
        assert (refused(request_).kind, refused(request_).param) == (Kind.UNSUPPORTED, "response_format")
    without = refused(chat(response_format={"type": "json_schema"}))
    assert (without.kind, without.param) == (Kind.REJECTED, "response_format")


def test_an_answer_by_a_schema_is_text() -> None:
    asked = {"response_format": BY_SCHEMA, "max_tokens": 24}
    (choice,) = whole(chat(**asked), "schema_as_tool")["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ('{"engine": "ollama"}', "stop")
    assert "tool_calls" not in choice["message"]
    assert (
        whole(chat(**asked | {"max_tokens": 12}), "schema_as_tool")["choices"][0]["finish_reason"] == "length"
    )
    reply = ENGINE.reply(
        chat(stream=True, **asked), "demo", (), replies.recorded(FOLDER, "schema_as_tool").answer
    )
    assert isinstance(reply, Reply)
    choices = [choice for event in events(reply.body) for choice in event["choices"]]
    assert "".join(c["delta"].get("content") or "" for c in choices) == '{"engine": "ollama"}'
    assert choices[-1]["finish_reason"] == "stop"


# --- answers


@pytest.mark.parametrize(
    ("asked", "name", "reason"),
    [
        (chat(max_tokens=4), "chat_length", "length"),
        (chat(max_completion_tokens=4), "chat_max_completion_tokens", "length"),
        (chat(max_tokens=24), "chat_stop", "stop"),
        (chat(max_tokens=200), "tools_declined_stream", "stop"),
        (chat(max_tokens=200), "chat_tools", "tool_calls"),
        (chat(max_tokens=200), "tools_named", "tool_calls"),
        (chat(max_tokens=12), "tools_cut", "length"),
        (chat(max_tokens=5), "tools_cut_required", "length"),
        (chat(max_tokens=24), "trtllm_chat", "length"),
        (chat(max_tokens=24), "no_counts", "stop"),
        (completion(max_tokens=14), "completions", "length"),
        (completion(max_tokens=16), "completions", "stop"),
    ],
)
def test_why_an_answer_ended(asked: Request, name: str, reason: str) -> None:
    if name.endswith("_stream"):
        assert streamed(asked, name)[1] == reason
    else:
        assert whole(asked, name)["choices"][0]["finish_reason"] == reason


def test_a_limit_of_the_gateways_own_is_reached_too() -> None:
    short = TritonFrontend("vllm", 4)
    reply = short.reply(chat(), "demo", (), replies.recorded(FOLDER, "chat_length").answer)
    assert isinstance(reply, Reply) and json.loads(reply.body)["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_streams_say_last_why_they_ended(size: int) -> None:
    text, reason, usage = streamed(chat(stream=True, max_tokens=24), "length_stream", size)
    assert text and (reason, usage) == ("length", Usage(16, 24))
    assert streamed(chat(stream=True, max_tokens=25), "length_stream", size)[1] == "stop"
    text, reason, usage = streamed(completion(stream=True, max_tokens=4), "completions_length_stream", size)
    assert (text, reason) == (" one URL in front", "length")
    assert streamed(chat(stream=True, max_tokens=24), "no_counts_stream", size)[1:] == ("stop", None)


def test_usage_comes_after_the_reason() -> None:
    asked = Request(Operation.CHAT, b'{"model":"m","max_tokens":24}', "m", stream=True, include_usage=True)
    decoder = ENGINE.decoder(asked, "demo")
    told = events(decoder.feed(replies.recorded(FOLDER, "length_stream").answer) + decoder.close())
    assert told[-1]["choices"] == [] and told[-1]["usage"]["completion_tokens"] == 24
    assert told[-2]["choices"][0]["finish_reason"] == "length"
    assert not any(choice["finish_reason"] for event in told[:-2] for choice in event["choices"])


def test_a_stream_without_its_counts_is_not_whole() -> None:
    data = replies.recorded(FOLDER, "length_stream").answer
    cut = data[: data.index(b'"finish_reason":"stop"')]
    cut += data[len(cut) : data.index(b"\n\n", len(cut)) + 2]
    decoder = ENGINE.decoder(chat(stream=True, max_tokens=24), "demo")
    out = decoder.feed(cut)
    assert not decoder.finished and b'"stop"' not in out
    assert decoder.close() == b"" and decoder.failure is not None and decoder.failure.kind is Kind.RESET


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("chat_tools", [("get_port", '{"engine": "ollama"}')]),
        ("tools_unicode", None),
        ("tools_no_arguments", None),
        ("tools_two_calls", None),
        ("tools_brace_text", []),
        ("tools_mistral", None),
    ],
)
def test_a_stream_of_tool_calls_is_the_whole_answer(name: str, calls: list[tuple[str, str]] | None) -> None:
    asked = chat(stream=True, max_tokens=200, tools=[tool("f")])
    answer = replies.recorded(FOLDER, name).answer
    reply = ENGINE.reply(asked, "demo", (), answer)
    assert isinstance(reply, Reply)
    choices = [choice for event in events(reply.body) for choice in event["choices"]]
    found = [call for choice in choices for call in choice.get("delta", {}).get("tool_calls") or ()]
    said = json.loads(answer)["choices"][0]["message"]
    assert [call["function"] for call in found] == [call["function"] for call in said["tool_calls"] or ()]
    assert all(call["id"] and call["type"] == "function" for call in found)
    assert [call["index"] for call in found] == list(range(len(found)))
    if calls is not None:
        assert [(call["function"]["name"], call["function"]["arguments"]) for call in found] == calls
    assert choices[-1]["finish_reason"] == ("tool_calls" if found else "stop")


def test_of_several_calls_the_first_where_the_client_wants_one() -> None:
    asked = chat(tools=[tool("f")], parallel_tool_calls=False, max_tokens=200)
    assert "parallel_tool_calls" not in sent(asked)
    (choice,) = whole(asked, "tools_two_calls")["choices"]
    assert len(choice["message"]["tool_calls"]) == 1 and choice["finish_reason"] == "tool_calls"
    both = chat(tools=[tool("f")], parallel_tool_calls=True, max_tokens=200)
    assert len(whole(both, "tools_two_calls")["choices"][0]["message"]["tool_calls"]) == 2


TRTLLM = TritonOptions(api="openai", backend="tensorrtllm").engine()


def test_stop_strings_that_a_backend_leaves_in_the_text_are_cut() -> None:
    asked = {"max_tokens": 10, "stop": [" front", " in"]}
    reply = TRTLLM.reply(chat(**asked), "trt", (), replies.recorded(FOLDER, "trtllm_stop").answer)
    assert isinstance(reply, Reply)
    (choice,) = json.loads(reply.body)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (
        "This is one OpenAI compatible URL",
        "stop",
    )
    decoder = TRTLLM.decoder(chat(stream=True, **asked), "trt")
    told = events(decoder.feed(replies.recorded(FOLDER, "trtllm_stop_stream").answer))
    assert decoder.enough and decoder.finished and decoder.failure is None
    deltas = [choice for event in told for choice in event["choices"]]
    assert (
        "".join(choice["delta"].get("content") or "" for choice in deltas)
        == "This is one OpenAI compatible URL"
    )
    assert [choice["finish_reason"] for choice in deltas if choice["finish_reason"]] == ["stop"]
    # One in the last words of an answer that is as long as it may be ends it all the same.
    decoder = TRTLLM.decoder(chat(stream=True, max_tokens=10, stop=" front"), "trt")
    out = decoder.feed(replies.recorded(FOLDER, "trtllm_stop_stream").answer) + decoder.close()
    (reason,) = [c["finish_reason"] for e in events(out) for c in e["choices"] if c["finish_reason"]]
    assert reason == "stop" and decoder.usage == Usage(16, 10)
    # Without one in it the text is whole, and its limit counts.
    assert whole(chat(**asked), "trtllm_stop")["choices"][0]["finish_reason"] == "length"
    decoder = TRTLLM.decoder(chat(stream=True, max_tokens=10, stop="front of"), "trt")
    out = decoder.feed(replies.recorded(FOLDER, "trtllm_stop_stream").answer) + decoder.close()
    deltas = [choice for event in events(out) for choice in event["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in deltas).endswith(" in front")
    assert deltas[-1]["finish_reason"] == "length"


def test_the_beginning_of_a_stop_string_at_the_end_is_text() -> None:
    said = ({"content": "a fro"}, None), ({"content": ""}, "stop")
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in said]
    counts = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
    for tail in ([counts], []):
        data = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in [*chunks, *tail])
        decoder = TRTLLM.decoder(chat(stream=True, stop="front", max_tokens=9), "trt")
        deltas = [
            c
            for e in events(decoder.feed(data + b"data: [DONE]\n\n") + decoder.close())
            for c in e["choices"]
        ]
        assert "".join(c["delta"].get("content") or "" for c in deltas) == "a fro"
        assert deltas[-1]["finish_reason"] == "stop" and decoder.failure is None


# --- errors


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "context_overflow",
            Kind.CONTEXT,
            "The decoder prompt (length 8812) is longer than the maximum model length of 2048",
        ),
        ("completions_overflow", Kind.CONTEXT, "The decoder prompt"),
        ("embeddings_overflow", Kind.CONTEXT, ""),
        ("trtllm_overflow", Kind.CONTEXT, "Prompt length (8812) exceeds maximum input length (2048)"),
        ("max_tokens_zero", Kind.REJECTED, "the engine's model refuses one of the settings of this request"),
        ("stop_empty", Kind.REJECTED, "the engine's model refuses"),
        ("top_p_zero", Kind.REJECTED, "the engine's model refuses"),
        (
            "history_arguments_broken",
            Kind.REJECTED,
            "the arguments of a tool call in 'messages' are not JSON",
        ),
        ("overloaded", Kind.OVERLOADED, "the engine is overloaded"),
        ("overloaded_stream", Kind.OVERLOADED, "the engine is overloaded"),
        ("model_missing", Kind.MISSING, "the engine does not have this model"),
        ("model_missing_completions", Kind.MISSING, "the engine does not have this model"),
        ("model_missing_embeddings", Kind.MISSING, "the engine does not have this model"),
        ("lora_missing", Kind.MISSING, "the engine does not have this model"),
        ("model_unloaded", Kind.MISSING, "the engine has not loaded this model"),
        ("embeddings_of_text_model", Kind.UNSUPPORTED, "the engine's model does not do this operation"),
        ("chat_of_embedding_model", Kind.UNSUPPORTED, "the engine's model does not do this operation"),
        ("trtllm_embeddings", Kind.UNSUPPORTED, "the engine's model does not do this operation"),
        ("trtllm_logprobs", Kind.UNSUPPORTED, "logprobs are currently available only for the vLLM backend"),
        ("tools_no_parser", Kind.UNSUPPORTED, "having tools in the request requires --tool-call-parser"),
        ("image", Kind.UNSUPPORTED, "only text message is supported"),
        ("n_two", Kind.UNSUPPORTED, "Received n=2"),
        ("completions_suffix", Kind.UNSUPPORTED, "suffix is not currently supported"),
        ("completions_best_of", Kind.UNSUPPORTED, "best_of is no longer supported"),
        ("extra_metadata", Kind.REJECTED, "metadata: Extra inputs are not permitted"),
        ("temperature_high", Kind.REJECTED, "temperature: "),
        ("model_unhealthy", Kind.FAILED, "the engine reported an internal error"),
        ("error_first", Kind.FAILED, "the engine reported an internal error"),
        ("restricted", Kind.REFUSED, "the engine did not accept"),
        ("payload", Kind.REJECTED, ""),
        ("no_such_path", Kind.UNSUPPORTED, "the engine does not offer this operation"),
    ],
)
def test_recorded_errors(name: str, kind: Kind, message: str) -> None:
    failure = failed(name)
    assert failure.kind is kind and failure.message.startswith(message), failure
    assert "InferenceResponse" not in failure.message


def test_a_complaint_names_the_member() -> None:
    assert failed("extra_metadata").param == "metadata"
    assert failed("temperature_high").param == "temperature"


# --- health, models, load


def test_it_is_another_class_with_the_same_options() -> None:
    assert isinstance(ENGINE, TritonFrontend) and type(TritonOptions().engine()) is Triton
    assert Operation.EMBEDDINGS in ENGINE.operations


@pytest.mark.parametrize(
    ("name", "value"),
    [("tokenizer", "models/demo"), ("tensors", {"prompt": "p"}), ("inputs", {"a": 1}), ("whole_text", False)],
)
def test_options_that_it_would_not_hear(name: str, value: Any) -> None:
    text = json.dumps({"api": "openai", name: value})
    with pytest.raises(ValidationError, match=f"'{name}' cannot be set with 'api: openai'"):
        TritonOptions.model_validate_json(text, strict=True)


def test_it_is_up_as_long_as_it_lists_its_models() -> None:
    assert ENGINE.health() == ENGINE.models() == Call("/v1/models", method="GET")
    for name in ("models", "restricted"):
        found = replies.recorded(FOLDER, name)
        assert ENGINE.health_of(int(found.status.split()[1]), found.answer) is Health.READY
    assert ENGINE.health_of(500, b"") is Health.DOWN
    assert ModelCard("demo_lora_sql") in ENGINE.models_of(replies.recorded(FOLDER, "models").answer)


def test_actions() -> None:
    assert ENGINE.action(Action.LOAD, {"model": "a b"}) == Call("/v1/models/a%20b/load")
    assert ENGINE.action(Action.UNLOAD, {"model": "a"}) == Call("/v1/models/a/unload")
    assert ENGINE.action(Action.LIST, {}) == ENGINE.models()
    with pytest.raises(ValueError, match="takes 'model' alone"):
        ENGINE.action(Action.LOAD, {"model": "a", "config": {}})


def test_signals_are_those_of_the_backend() -> None:
    page = replies.recorded(FOLDER, "metrics").answer
    trtllm = TritonOptions(api="openai", backend="tensorrtllm").engine().signals_of([page])
    assert {signal: reading.value for signal, reading in trtllm.items()} == {
        Signal.RUNNING: 0,
        Signal.WAITING: 0,
        Signal.SLOTS: 64,
        Signal.KV_USE: 0.25,
    }
    vllm = ENGINE.signals_of([page])
    assert vllm[Signal.WAITING].status is Status.OK and vllm[Signal.RUNNING].status is Status.MISSING
