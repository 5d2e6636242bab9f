"""TGI: requests and answers, corrected both ways, its errors, and its command line. No server is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.base import (
    Call,
    Failure,
    Health,
    Kind,
    LaunchError,
    ModelCard,
    Operation,
    Reply,
    Request,
    RequestError,
    Signal,
    Status,
    StreamDecoder,
    Usage,
)
from backends.dialect.chunks import Stamp
from backends.dialect.stream import EventStream
from backends.engines.tgi.engine import TGI, TGIOptions
from backends.engines.tgi.launch import TGILaunch

RECORDINGS = Path(__file__).parent.parent / "recordings" / "tgi"


def engine(**options: Any) -> TGI:
    read = TGIOptions.model_validate_json(json.dumps(options), strict=True)
    return TGI(read, lambda operation: Stamp("id-1", 7))


ENGINE, NATIVE = engine(), engine(api="native")


def request(operation: Operation = Operation.CHAT, **body: Any) -> Request:
    asked: dict[str, Any] = {"model": "m"}
    if operation is Operation.CHAT:
        asked["messages"] = [{"role": "user", "content": "Hi"}]
    usage = bool(body.pop("include_usage", False))
    return Request(
        operation, json.dumps({**asked, **body}).encode(), "m", bool(body.get("stream")), include_usage=usage
    )


def completion(**body: Any) -> Request:
    return request(Operation.COMPLETIONS, **{"prompt": "Hi", **body})


def sent(asked: Request, by: TGI = ENGINE) -> dict[str, Any]:
    """Return the body the engine gets, without the members that every body has."""
    body = json.loads(by.call(asked, "up").body)
    return {name: value for name, value in body.items() if name not in ("model", "messages", "prompt")}


def recorded(name: str) -> tuple[int, bytes]:
    answer = (RECORDINGS / f"{name}.http").read_bytes().split(b"\n=====\n", 1)[1]
    head, _, body = answer.partition(b"\n\n")
    return int(head.split()[1]), body


def read(stream: StreamDecoder, data: bytes, step: int = 1) -> list[Any]:
    """Return all that the client gets for a whole stream that arrives in pieces."""
    pieces = [data[place : place + step] for place in range(0, len(data), step)]
    out = b"".join([*map(stream.feed, pieces), stream.close()])
    events = [event.removeprefix(b"data: ") for event in out.split(b"\n\n") if event]
    return [event.decode() if event == b"[DONE]" else json.loads(event) for event in events]


def told(events: list[Any]) -> tuple[str, list[str]]:
    """Return the text of a stream's only choice, and its finish reasons."""
    choices = [choice for event in events[:-1] for choice in event["choices"]]
    text = "".join(
        (choice.get("delta") or choice).get("content") or choice.get("text") or "" for choice in choices
    )
    return text, [choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None]


def chunk(text: str, reason: str | None = None, **more: Any) -> bytes:
    choice = {
        "index": 0,
        "delta": {"role": "assistant", "content": text},
        "logprobs": None,
        "finish_reason": reason,
    }
    event = {
        "object": "chat.completion.chunk",
        "id": "",
        "created": 7,
        "model": "up",
        "choices": [choice],
        **more,
    }
    return b"data:" + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def step(text: str, special: bool = False, **more: Any) -> bytes:
    token = {"id": 1, "text": text, "logprob": -1.0, "special": special}
    return (
        b"data:" + json.dumps({"index": 1, "token": token, "generated_text": None, **more}).encode() + b"\n\n"
    )


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

# --- requests


@pytest.mark.parametrize(
    ("asked", "gets"),
    [
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"n": 1, "logit_bias": {}}, {}),
        ({"top_p": 1}, {}),
        ({"top_p": 1.0}, {}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"presence_penalty": 0}, {}),
        ({"presence_penalty": 0.5}, {"presence_penalty": 0.5}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": None}, {}),
        (
            {"response_format": {"type": "json_object"}},
            {"response_format": {"type": "json_object", "value": {"type": "object"}}},
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "array"}},
                }
            },
            {"response_format": {"type": "json_schema", "value": {"type": "array"}}},
        ),
        (
            {"response_format": {"type": "regex", "value": "a+"}},
            {"response_format": {"type": "regex", "value": "a+"}},
        ),
        ({"max_tokens": 5, "seed": 1, "anything": [1]}, {"max_tokens": 5, "seed": 1, "anything": [1]}),
    ],
)
def test_requests_as_tgi_takes_them(asked: dict[str, Any], gets: dict[str, Any]) -> None:
    assert sent(request(**asked)) == gets


