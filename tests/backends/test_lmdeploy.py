"""The LMDeploy engine: options, command lines, and the meaning of its answers, metrics and crashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backends.base import (
    Action,
    Call,
    Failure,
    Health,
    Kind,
    Launch,
    LaunchError,
    Operation,
    Reply,
    Request,
    RequestError,
    Signal,
    Status,
)
from backends.engines.lmdeploy.engine import LMDeploy
from backends.engines.lmdeploy.launch import FLAGS, LMDeployLaunch
from backends.facts.residing import Residing
from gateway.config.section import validate
from tests.backends.recorded import recorded

ENGINE = LMDeploy()


def options(**given: object) -> LMDeployLaunch:
    """Read options as the config file does: as JSON, strictly."""
    return validate(LMDeployLaunch, given)


def launch(**given: object) -> Launch:
    return options(**given).launch("127.0.0.1", 4321)


@pytest.fixture
def lmdeploy(program: Callable[[str], str]) -> str:
    return program("lmdeploy")


def test_the_smallest_options(lmdeploy: str) -> None:
    launched = launch(model="org/small")
    assert " ".join(launched.argv) == (
        f"{lmdeploy} serve api_server org/small --model-name org/small --server-name 127.0.0.1 --server-port 4321"
    )
    assert (launched.env, launched.start_timeout) == ({}, 1800)
    assert options(model="org/small").served_names() == ("org/small",)


def test_every_option_reaches_lmdeploy(lmdeploy: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "model": str(tmp_path),
        "name": "small",
        "backend": "pytorch",
        "tensor_parallel": 2,
        "data_parallel": 1,
        "gpu_memory": "50%",
        "max_model_len": 4096,
        "max_num_seqs": 64,
        "max_batched_tokens": 2048,
        "dtype": "float16",
        "quantization": "awq",
        "kv_cache_dtype": "int8",
        "prefix_caching": True,
        "speculative": {"algorithm": "eagle3", "num_draft_tokens": 3},
        "lora": {"sql": str(tmp_path), "fr": "org/fr"},
        "reasoning_parser": "qwen3",
        "tool_parser": "qwen3",
        "chat_template": "/t.json",
        "trust_remote_code": True,
        "extra_args": ["--logprobs-mode", "raw_logprobs"],
        "gpus": [3],
        "env": {"A": "b"},
        "start_timeout": "1m",
        "stop_timeout": "5s",
    }
    assert set(given) | {"command", "pull"} == set(LMDeployLaunch.model_fields) - set(Residing.model_fields)
    launched = launch(**given)
    assert " ".join(launched.argv[3:]) == (
        f"{tmp_path} --model-name small --server-name 127.0.0.1 --server-port 4321 --backend pytorch --tp 2 --dp 1 "
        "--cache-max-entry-count 0.5 --session-len 4096 --max-batch-size 64 --max-prefill-token-num 2048 "
        "--dtype float16 --model-format awq --quant-policy int8 --enable-prefix-caching --reasoning-parser qwen3 "
        f"--tool-call-parser qwen3 --chat-template /t.json --trust-remote-code --adapters sql={tmp_path} fr=org/fr "
        "--speculative-algorithm eagle3 --speculative-num-draft-tokens 3 --logprobs-mode raw_logprobs"
    )
    assert launched.env == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "3", "A": "b"}
    assert options(**given).served_names() == ("small", "sql", "fr")
    assert set(FLAGS) <= set(given)


def test_adapters_choose_their_backend(lmdeploy: str) -> None:
    argv = launch(model="m", lora={"a": "org/a"}).argv
    assert argv[argv.index("--backend") + 1] == "pytorch"
    # It is off by default, and no flag switches it off.
    assert launch(model="m", prefix_caching=False).argv == launch(model="m").argv


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lora": {"a": "p"}, "backend": "turbomind"}, "'lora' needs 'backend: pytorch'"),
        ({"data_parallel": 2, "backend": "pytorch"}, "'data_parallel' needs 'backend: turbomind'"),
        ({"data_parallel": 2, "lora": {"a": "p"}}, "'data_parallel' needs 'backend: turbomind'"),
        ({"quantization": "int3"}, "quantization"),
        ({"kv_cache_dtype": "fp4"}, "kv_cache_dtype"),
        ({"max_queue": 3}, "max_queue"),
    ],
)
def test_options_that_do_not_fit(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        options(model="m", **given)


def test_what_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="no program lmdeploy: install it with `pip install lmdeploy`"):
        launch(model="m")


@pytest.mark.parametrize(
    ("status", "body", "health"),
    [
        (200, b'{"status":"healthy","message":""}', Health.READY),
        (200, b"", Health.READY),
        (200, recorded("lmdeploy", "health_asleep").answer, Health.ASLEEP),
        (503, b'{"status":"initializing","message":"Engine health monitor is starting."}', Health.LOADING),
        (503, b'{"status":"unhealthy","message":"gone"}', Health.DOWN),
        (503, b"upstream connect error", Health.DOWN),
        (404, b'{"detail":"Not Found"}', Health.DOWN),
        (200, b"[" * 100_000, Health.READY),
    ],
)
def test_health(status: int, body: bytes, health: Health) -> None:
    assert ENGINE.health() == Call("/health", method="GET")
    assert ENGINE.health_of(status, body) is health


def tokenize(**body: object) -> Request:
    return Request(Operation.TOKENIZE, json.dumps({"model": "public", **body}).encode(), "public")


def test_tokenizing() -> None:
    call = ENGINE.call(tokenize(prompt="a 🚀", add_special_tokens=False, return_token_strs=True), "m")
    assert call.path == "/v1/encode"
    assert json.loads(call.body) == {"model": "m", "input": "a 🚀", "add_bos": False}
    assert json.loads(ENGINE.call(tokenize(prompt="a"), "m").body) == {"model": "m", "input": "a"}
    reply = ENGINE.reply(tokenize(prompt="a"), "m", (), b'{"input_ids":[1,2],"length":2}')
    assert isinstance(reply, Reply) and json.loads(reply.body) == {"count": 2, "tokens": [1, 2]}


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"[" * 100_000])
def test_what_is_no_list_of_tokens(body: bytes) -> None:
    reply = ENGINE.reply(tokenize(prompt="a"), "m", (), body)
    assert isinstance(reply, Failure) and reply.kind is Kind.GARBLED


def test_messages_cannot_be_tokenized() -> None:
    with pytest.raises(RequestError) as error:
        ENGINE.call(tokenize(messages=[]), "m")
    assert error.value.failure.kind is Kind.UNSUPPORTED


def test_what_it_does_not_offer() -> None:
    assert {Operation.EMBEDDINGS, Operation.RERANK, Operation.DETOKENIZE}.isdisjoint(ENGINE.operations)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (404, "The model 'x' does not exist.", Kind.MISSING),
        (400, "Input length (9000) must be smaller than the model context length (4096).", Kind.CONTEXT),
        (401, "Unauthorized.", Kind.REFUSED),
        (499, "The request was cancelled.", Kind.FAILED),
        (503, "Engine is sleeping; call POST /wakeup before inference (e.g. tags=weights).", Kind.LOADING),
        (503, "The inference engine is unavailable.", Kind.FAILED),
        (409, "The request conflicts with another one.", Kind.FAILED),
        (500, "An internal server error occurred.", Kind.FAILED),
    ],
)
def test_failures(status: int, message: str, kind: Kind) -> None:
    flat = {"message": message, "type": "server_error", "code": status, "param": None, "object": "error"}
    assert ENGINE.failure(status, (), json.dumps(flat).encode()).kind is kind
    decoder = ENGINE.decoder(Request(Operation.CHAT, b"{}", "m", stream=True), "m")
    decoder.feed(b"data: " + json.dumps({"error": flat}).encode() + b"\n\ndata: [DONE]\n\n")
    assert decoder.failure is not None and decoder.failure.kind is kind


@pytest.mark.parametrize("reason", ["parse_error", "abort", "error"])
def test_an_end_that_is_a_failure(reason: str) -> None:
    event = {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {}, "finish_reason": reason}],
    }
    decoder = ENGINE.decoder(Request(Operation.CHAT, b"{}", "m", stream=True), "m")
    decoder.feed(f"data: {json.dumps(event)}\n\n".encode())
    assert decoder.failure is not None and decoder.failure.kind is Kind.FAILED


PAGE = b"""\
lmdeploy:num_requests_running{engine="0",model_name="m"} 5.0
lmdeploy:num_requests_waiting{engine="0",model_name="m"} 1.0
lmdeploy:num_api_requests_waiting{engine="0",model_name="m"} 2.0
lmdeploy:gpu_cache_usage_perc{engine="0",model_name="m"} 0.5
lmdeploy:gpu_cache_usage_perc{engine="1",model_name="m"} 0.25
lmdeploy:prefix_cache_hit_rate{engine="0",model_name="m"} 0.125
"""


def test_signals() -> None:
    assert [call.path for call in ENGINE.signal_calls()] == ["/metrics", "/is_sleeping"]
    found = ENGINE.signals_of([PAGE, b'{"is_sleeping":true}'])
    assert {signal: reading.value for signal, reading in found.items()} == {
        Signal.RUNNING: 5,
        Signal.WAITING: 3,
        Signal.KV_USE: 0.375,
        Signal.PREFIX_HITS: 0.125,
        Signal.ASLEEP: 1,
    }
    assert ENGINE.signals_of([PAGE, b'{"is_sleeping":false}'])[Signal.ASLEEP].value == 0


@pytest.mark.parametrize("state", [None, b"", b"{}", b'{"is_sleeping":3}', b"[" * 100_000])
def test_signals_that_are_not_told(state: bytes | None) -> None:
    found = ENGINE.signals_of([None, state])
    assert {reading.status for reading in found.values()} == {Status.MISSING}
    # This version does not count requests that wait before the engine.
    page = PAGE.replace(b"num_api_requests_waiting", b"else")
    assert ENGINE.signals_of([page, state])[Signal.WAITING].value == 1


@pytest.mark.parametrize(
    ("action", "given", "path"),
    [
        (Action.SLEEP, {}, "/sleep?level=1"),
        (Action.SLEEP, {"level": 2}, "/sleep?level=2"),
        (Action.WAKE, {}, "/wakeup"),
        (Action.WAKE, {"tags": ["weights", "kv_cache"]}, "/wakeup?tags=weights&tags=kv_cache"),
    ],
)
def test_actions(action: Action, given: dict[str, object], path: str) -> None:
    # LMDeploy requires JSON, although it ignores the content.
    assert ENGINE.action(action, given) == Call(path, b"{}")
    assert action in ENGINE.actions


def test_why_it_died() -> None:
    log = [
        "2026-11-21 10:00:00,1 - lmdeploy - ERROR - base.py:187 - x",
        "RuntimeError: No enough gpu memory for kv cache.",
    ]
    assert ENGINE.crash_reason(log) == (
        "the GPU has no memory left for its kv cache: lower 'gpu_memory', 'max_num_seqs' or 'max_batched_tokens'"
    )
    assert ENGINE.crash_reason(["INFO fine"]) is None
    assert ENGINE.log_level(log[0]) > ENGINE.log_level("x")
