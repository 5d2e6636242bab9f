"""Triton: requests as tensors, streams of responses, errors, and recorded answers. No server is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.base import (
    Action,
    Call,
    Failure,
    Health,
    Kind,
    ModelCard,
    Operation,
    OptionsError,
    Reply,
    Request,
    RequestError,
    Signal,
    Status,
    StreamDecoder,
    Usage,
)
from backends.dialect.chunks import Stamp
from backends.engines.triton.engine import Triton, TritonOptions

RECORDINGS = Path(__file__).parent.parent / "recordings" / "triton"
DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"


def configured(**options: Any) -> TritonOptions:
    """Read options as the config file gives them."""
    return TritonOptions.model_validate_json(json.dumps(options), strict=True)


def engine(**options: Any) -> Triton:
    """Make an engine with these options whose answers have one id and time."""
    return Triton(configured(**options), lambda operation: Stamp("id-1", 7))


CHAT = engine(tokenizer=str(DEMO))


def request(operation: Operation = Operation.COMPLETIONS, **body: Any) -> Request:
    asked = {"model": "m", "prompt": "Hi"} if operation is Operation.COMPLETIONS else {"model": "m"}
    stream = bool(body.get("stream"))
    usage = bool(body.pop("include_usage", False))
    return Request(operation, json.dumps({**asked, **body}).encode(), "m", stream, include_usage=usage)


def chat(**body: Any) -> Request:
    return request(Operation.CHAT, **{"messages": [{"role": "user", "content": "Hi"}], **body})


def recorded(name: str) -> tuple[int, bytes]:
    """Return status and body of a recorded answer."""
    answer = (RECORDINGS / f"{name}.http").read_bytes().split(b"\n=====\n", 1)[1]
    head, _, body = answer.partition(b"\n\n")
    return int(head.split()[1]), body


def failed(name: str) -> Failure:
    status, body = recorded(name)
    return CHAT.failure(status, (), body)


def read(stream: StreamDecoder, data: bytes) -> list[Any]:
    """Return the decoded events that the client gets for a stream that arrives byte by byte."""
    out = b"".join([stream.feed(data[place : place + 1]) for place in range(len(data))]) + stream.close()
    events = [event.removeprefix(b"data: ") for event in out.split(b"\n\n") if event]
    return [event.decode() if event == b"[DONE]" else json.loads(event) for event in events]


def responses(*said: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in said)


def texts(events: list[Any], index: int = 0) -> str:
    found = (choice for event in events[:-1] for choice in event["choices"] if choice["index"] == index)
    return "".join((choice.get("delta", {}).get("content") or choice.get("text") or "") for choice in found)


def reasons(events: list[Any]) -> dict[int, str]:
    """Return the finish reason of each choice; fail if one has two."""
    found: dict[int, str] = {}
    for event in events[:-1]:
        for choice in event["choices"]:
            if choice["finish_reason"]:
                assert choice["index"] not in found
                found[choice["index"]] = choice["finish_reason"]
    return found


# --- requests


def test_chat_for_the_vllm_backend() -> None:
    more = {"min_tokens": 2, "ignore_eos": True}
    asked = chat(
        temperature=0, stop="END", max_completion_tokens=9, seed=3, response_format={"type": "text"}, **more
    )
    call = CHAT.call(asked, "a model")
    assert call.path == "/v2/models/a%20model/generate_stream"
    body = json.loads(call.body)
    assert json.loads(body.pop("sampling_parameters")) == {
        "max_tokens": 9,
        "temperature": 0.0,
        "seed": 3,
        "stop": ["END"],
        **more,
    }
    assert body == {
        "text_input": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "stream": True,
        "exclude_input_in_output": True,
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    }


def test_grammars_and_choices_for_the_vllm_backend() -> None:
    schema = {"type": "object"}
    asked = chat(
        n=2,
        logit_bias={"5": -100},
        response_format={"type": "json_schema", "json_schema": {"schema": schema}},
    )
    settings = json.loads(json.loads(CHAT.call(asked, "m").body)["sampling_parameters"])
    assert settings["n"] == 2 and settings["logit_bias"] == {"5": -100}
    assert json.loads(settings["guided_decoding"]) == {"json": schema}


def test_the_tensorrt_llm_backends() -> None:
    asked = request(stop=["a", "b"], temperature=0.5, max_tokens=4)
    ensemble = json.loads(
        engine(backend="tensorrtllm", inputs={"beam_width": 1}).call(asked, "ensemble").body
    )
    assert ensemble == {
        "text_input": "Hi",
        "stream": True,
        "max_tokens": 4,
        "temperature": 0.5,
        "stop_words": ["a", "b"],
        "beam_width": 1,
        "exclude_input_in_output": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    }
    llmapi = json.loads(engine(backend="llmapi").call(asked, "tensorrt_llm").body)
    assert llmapi["sampling_param_stop"] == ["a", "b"] and llmapi["sampling_param_max_tokens"] == 4
    assert llmapi["streaming"] is True and "max_tokens" not in llmapi


def test_a_model_of_ones_own() -> None:
    own = engine(backend="custom", tensors={"prompt": "PROMPT", "seed": ""}, inputs={"k": 2}, max_tokens=50)
    assert json.loads(own.call(request(seed=1, top_p=0.5, stop="x"), "m").body) == {
        "PROMPT": "Hi",
        "k": 2,
        "max_tokens": 50,
        "top_p": 0.5,
    }


def test_parts_of_text_become_one() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = json.loads(CHAT.call(chat(messages=[{"role": "user", "content": parts}]), "m").body)
    assert "<|im_start|>user\nab<|im_end|>" in body["text_input"]


def test_messages_are_what_a_template_knows() -> None:
    body = json.loads(CHAT.call(chat(messages=[{"role": "developer", "content": "a"}]), "m").body)
    assert "<|im_start|>system\na<|im_end|>" in body["text_input"]


def test_what_no_tensor_takes_is_told() -> None:
    own = engine(backend="custom", tensors={"seed": "", "temperature": ""})
    call = own.call(request(seed=0, temperature=0, top_p=0.5, reasoning_effort="low", user="u"), "m")
    assert call.dropped == ("reasoning_effort", "seed", "temperature")
    assert json.loads(call.body) == {"text_input": "Hi", "max_tokens": 1024, "top_p": 0.5}
    assert own.call(request(temperature=1, seed=None), "m").dropped == ()
    assert engine(backend="tensorrtllm").call(request(min_p=0.1), "m").dropped == ("min_p",)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"stop_token_ids": [5]}, "stop_token_ids"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ],
)
def test_what_its_models_cannot_do(more: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        CHAT.call(chat(**more), "m")
    assert refused.value.failure.kind is Kind.UNSUPPORTED and refused.value.failure.param == param


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
    ],
)
def test_what_a_model_of_ones_own_cannot_do(more: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        engine(backend="custom").call(request(**more), "m")
    assert refused.value.failure.kind is Kind.UNSUPPORTED and refused.value.failure.param == param


def test_harmless_members_are_no_wishes() -> None:
    asked = request(n=1, best_of=1, echo=False, logprobs=None, logit_bias={}, tools=[], tool_choice="none")
    assert json.loads(engine(backend="custom").call(asked, "m").body) == {
        "text_input": "Hi",
        "max_tokens": 1024,
    }


def test_wrong_types_are_the_clients_mistake() -> None:
    for more in (
        {"max_tokens": 0},
        {"max_completion_tokens": -7},
        {"logit_bias": "many"},
        {"stop": 5},
        {"top_k": "x"},
    ):
        with pytest.raises(RequestError) as refused:
            CHAT.call(chat(**more), "m")
        assert refused.value.failure.kind is Kind.REJECTED
    with pytest.raises(RequestError, match="cannot take these messages") as refused:
        CHAT.call(chat(messages=[{"role": "user", "content": 7}]), "m")
    assert refused.value.failure.kind is Kind.REJECTED


def test_no_chat_without_a_template() -> None:
    with pytest.raises(RequestError, match="set its option 'tokenizer'") as refused:
        engine().call(chat(), "m")
    assert refused.value.failure.kind is Kind.UNSUPPORTED


# --- answers


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_recorded_stream(include_usage: bool) -> None:
    stream = CHAT.decoder(chat(stream=True, include_usage=include_usage), "demo")
    events = read(stream, recorded("chat_length")[1])
    assert stream.failure is None and stream.finished and stream.content == 4
    assert stream.usage == Usage(16, 4)
    assert events[-1] == "[DONE]" and reasons(events) == {0: "length"}
    assert all(event["id"] == "id-1" and event["model"] == "m" for event in events[:-1])
    assert ("usage" in events[-2]) is include_usage


def test_several_choices() -> None:
    stream = CHAT.decoder(chat(stream=True, n=2), "demo")
    data = responses(
        {
            "text_output": ["a", "b"],
            "finish_reason": ["None", "None"],
            "num_input_tokens": 3,
            "num_output_tokens": [1, 1],
        },
        {
            "text_output": ["A", ""],
            "finish_reason": ["None", "stop"],
            "num_input_tokens": 3,
            "num_output_tokens": [1, 0],
        },
        {
            "text_output": ["!", ""],
            "finish_reason": ["length", "stop"],
            "num_input_tokens": 3,
            "num_output_tokens": [1, 0],
        },
    )
    events = read(stream, data)
    assert (texts(events), texts(events, 1)) == ("aA!", "b")
    assert reasons(events) == {0: "length", 1: "stop"} and stream.usage == Usage(3, 4)


def test_a_model_that_tells_only_text() -> None:
    stream = engine(backend="custom").decoder(request(stream=True), "llm")
    events = read(stream, recorded("generate_stream_plain")[1])
    assert texts(events) == "w0 w1 w2 " and reasons(events) == {0: "stop"}
    assert stream.failure is None and stream.usage is None


def test_tokens_are_counted_where_the_model_does_not_tell() -> None:
    counting = engine(backend="custom", tokenizer=str(DEMO))
    stream = counting.decoder(request(prompt="The gateway is", stream=True, max_tokens=8), "m")
    events = read(
        stream, responses({"text_output": " one"}, {"text_output": " OpenAI-compatible URL in front of"})
    )
    assert stream.usage == Usage(3, 8) and reasons(events) == {0: "length"}


def test_text_that_grows() -> None:
    stream = engine(backend="llmapi").decoder(request(stream=True), "m")
    said = (
        {"text_output": text, "finish_reason": reason} for text, reason in (("a", "None"), ("ab", "stop"))
    )
    assert texts(read(stream, responses(*said))) == "ab"
    told = engine(backend="custom", whole_text=True).decoder(request(stream=True), "m")
    assert texts(read(told, responses({"text_output": "a"}, {"text_output": "ab"}))) == "ab"


def test_stop_strings_where_the_backend_leaves_them() -> None:
    for backend in ("tensorrtllm", "custom"):
        stream = engine(backend=backend).decoder(request(stream=True, stop="END"), "m")
        events = read(stream, responses(*({"text_output": text} for text in ("one E", "ND two", " three"))))
        assert texts(events) == "one " and reasons(events) == {0: "stop"}


def test_a_stream_that_was_cut_off() -> None:
    told = {"text_output": "a", "finish_reason": "None"}
    for data in (b"", responses(told), responses(told)[:-9]):
        stream = CHAT.decoder(chat(stream=True), "m")
        out = stream.feed(data) + stream.close()
        assert stream.failure is not None and stream.failure.kind in (Kind.RESET, Kind.GARBLED)
        assert b"[DONE]" not in out


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b'data: {"text_output": "a"}\n\ndata: {nonsense}\n\n', Kind.GARBLED),
        (b'data: {"OUTPUT": "a"}\n\n', Kind.GARBLED),
        (b"data: " + b"x" * (1 << 20) + b"\n\n", Kind.GARBLED),
        (b'data: {"text_output": "a"}\n\ndata: {"error": "boom"}\n\n', Kind.FAILED),
    ],
)
def test_streams_that_fail(event: bytes, kind: Kind) -> None:
    stream = CHAT.decoder(chat(stream=True), "m")
    stream.feed(event)
    assert stream.failure is not None and stream.failure.kind is kind
    assert stream.feed(responses({"text_output": "more"})) == b""


SAID = st.one_of(
    st.none(), st.integers(), st.text(max_size=3), st.lists(st.one_of(st.text(), st.integers()), max_size=3)
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["text_output", "finish_reason", "num_output_tokens", "error"]), SAID)
    )
)
def test_no_responses_make_it_fall(said: list[dict[str, Any]]) -> None:
    stream = CHAT.decoder(chat(stream=True), "m")
    out = stream.feed(responses(*said)) + stream.close()
    assert out.endswith(b"data: [DONE]\n\n") is (stream.failure is None)


def test_an_error_in_the_middle() -> None:
    stream = CHAT.decoder(chat(stream=True), "m")
    out = stream.feed(recorded("error_midstream")[1])
    assert b"w1 " in out and stream.content == 2
    assert stream.failure is not None and stream.failure.kind is Kind.FAILED
    assert stream.failure.detail == "Error generating stream: midboom"


def test_a_whole_answer_is_put_together_from_the_stream() -> None:
    body = b'{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"stop"}],"model":"m"}'
    reply = CHAT.reply(chat(), "m", (), body)
    assert isinstance(reply, Reply) and json.loads(reply.body)["choices"]
    status, said = recorded("error_with_200")
    refused = CHAT.reply(chat(), "m", (), said)
    assert status == 200 and isinstance(refused, Failure) and refused.kind is Kind.FAILED


# --- errors, health, models


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("error_bad_json", Kind.REJECTED, "failed to parse the request JSON buffer"),
        ("error_wrong_type", Kind.REJECTED, "Unable to parse JSON bytes array"),
        ("error_missing_input", Kind.FAILED, "the engine reported an internal error"),
        ("error_of_the_model", Kind.REJECTED, "Error generating stream: boom"),
        ("error_traceback", Kind.FAILED, "the engine reported an internal error"),
        ("error_first", Kind.FAILED, "the engine reported an internal error"),
        ("error_while_loading", Kind.MISSING, "the engine has not loaded this model"),
        ("model_missing", Kind.MISSING, "the engine does not have this model"),
        ("context_overflow", Kind.CONTEXT, "Error generating stream: This model's maximum context length"),
        ("overloaded", Kind.OVERLOADED, "the engine is overloaded"),
        ("index_restricted", Kind.REFUSED, "the engine did not accept"),
    ],
)
def test_recorded_errors(name: str, kind: Kind, message: str) -> None:
    failure = failed(name)
    assert failure.kind is kind
    assert failure.message.startswith(message)


def test_health_is_the_models_not_the_servers() -> None:
    assert CHAT.health() == Call("/v2/repository/index", b"{}")
    for name, health in (
        ("health", Health.READY),
        ("index_while_loading", Health.READY),  # another one of its models is there
        ("health_loading", Health.LOADING),
        ("index_restricted", Health.READY),
        ("load_missing", Health.DOWN),
    ):
        assert CHAT.health_of(*recorded(name)) is health
    assert CHAT.health_of(200, b"[]") is Health.READY
    assert CHAT.health_of(200, b"<html>") is Health.DOWN


def test_models_are_those_that_are_ready() -> None:
    assert CHAT.models_of(recorded("health")[1]) == (ModelCard("demo"),)
    assert CHAT.models_of(recorded("index_unloaded")[1]) == (ModelCard("vllm_model"),)
    with pytest.raises(ValueError, match="not a list of models"):
        CHAT.models_of(b"{}")


def test_actions() -> None:
    load = CHAT.action(Action.LOAD, {"model": "a/b", "config": {"max_batch_size": 0}})
    assert load.path == "/v2/repository/models/a%2Fb/load"
    assert json.loads(load.body) == {"parameters": {"config": '{"max_batch_size":0}'}}
    unload = CHAT.action(Action.UNLOAD, {"model": "m", "unload_dependents": True})
    assert json.loads(unload.body) == {"parameters": {"unload_dependents": True}}
    assert CHAT.action(Action.LIST, {}) == CHAT.models()
    for wrong in ({}, {"model": ""}, {"model": "m", "force": True}):
        with pytest.raises(ValueError):
            CHAT.action(Action.LOAD, wrong)


def test_signals() -> None:
    told = CHAT.signals_of([recorded("metrics")[1]])
    assert {signal: reading.status for signal, reading in told.items()} == {
        Signal.RUNNING: Status.OK,
        Signal.WAITING: Status.OK,
        Signal.KV_USE: Status.OK,
    }
    page = b"""
nv_inference_pending_request_count{model="ensemble",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 4
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.25
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 900
"""
    values = {
        signal: reading.value for signal, reading in engine(backend="tensorrtllm").signals_of([page]).items()
    }
    assert values == {Signal.RUNNING: 4, Signal.WAITING: 3, Signal.SLOTS: 512, Signal.KV_USE: 0.25}
    assert engine(backend="custom").signals_of([page])[Signal.WAITING].value == 2


# --- options


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "onnx"},
        {"tensors": {"colour": "x"}},
        {"tensors": {"prompt": ""}},
        {"max_tokens": 0},
        {"x": 1},
    ],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        engine(**wrong)


def test_a_tokenizer_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionsError, match="cannot read"):
        engine(tokenizer=str(tmp_path))
    monkeypatch.setattr("backends.engines.triton.engine.Prompter", None)
    with pytest.raises(
        OptionsError, match=r"jinja2 is not installed: pip install 'llm-serving-gateway\[triton\]'"
    ):
        engine(tokenizer=str(DEMO))