def test_other_bytes_stay_as_they_were() -> None:
    body = b'{"model":"m","messages":[{"role": "user","content":"\\u0041  1e2"}],"seed": 1e0}'
    call = ENGINE.call(Request(Operation.CHAT, body, "m"), "up")
    assert call.path == "/v1/chat/completions"
    assert b'[{"role": "user","content":"\\u0041  1e2"}]' in call.body and b":1e0" in call.body


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"n": 2}, Kind.UNSUPPORTED),
        ({"logit_bias": {"5": 1}}, Kind.UNSUPPORTED),
        ({"logit_bias": "many"}, Kind.REJECTED),
        ({"echo": True}, Kind.UNSUPPORTED),
        ({"best_of": 3}, Kind.UNSUPPORTED),
    ],
)
def test_what_it_would_not_do(asked: dict[str, Any], kind: Kind) -> None:
    with pytest.raises(RequestError) as refused:
        ENGINE.call(completion(**asked), "up")
    assert refused.value.failure.kind is kind and refused.value.failure.param == next(iter(asked))


def test_completions_by_the_native_protocol() -> None:
    asked = completion(max_tokens=9, temperature=0, stop="x", top_p=1, seed=2, frequency_penalty=0.1)
    assert NATIVE.call(asked, "up").path == "/generate_stream"
    parameters = {"max_new_tokens": 9, "do_sample": False, "stop": ["x"], "seed": 2, "frequency_penalty": 0.1}
    assert sent(asked, NATIVE) == {"inputs": "Hi", "parameters": {**parameters, "details": True}}
    warm = sent(completion(temperature=0.5), NATIVE)["parameters"]
    assert warm == {"temperature": 0.5, "do_sample": True, "details": True}
    assert sent(completion(), NATIVE)["parameters"] == {"do_sample": True, "details": True}
    assert NATIVE.call(request(), "up").path == "/v1/chat/completions"
    for prompt in (["a", "b"], [1, 2], None):
        with pytest.raises(RequestError, match="one prompt"):
            NATIVE.call(completion(prompt=prompt), "up")


def test_tokenize() -> None:
    call = ENGINE.call(request(Operation.TOKENIZE, prompt="Hi", add_special_tokens=False), "up")
    assert (call.path, json.loads(call.body)) == ("/tokenize", {"inputs": "Hi", "add_special_tokens": False})
    messages = [{"role": "user", "content": "Hi"}]
    chat = ENGINE.call(request(Operation.TOKENIZE, messages=messages), "up")
    assert (chat.path, json.loads(chat.body)) == ("/chat_tokenize", {"messages": messages})
    tokens = [{"id": 5, "text": "H", "start": 0, "stop": 1}, {"id": 6, "text": "i", "start": 1, "stop": 2}]
    for answer in (tokens, {"tokenize_response": tokens, "templated_text": "Hi"}):
        asked = request(Operation.TOKENIZE, prompt="Hi", return_token_strs=True)
        reply = ENGINE.reply(asked, "up", (), json.dumps(answer).encode())
        assert isinstance(reply, Reply)
        assert json.loads(reply.body) == {"count": 2, "tokens": [5, 6], "token_strs": ["H", "i"]}
    failure = ENGINE.reply(request(Operation.TOKENIZE, prompt="Hi"), "up", (), b'{"tokens":1}')
    assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED


# --- whole answers


def whole(name: str, **asked: Any) -> dict[str, Any]:
    reply = ENGINE.reply(request(**asked), "demo", (), recorded(name)[1])
    assert isinstance(reply, Reply)
    found: dict[str, Any] = json.loads(reply.body)
    return found


def test_a_whole_answer() -> None:
    body = whole("chat")
    assert body["id"] == "id-1" and body["model"] == "m"
    assert body["choices"][0]["finish_reason"] == "stop" and body["usage"]["completion_tokens"] == 24


