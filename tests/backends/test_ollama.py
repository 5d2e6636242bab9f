"""Ollama's server: options, health, models, signals, failures, the API at `/v1`, and how it is started."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backends.base import (
    Call,
    Failure,
    Health,
    Kind,
    Launch,
    LaunchError,
    ModelCard,
    Operation,
    Reading,
    Reply,
    Request,
    RequestError,
    Signal,
    Status,
    Usage,
)
from backends.engines.ollama.engine import Ollama, OllamaLaunch, OllamaOptions
from gateway.config.section import validate

ENGINE = Ollama()
HELLO = [{"role": "user", "content": "Hello"}]


def options(**given: object) -> OllamaOptions:
    """Read options as the config file does: as JSON, strictly."""
    return validate(OllamaOptions, given)


def launch(**given: object) -> Launch:
    return validate(OllamaLaunch, given).launch("127.0.0.1", 4321)


OVER_V1 = Ollama(options(api="openai"))


def test_health() -> None:
    assert ENGINE.health() == Call("/api/version", method="GET")
    assert ENGINE.health_of(200, b'{"version":"0.33.0"}') is Health.READY
    assert ENGINE.health_of(200, b"<html>welcome to nginx</html>") is Health.DOWN
    assert ENGINE.health_of(502, b"") is Health.DOWN


def test_models() -> None:
    assert ENGINE.models() == Call("/api/tags", method="GET")
    told = b'{"models":[{"name":"qwen3:0.6b","model":"qwen3:0.6b","size":1},{"name":"llama3:latest"}]}'
    assert ENGINE.models_of(told) == (
        ModelCard("qwen3:0.6b"),
        ModelCard("llama3:latest"),
        ModelCard("llama3"),
    )
    able = b'{"models":[{"name":"a:latest","capabilities":["tools","completion","other",1]}]}'
    abilities = frozenset({"completion", "tools"})
    assert ENGINE.models_of(able) == (
        ModelCard("a:latest", abilities=abilities),
        ModelCard("a", abilities=abilities),
    )
    (odd, _) = ENGINE.models_of(b'{"models":[{"name":"a:latest","capabilities":"tools"}]}')
    assert (odd.abilities, odd.odd) == (None, "its capabilities is no list")
    assert ENGINE.models_of(b'{"models":[]}') == ()
    for body in (b"", b"{}", b'{"models":{}}', b"[" * 100_000):
        with pytest.raises(ValueError, match="not a list of models"):
            ENGINE.models_of(body)


def test_signals() -> None:
    assert ENGINE.signal_calls() == (Call("/api/ps", method="GET"),)
    told = b'{"models":[{"name":"a:1b","size_vram":1},{"name":"b:2b"}]}'
    assert ENGINE.signals_of([told]) == {
        Signal.MODELS: Reading(Status.OK, 2.0, ("a:1b", "b:2b"), "/api/ps"),
    }
    assert ENGINE.signals_of([b'{"models":[]}'])[Signal.MODELS] == Reading(Status.OK, 0.0, (), "/api/ps")
    for answer in (None, b"404 page not found", b"{}"):
        assert ENGINE.signals_of([answer])[Signal.MODELS].status is Status.MISSING


OVERFLOW = {
    "error": {
        "code": 400,
        "message": "request (2622 tokens) exceeds the available context size (512 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 2622,
        "n_ctx": 512,
    }
}
NO_VISION = {"error": {"code": 400, "message": "this model takes no images", "type": "invalid_request_error"}}
FAILURES: dict[str, tuple[int, bytes, Kind]] = {
    "missing": (404, b'{"error":"model \'a\' not found"}', Kind.MISSING),
    "missing, by the scheduler": (
        404,
        b'{"error":"model \\"a\\" not found, try pulling it first"}',
        Kind.MISSING,
    ),
    "no such path": (404, b"404 page not found", Kind.UNSUPPORTED),
    "busy": (
        503,
        b'{"error":"server busy, please try again.  maximum pending requests exceeded"}',
        Kind.OVERLOADED,
    ),
    "given up": (499, b'{"error":"request canceled"}', Kind.FAILED),
    "context, embeddings": (400, b'{"error":"input length exceeds maximum context length"}', Kind.CONTEXT),
    "context": (400, b'{"error":"the input length exceeds the context length"}', Kind.CONTEXT),
    "context, as 500": (500, b'{"error":"the input length exceeds the context length"}', Kind.CONTEXT),
    "context, by llama-server": (400, json.dumps({"error": json.dumps(OVERFLOW)}).encode(), Kind.CONTEXT),
    "rejected by llama-server": (400, json.dumps({"error": json.dumps(NO_VISION)}).encode(), Kind.REJECTED),
    "no tools": (
        400,
        b'{"error":"registry.ollama.ai/library/a:1b does not support tools"}',
        Kind.UNSUPPORTED,
    ),
    "no chat": (400, b'{"error":"\\"nomic\\" does not support chat"}', Kind.UNSUPPORTED),
    "no thinking": (400, b'{"error":"\\"a\\" does not support thinking"}', Kind.UNSUPPORTED),
    "wrong": (400, b'{"error":"illegal base64 data at input byte 0"}', Kind.REJECTED),
    "unauthorized": (401, b'{"error":"unauthorized","signin_url":"https://x"}', Kind.REFUSED),
    "no cloud": (403, b'{"error":"remote model is unavailable"}', Kind.REFUSED),
    "memory": (
        500,
        b'{"error":"model requires more system memory (9 GiB) than is available (2 GiB)"}',
        Kind.FAILED,
    ),
    "at /v1": (
        404,
        b'{"error":{"message":"model \'a\' not found","type":"not_found_error","code":null}}',
        Kind.MISSING,
    ),
    "no words": (500, b"", Kind.FAILED),
    "no words of its own": (404, b'{"error":3}', Kind.UNSUPPORTED),
}


@pytest.mark.parametrize(("status", "body", "kind"), FAILURES.values(), ids=FAILURES.keys())
def test_failures(status: int, body: bytes, kind: Kind) -> None:
    failure = ENGINE.failure(status, (), body)
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.message


def test_words_about_the_request_reach_the_client_others_the_log() -> None:
    said = ENGINE.failure(400, (), FAILURES["no chat"][1])
    assert said.message == '"nomic" does not support chat'
    said = ENGINE.failure(500, (), FAILURES["memory"][1])
    assert (said.message, said.detail[:14]) == ("the engine reported an internal error", "model requires")
    told = ENGINE.failure(400, (), FAILURES["context"][1])
    assert told.message == "the input length exceeds the context length"
    told = ENGINE.failure(400, (), FAILURES["context, by llama-server"][1])
    assert told.message.startswith("request (2622 tokens) exceeds")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error":"{\\"error\\""}', b"[" * 100_000, b"\xff"])
def test_no_bytes_make_a_failure_fail(body: bytes) -> None:
    assert ENGINE.failure(500, (), body).kind is Kind.FAILED


# --- the API at /v1


def over_v1(operation: Operation = Operation.CHAT, **body: Any) -> Call:
    asked = {"model": "public", **({"messages": HELLO} if operation is Operation.CHAT else {}), **body}
    return OVER_V1.call(
        Request(operation, json.dumps(asked).encode(), "public", bool(body.get("stream"))), "qwen3:0.6b"
    )


def test_v1_gets_the_clients_bytes() -> None:
    body = b'{ "model" : "m", "messages":[],  "top_k": 3 }'
    assert OVER_V1.call(Request(Operation.CHAT, body, "m"), "m") == Call("/v1/chat/completions", body)
    asked = over_v1(stream=True)
    assert json.loads(asked.body)["model"] == "qwen3:0.6b"
    assert json.loads(asked.body)["stream_options"] == {"include_usage": True}
    assert over_v1(Operation.EMBEDDINGS, input="a").path == "/v1/embeddings"


def test_v1_gets_the_limit_under_the_name_it_reads() -> None:
    assert json.loads(over_v1(max_completion_tokens=5).body) == {
        "model": "qwen3:0.6b",
        "messages": HELLO,
        "max_tokens": 5,
    }
    assert json.loads(over_v1(max_completion_tokens=5, max_tokens=9).body)["max_tokens"] == 5
    none = json.loads(over_v1(max_completion_tokens=None, max_tokens=9).body)
    assert none["max_tokens"] == 9 and "max_completion_tokens" not in none


@pytest.mark.parametrize(
    ("operation", "body", "param"),
    [
        (Operation.CHAT, {"n": 2}, "n"),
        (Operation.CHAT, {"logit_bias": {"1": 1}}, "logit_bias"),
        (Operation.CHAT, {"tool_choice": "required"}, "tool_choice"),
        (Operation.COMPLETIONS, {"prompt": "a", "echo": True}, "echo"),
        (Operation.COMPLETIONS, {"prompt": "a", "best_of": 2}, "best_of"),
    ],
)
def test_what_v1_would_ignore_is_refused(operation: Operation, body: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        over_v1(operation, **body)
    assert (caught.value.failure.kind, caught.value.failure.param) == (Kind.UNSUPPORTED, param)


@pytest.mark.parametrize(
    "body", [{"n": 1}, {"logit_bias": {}}, {"tool_choice": "auto"}, {"reasoning_effort": "low"}]
)
def test_what_v1_ignores_without_harm_passes(body: dict[str, Any]) -> None:
    assert json.loads(over_v1(**body).body) == {"model": "qwen3:0.6b", "messages": HELLO, **body}


TOOL = {"type": "function", "function": {"name": "f"}}


def test_v1_gets_no_tools_where_none_may_be_called() -> None:
    asked = json.loads(over_v1(tools=[TOOL], tool_choice="none").body)
    assert "tools" not in asked
    assert json.loads(over_v1(tools=[TOOL], tool_choice="auto").body)["tools"] == [TOOL]


def test_v1_gets_one_prompt_as_a_text_and_what_its_templates_know() -> None:
    assert json.loads(over_v1(Operation.COMPLETIONS, prompt=["Hello"]).body)["prompt"] == "Hello"
    cut = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1'}}
    developer = {"role": "developer", "content": "Be brief."}
    asked = json.loads(over_v1(messages=[developer, {"role": "assistant", "tool_calls": [cut]}]).body)
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert asked["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'


@pytest.mark.parametrize(
    ("asked", "effort"),
    [
        ({"reasoning_effort": ""}, None),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "none"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "medium"),
        ({"think": "high"}, "high"),
    ],
)
def test_v1_is_told_how_much_to_think(asked: dict[str, Any], effort: str | None) -> None:
    assert json.loads(over_v1(**asked).body).get("reasoning_effort") == effort


def test_a_stream_that_breaks_off_at_v1_is_no_answer() -> None:
    """Ollama does not report the error: the stream has an empty chunk, and ends."""
    chunk = b'data: {"id":"c","model":"qwen3:0.6b","choices":[{"index":0,"delta":%b}]}\n\n'
    decoder = OVER_V1.decoder(Request(Operation.CHAT, b"{}", "public", True), "qwen3:0.6b")
    out = decoder.feed(chunk % b'{"content":"Hi"}' + chunk % b'{"content":""}') + decoder.close()
    assert b'"model":"public"' in out and b"[DONE]" not in out
    assert decoder.failure is not None and decoder.failure.kind is Kind.RESET


def test_an_answer_of_v1_comes_under_the_public_name() -> None:
    body = b'{"id":"c","model":"qwen3:0.6b","choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}'
    reply = OVER_V1.reply(Request(Operation.CHAT, b"{}", "public"), "qwen3:0.6b", (), body)
    assert isinstance(reply, Reply) and reply.body == body.replace(b"qwen3:0.6b", b"public")
    wrong = OVER_V1.reply(
        Request(Operation.CHAT, b"{}", "public"), "qwen3:0.6b", (), b'{"error":{"message":"a"}}'
    )
    assert isinstance(wrong, Failure)


# --- options and launch


def test_options() -> None:
    assert options() == OllamaOptions()
    assert options(keep_alive="1h").keep_alive == 3600
    for wrong in ({"api": "v2"}, {"context": 0}, {"context": "4k"}, {"keep_alive": 5}, {"num_ctx": 5}):
        with pytest.raises(ValidationError):
            options(**wrong)
    for name, value in (("context", 1), ("keep_alive", "5m"), ("truncate", False)):
        with pytest.raises(ValidationError, match=f"'{name}' cannot be set with 'api: openai'"):
            options(api="openai", **{name: value})


@pytest.fixture
def ollama(tmp_path: Path) -> str:
    program = tmp_path / "ollama"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return str(program)


def test_launch_with_nothing_said(ollama: str) -> None:
    assert launch(command=[ollama]) == Launch(
        (ollama, "serve"), {"OLLAMA_HOST": "127.0.0.1:4321", "OLLAMA_NO_CLOUD": "1"}
    )


def test_launch_with_everything_said(ollama: str) -> None:
    launched = launch(
        command=[ollama, "--quiet"],
        models_folder="/data/ollama",
        context=8192,
        parallel=4,
        max_loaded_models=2,
        max_queue=64,
        keep_alive="0s",
        load_timeout="1m30s",
        flash_attention=False,
        kv_cache_dtype="q8_0",
        gpu_overhead="1GiB",
        spread=True,
        cloud=True,
        debug=True,
        gpus=[1],
        env={"OLLAMA_ORIGINS": "https://x", "OLLAMA_MAX_QUEUE": "65"},
        start_timeout="9s",
        stop_timeout="8s",
    )
    assert launched.argv == (ollama, "--quiet", "serve")
    assert (launched.start_timeout, launched.stop_timeout) == (9.0, 8.0)
    assert launched.env == {
        "OLLAMA_HOST": "127.0.0.1:4321",
        "OLLAMA_MODELS": "/data/ollama",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_NUM_PARALLEL": "4",
        "OLLAMA_MAX_LOADED_MODELS": "2",
        "OLLAMA_MAX_QUEUE": "65",
        "OLLAMA_KEEP_ALIVE": "0s",
        "OLLAMA_LOAD_TIMEOUT": "90s",
        "OLLAMA_FLASH_ATTENTION": "0",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_GPU_OVERHEAD": str(1 << 30),
        "OLLAMA_SCHED_SPREAD": "1",
        "OLLAMA_DEBUG": "1",
        "OLLAMA_ORIGINS": "https://x",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "1",
    }


@pytest.mark.parametrize(("told", "said"), [("720h", "2592000s"), ("250ms", "0.25s"), ("100s", "100s")])
def test_durations_are_written_as_go_reads_them(ollama: str, told: str, said: str) -> None:
    assert launch(command=[ollama], keep_alive=told).env["OLLAMA_KEEP_ALIVE"] == said


def test_a_missing_program_is_refused_with_advice() -> None:
    with pytest.raises(LaunchError, match=r"no program no-ollama: install Ollama from https://ollama\.com"):
        launch(command=["no-ollama"])


def test_what_a_launched_server_serves_only_it_can_tell() -> None:
    assert OllamaLaunch().served_names() == ()


def test_log_levels() -> None:
    line = 'time=2026-08-21T10:00:00.000Z level={} source=routes.go:1 msg="x"'
    levels = {"ERROR": logging.ERROR, "WARN": logging.WARNING, "INFO": logging.INFO, "DEBUG": logging.DEBUG}
    for word, level in levels.items():
        assert ENGINE.log_level(line.format(word)) == level
    assert ENGINE.log_level('[GIN] 2026/08/21 - 10:00:00 | 200 | GET "/api/tags"') == logging.DEBUG
    assert ENGINE.log_level("llama_model_loader: loaded meta data") == logging.INFO


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            ["Error: listen tcp 127.0.0.1:4321: bind: address already in use"],
            "its port was taken by another program",
        ),
        (["x", "Error: mkdir /data: permission denied"], "mkdir /data: permission denied"),
        (["time=1 level=INFO msg=started"], None),
        ([], None),
    ],
)
def test_crash_reason(log: list[str], reason: str | None) -> None:
    assert ENGINE.crash_reason(log) == reason


RECORDED = Path(__file__).parents[1] / "recordings" / "ollama"
NATIVE = Ollama()


def recorded(name: str) -> bytes:
    """Return the body of a real answer of Ollama."""
    answer = (RECORDED / f"{name}.http").read_bytes().partition(b"=====\n")[2]
    return answer.partition(b"\n\n")[2]


@pytest.mark.parametrize("engine", [NATIVE, OVER_V1], ids=["native", "v1"])
@pytest.mark.parametrize(
    ("operation", "path", "name"),
    [
        (Operation.RESPONSES, "/v1/responses", "responses"),
        (Operation.MESSAGES, "/v1/messages", "messages"),
    ],
)
def test_other_apis_are_those_of_v1(engine: Ollama, operation: Operation, path: str, name: str) -> None:
    body = json.dumps({"model": "public", "max_tokens": 12, "max_output_tokens": 12}).encode()
    asked = Request(operation, body, "public")
    assert engine.call(asked, "demo").path == path
    reply = engine.reply(asked, "demo", JSON_TYPE, recorded(name))
    usage = Usage(16, 12, cached=0, reasoning=0) if operation is Operation.RESPONSES else Usage(16, 12)
    assert isinstance(reply, Reply) and reply.usage == usage
    assert json.loads(reply.body)["model"] == "public"
    streamed = Request(operation, body, "public", stream=True)
    decoder = engine.decoder(streamed, "demo")
    said = decoder.feed(recorded(f"{name}_stream")) + decoder.close()
    assert decoder.finished and decoder.failure is None and decoder.usage == usage
    assert b'"model":"demo"' not in said and b'"public"' in said


TOOLS = {"tools": [{"name": "get_port"}]}


@pytest.mark.parametrize("operation", [Operation.MESSAGES, Operation.RESPONSES])
@pytest.mark.parametrize("choice", [None, "auto", {"type": "auto"}])
def test_tools_that_may_be_called_pass_in_other_apis(operation: Operation, choice: object) -> None:
    asked = {"model": "public", **TOOLS, "tool_choice": choice}
    sent = json.loads(ENGINE.call(Request(operation, json.dumps(asked).encode(), "public"), "demo").body)
    assert sent == asked | {"model": "demo"}


@pytest.mark.parametrize("operation", [Operation.MESSAGES, Operation.RESPONSES])
def test_a_forced_call_is_refused_in_other_apis_and_no_call_means_no_tools(operation: Operation) -> None:
    """It hears no `tool_choice` there."""
    for choice in ("required", {"type": "any"}, {"type": "tool", "name": "get_port"}):
        body = json.dumps({"model": "public", **TOOLS, "tool_choice": choice}).encode()
        with pytest.raises(RequestError) as refused:
            ENGINE.call(Request(operation, body, "public"), "demo")
        assert (refused.value.failure.kind, refused.value.failure.param) == (Kind.UNSUPPORTED, "tool_choice")
    for free in ("none", {"type": "none"}):
        body = json.dumps({"model": "public", **TOOLS, "tool_choice": free}).encode()
        assert "tools" not in json.loads(ENGINE.call(Request(operation, body, "public"), "demo").body)


def test_a_missing_model_is_told_in_every_api() -> None:
    failure = NATIVE.failure(404, JSON_TYPE, recorded("messages_missing"))
    assert failure.kind is Kind.MISSING


JSON_TYPE = ((b"content-type", b"application/json"),)
