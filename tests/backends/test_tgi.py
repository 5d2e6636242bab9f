"""TGI's server: tokens, errors, health, models, signals, its log and its command line. No server is started."""

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
    LaunchError,
    ModelCard,
    Operation,
    Reply,
    Signal,
    Status,
)
from backends.engines.tgi.engine import TGI
from backends.engines.tgi.launch import TGILaunch
from tests.backends.recorded import recorded, refusal, request

ENGINE = TGI()


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
    for asked in (
        request(Operation.CHAT, stream=True),
        request(Operation.COMPLETIONS, prompt="a", stream=True),
    ):
        stream = ENGINE.decoder(asked, "up")
        stream.feed(data)
        assert stream.failure is not None and stream.failure.kind is kind
        assert "CUDA" not in stream.failure.message


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
    assert refusal(ENGINE, name).kind is kind


@pytest.mark.parametrize("name", ["json_schema_anyof_root", "json_schema_type_list", "tool_refs"])
def test_what_its_grammars_do_not_know_is_not_supported(name: str) -> None:
    """Another engine may know it."""
    failure = refusal(ENGINE, name)
    assert failure.kind is Kind.UNSUPPORTED and "Input validation error" in failure.message


def test_health_and_models() -> None:
    assert ENGINE.health() == Call("/health", method="GET")
    assert ENGINE.health_of(200, recorded("tgi", "health").answer) is Health.READY
    assert ENGINE.health_of(503, recorded("tgi", "health_down").answer) is Health.DOWN
    assert ENGINE.models() == Call("/info", method="GET")
    assert ENGINE.models_of(recorded("tgi", "models").answer) == (ModelCard("demo", 2048),)
    with pytest.raises(ValueError, match="not what TGI tells"):
        ENGINE.models_of(b"[]")


def test_signals() -> None:
    found = ENGINE.signals_of([recorded("tgi", "metrics").answer])
    assert {signal: reading.value for signal, reading in found.items()} == {
        Signal.RUNNING: 0,
        Signal.WAITING: 0,
    }
    fresh = ENGINE.signals_of([recorded("tgi", "metrics_fresh").answer])
    assert fresh[Signal.RUNNING].status is Status.MISSING


# --- its log


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (
            "2026-11-29T10:00:00.1Z  INFO text_generation_router::chat: router/src/chat.rs:210: Current text: secret",
            logging.DEBUG,
        ),
        (
            '2026-11-29T10:00:00.1Z  INFO chat_completions{parameters=GenerateParameters { stop: ["secret"] }}',
            logging.DEBUG,
        ),
        ("2026-11-29T10:00:00.1Z  WARN text_generation_router::chat: it failed", logging.WARNING),
        ("2026-11-29T10:00:00.1Z  INFO text_generation_router::server: Connected", logging.INFO),
    ],
)
def test_what_models_say_is_not_logged(line: str, level: int) -> None:
    assert ENGINE.log_level(line) == level


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
        *(
            "--shard-uds-path",
            "/tmp/text-generation-4321",
            "--prometheus-port",
            "0",
            "--model-id",
            "org/model",
        ),
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
        payload_limit="20MB",
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
    assert launch.argv[9:] == (
        *("--model-id", "org/model", "--num-shard", "2", "--cuda-memory-fraction", "0.9"),
        *("--max-total-tokens", "4096", "--max-input-tokens", "4000", "--max-batch-size", "8"),
        *("--max-batch-prefill-tokens", "9000", "--max-concurrent-requests", "20"),
        *("--payload-limit", "20000000", "--dtype", "float16"),
        *("--quantize", "awq", "--kv-cache-dtype", "fp8_e5m2", "--speculate", "3", "--trust-remote-code"),
        "--disable-grammar-support",
    )
    assert launch.env == {
        "LORA_ADAPTERS": "sql=/a,chat=/b",
        "PREFIX_CACHING": "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
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


def test_crash_reasons() -> None:
    line = "2026-11-21T10:00:00.0Z ERROR text_generation_launcher: Not enough memory to handle 4096 prefill tokens. You"
    assert (
        ENGINE.crash_reason([line])
        == "Not enough memory to handle 4096 prefill tokens: lower 'max_batched_tokens'"
    )
    assert ENGINE.crash_reason(["INFO all is well"]) is None


def test_a_warning_is_not_why_it_crashed() -> None:
    log = [
        "WARN text_generation_launcher: Cannot determine GPU compute capability: No module named 'torch'",
        "ERROR text_generation_launcher: Shard 0 failed to start",
        "ModuleNotFoundError: No module named 'text_generation_server.models'",
    ]
    assert ENGINE.crash_reason(log) == (
        "the Python package text_generation_server.models is not installed there"
    )