def test_tool_calls_have_ids_and_their_reason() -> None:
    bodies = [whole("chat_tools") for _ in range(2)]
    choice = bodies[0]["choices"][0]
    ids = {body["choices"][0]["message"]["tool_calls"][0]["id"] for body in bodies}
    assert choice["finish_reason"] == "tool_calls" and len(ids) == 2 and "0" not in ids


def test_a_stop_string_is_cut() -> None:
    content = whole("chat_stop", stop=" OpenAI")["choices"][0]["message"]["content"]
    assert content == "One URL, speaking"


def test_answers_that_are_none() -> None:
    for body in (b"", b"[]", b'{"choices": 5}', b'{"choices": [5]}', b'{"choices": []}', b"<html>"):
        failure = ENGINE.reply(request(), "m", (), body)
        assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED


# --- streams


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("include_usage", [False, True])
def test_a_chat_stream(size: int, include_usage: bool) -> None:
    stream = ENGINE.decoder(request(stream=True, include_usage=include_usage), "demo")
    events = read(stream, recorded("chat_stream")[1], size)
    assert told(events) == ("The gateway is one URL in front of the engines.", ["stop"])
    assert {event["id"] for event in events[:-1]} == {"id-1"} and {
        event["model"] for event in events[:-1]
    } == {"m"}
    assert (
        stream.failure is None and stream.finished and stream.usage == Usage(16, 12) and stream.content == 11
    )
    assert (events[-2]["choices"] == []) is include_usage


def test_every_like_event_is_mended_too() -> None:
    stream = ENGINE.decoder(request(stream=True), "up")
    for text in "abcdef":
        event = stream.feed(chunk(text))
        assert json.loads(event[6:])["id"] == "id-1" and json.loads(event[6:])["model"] == "m"


def test_tool_calls_in_a_stream() -> None:
    stream = ENGINE.decoder(request(stream=True), "demo")
    events = read(stream, recorded("chat_tools_stream")[1])
    calls = [
        call for event in events[:-1] for c in event["choices"] for call in c["delta"].get("tool_calls", ())
    ]
    assert [call.get("id") is not None for call in calls] == [True] + [False] * 6
    assert calls[0]["id"].startswith("call-") and calls[0]["function"]["name"] == "get_port"
    assert all("name" not in call["function"] for call in calls[1:])
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"engine": "ollama"}
    assert told(events)[1] == ["tool_calls"] and stream.finished and stream.failure is None


def test_completions_in_a_stream() -> None:
    for include_usage in (False, True):
        stream = ENGINE.decoder(completion(stream=True, include_usage=include_usage), "demo")
        events = read(stream, recorded("completions_stream")[1])
        assert told(events) == (" one URL in front of engines.", ["stop"]) and stream.usage == Usage(3, 7)
        assert [bool(event.get("usage")) for event in events[:-1]] == [False] * 7 + [True] * include_usage
        assert [event["choices"] == [] for event in events[:-1]] == [False] * 7 + [True] * include_usage


@pytest.mark.parametrize("size", [1, 100_000])
def test_stop_strings_in_a_stream(size: int) -> None:
    stream = ENGINE.decoder(request(stream=True, stop=["END", "xyz"]), "up")
    data = b"".join([chunk("one E"), chunk("ND"), chunk(" two", "stop"), b"data: [DONE]\n\n"])
    assert told(read(stream, data, size)) == ("one ", ["stop"])
    held = ENGINE.decoder(request(stream=True, stop="END"), "up")
    data = b"".join([chunk("one E"), chunk("N", "length"), b"data: [DONE]\n\n"])
    assert told(read(held, data, size)) == ("one EN", ["length"])


def test_a_stream_without_an_end() -> None:
    for data in (chunk("a"), chunk("a") + b"data: [DONE]\n\n", b"data: [DONE]\n\n"):
        stream = ENGINE.decoder(request(stream=True), "up")
        out = stream.feed(data) + stream.close()
        assert stream.failure is not None and b"[DONE]" not in out


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"error": {"message": "Model is overloaded", "http_status_code": 422}}, Kind.OVERLOADED),
        (
            {"error": {"message": "Request failed during generation: CUDA", "http_status_code": 422}},
            Kind.FAILED,
        ),
        ({"error": {"message": "Incomplete generation stream", "http_status_code": 422}}, Kind.FAILED),
        ({"error": {"message": "Tool error: no such tool", "http_status_code": 422}}, Kind.REJECTED),
        ({"error": "Input validation error: `temperature`", "error_type": "validation"}, Kind.REJECTED),
        (
            {
                "error": "Input validation error: `inputs` must have less than 9 tokens",
                "error_type": "validation",
            },
            Kind.CONTEXT,
        ),
        ({"error": "Model is overloaded", "error_type": "overloaded"}, Kind.OVERLOADED),
        ({"error": "Request failed during generation: x", "error_type": "generation"}, Kind.FAILED),
        ({"error": "strange", "error_type": 5}, Kind.FAILED),
    ],
)
def test_errors_in_a_stream(error: dict[str, Any], kind: Kind) -> None:
    data = b"data:" + json.dumps(error).encode() + b"\n\n"
    for by, asked in ((ENGINE, request(stream=True)), (NATIVE, completion(stream=True))):
        stream = by.decoder(asked, "up")
        stream.feed(data)
        assert stream.failure is not None and stream.failure.kind is kind
        assert "CUDA" not in stream.failure.message


JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4)
    ),
)


@given(st.lists(JSON, max_size=4))
def test_no_events_make_it_fall(events: list[Any]) -> None:
    data = b"".join(b"data:" + json.dumps(event).encode() + b"\n\n" for event in events)
    for by, asked in ((ENGINE, request(stream=True, stop="x")), (NATIVE, completion(stream=True))):
        stream = by.decoder(asked, "up")
        out = stream.feed(data) + stream.close()
        assert out.endswith(b"data: [DONE]\n\n") is (stream.failure is None)


@pytest.mark.parametrize("calls", [[5], {"a": 1}, [{"function": 5}], "ab", [{"index": []}]])
def test_tool_calls_that_are_none(calls: Any) -> None:
    event = {"id": "", "choices": [{"index": 0, "delta": {"tool_calls": calls}}]}
    stream = ENGINE.decoder(request(stream=True), "up")
    stream.feed(
        b"data:" + json.dumps(event, separators=(",", ":")).encode() + b"\n\n" + chunk("", "stop", usage={})
    )
    whole = {"choices": [{"index": 0, "message": {"tool_calls": calls}, "finish_reason": "stop"}]}
    assert isinstance(ENGINE.reply(request(), "up", (), json.dumps(whole).encode()), Reply | Failure)


def test_the_native_stream() -> None:
    details = {"finish_reason": "eos_token", "generated_tokens": 3, "input_length": 2, "seed": None}
    data = step("one") + step(" two") + step("</s>", True, generated_text="one two", details=details)
    stream = NATIVE.decoder(completion(stream=True, include_usage=True), "up")
    events = read(stream, data)
    assert told(events) == ("one two", ["stop"]) and stream.usage == Usage(2, 3) and stream.finished
    assert events[-1] == "[DONE]" and events[-2]["usage"]["total_tokens"] == 5 and events[0]["id"] == "id-1"
    cut = NATIVE.decoder(completion(stream=True, stop=" two"), "up")
    stopped = {**details, "finish_reason": "stop_sequence"}
    assert told(read(cut, step("one") + step(" t") + step("wo", details=stopped))) == ("one", ["stop"])


@pytest.mark.parametrize("data", [b"", step("a"), b"data: {nonsense}\n\n", b"data: " + b"x" * (1 << 20)])
def test_a_native_stream_that_breaks(data: bytes) -> None:
    stream = NATIVE.decoder(completion(stream=True), "up")
    out = stream.feed(data) + stream.close()
    assert stream.failure is not None and b"[DONE]" not in out


# --- errors, health, models, signals


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("context_overflow", Kind.CONTEXT),
        ("error_first", Kind.FAILED),
        ("overloaded", Kind.OVERLOADED),
        ("refused", Kind.REFUSED),
        ("wrong_type", Kind.REJECTED),
    ],
)
def test_recorded_errors(name: str, kind: Kind) -> None:
    status, body = recorded(name)
    failure = ENGINE.failure(status, (), body)
    assert failure.kind is kind and failure.status == status


def test_health_and_models() -> None:
    assert ENGINE.health() == Call("/health", method="GET")
    assert ENGINE.health_of(*recorded("health")) is Health.READY
    assert ENGINE.health_of(*recorded("health_down")) is Health.DOWN
    assert ENGINE.models() == Call("/info", method="GET")
    assert ENGINE.models_of(recorded("models")[1]) == (ModelCard("demo", 2048),)
    with pytest.raises(ValueError, match="not what TGI tells"):
        ENGINE.models_of(b"[]")


def test_signals() -> None:
    found = ENGINE.signals_of([recorded("metrics")[1]])
    assert {signal: reading.value for signal, reading in found.items()} == {
        Signal.RUNNING: 8,
        Signal.WAITING: 3,
    }
    assert ENGINE.signals_of([b"tgi_request_count 0\n"])[Signal.RUNNING].status is Status.MISSING


# --- launch


@pytest.fixture
def launcher(tmp_path: Path) -> str:
    program = tmp_path / "text-generation-launcher"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return str(program)


def options(**given: Any) -> TGILaunch:
    return TGILaunch.model_validate_json(json.dumps({"model": "org/model", **given}), strict=True)


def test_the_shortest_command_line(launcher: str) -> None:
    launch = options(command=[launcher]).launch("127.0.0.1", 4321)
    assert launch.argv == (
        *(launcher, "--hostname", "127.0.0.1", "--port", "4321"),
        *("--shard-uds-path", "/tmp/text-generation-4321", "--model-id", "org/model"),
    )
    assert launch.env == {} and launch.key_env == "API_KEY" and launch.start_timeout == 1800


def test_every_option(launcher: str) -> None:
    given = options(
        command=[launcher],
        name="public",
        tensor_parallel=2,
        gpu_memory="90%",
        max_model_len=4096,
        max_input_len=4000,
        max_num_seqs=8,
        max_batched_tokens=9000,
        max_queue=20,
        dtype="float16",
        quantization="awq",
        kv_cache_dtype="fp8_e5m2",
        prefix_caching=False,
        speculate=3,
        lora={"sql": "/a", "chat": "/b"},
        trust_remote_code=True,
        extra_args=["--disable-grammar-support"],
        gpus=[1],
        env={"HF_TOKEN": "t"},
    )
    launch = given.launch("127.0.0.1", 1)
    assert launch.argv[7:] == (
        *("--model-id", "org/model", "--num-shard", "2", "--cuda-memory-fraction", "0.9"),
        *("--max-total-tokens", "4096", "--max-input-tokens", "4000", "--max-batch-size", "8"),
        *("--max-batch-prefill-tokens", "9000", "--max-concurrent-requests", "20", "--dtype", "float16"),
        *("--quantize", "awq", "--kv-cache-dtype", "fp8_e5m2", "--speculate", "3", "--trust-remote-code"),
        "--disable-grammar-support",
    )
    assert launch.env == {
        "LORA_ADAPTERS": "sql=/a,chat=/b",
        "PREFIX_CACHING": "0",
        "CUDA_VISIBLE_DEVICES": "1",
        "HF_TOKEN": "t",
    }
    assert given.served_names() == ("public", "sql", "chat")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(
        LaunchError, match="there is no program no-such-launcher: install Text Generation Inference"
    ):
        options(command=["no-such-launcher"]).launch("127.0.0.1", 1)


def test_wrong_options() -> None:
    for wrong in ({"speculate": 0}, {"lora": {"a b": "/x"}}, {"max_loras": 2}):
        with pytest.raises(ValidationError):
            options(**wrong)
    with pytest.raises(ValidationError):
        engine(api="openai")


def test_crash_reasons() -> None:
    line = "2026-11-21T10:00:00.0Z ERROR text_generation_launcher: Not enough memory to handle 4096 prefill tokens. You"
    assert (
        ENGINE.crash_reason([line])
        == "Not enough memory to handle 4096 prefill tokens: lower 'max_batched_tokens'"
    )
    assert ENGINE.crash_reason(["INFO all is well"]) is None


def test_no_event_takes_the_short_way_past_stop_strings() -> None:
    """The relay offers each whole event to `more` first; where stop strings are searched it must be decoded."""
    event = chunk("one").replace(b"data:", b"data: ", 1)
    searched = ENGINE.decoder(request(stream=True, stop="END"), "up")
    passed = ENGINE.decoder(request(stream=True), "up")
    assert isinstance(searched, EventStream) and isinstance(passed, EventStream)
    for stream in (searched, passed):
        stream.feed(event)
    assert searched.more(event, 0, len(event)) is None
    assert passed.more(event, 0, len(event)) is not None
