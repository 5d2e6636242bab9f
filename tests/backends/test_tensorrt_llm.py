"""The TensorRT-LLM engine: options, command lines, the keys it accepts, and the meaning of its answers and metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    Operation,
    Reply,
    Request,
    RequestError,
    Signal,
    Status,
)
from backends.engines.tensorrt_llm import FLAGS, SETTINGS, TensorRTLLM, TensorRTLLMLaunch
from backends.facts.residing import Residing
from gateway.config.section import validate

ENGINE = TensorRTLLM()


def options(**given: object) -> TensorRTLLMLaunch:
    """Read options as the config file does: as JSON, strictly."""
    return validate(TensorRTLLMLaunch, given)


def launch(**given: object) -> Launch:
    return options(**given).launch("127.0.0.1", 4321)


@pytest.fixture
def trtllm(program: Callable[[str], str]) -> str:
    return program("trtllm-serve")


def sent(body: object, operation: Operation = Operation.CHAT, *, usage: bool = True) -> Any:
    """Return what the engine gets of a client's body."""
    data = json.dumps(body).encode()
    stream = bool(isinstance(body, dict) and body.get("stream"))
    return json.loads(ENGINE.call(Request(operation, data, "m", stream, include_usage=usage), "m").body)


def test_the_smallest_options(trtllm: str) -> None:
    launched = launch(model="org/small")
    assert " ".join(launched.argv) == f"{trtllm} serve org/small --host 127.0.0.1 --port 4321"
    assert (launched.env, launched.start_timeout) == ({}, 1800)
    assert options(model="org/small").served_names() == ("org/small",)


def test_every_option_reaches_trtllm(trtllm: str, tmp_path: Path) -> None:
    config = tmp_path / "more.yaml"
    config.write_text("{}")
    given: dict[str, Any] = {
        "model": str(tmp_path),
        "name": "small",
        "backend": "pytorch",
        "tensor_parallel": 2,
        "pipeline_parallel": 3,
        "gpu_memory": "50%",
        "max_model_len": 4096,
        "max_num_seqs": 64,
        "max_batched_tokens": 2048,
        "chunked_prefill": True,
        "config": str(config),
        "metrics": True,
        "dtype": "bfloat16",
        "quantization": "FP8",
        "kv_cache_dtype": "fp8",
        "prefix_caching": False,
        "speculative": {"decoding_type": "NGram", "max_draft_len": 4},
        "reasoning_parser": "qwen3",
        "tool_parser": "qwen3",
        "chat_template": "/t.jinja",
        "trust_remote_code": True,
        "extra_args": ["--log_level", "warning"],
        "gpus": [0],
        "env": {"A": "b"},
        "start_timeout": "1m",
        "stop_timeout": "5s",
    }
    assert set(given) | {"command", "pull"} == set(TensorRTLLMLaunch.model_fields) - set(
        Residing.model_fields
    )
    launched = launch(**given)
    assert " ".join(launched.argv[2:]) == (
        f"{tmp_path} --host 127.0.0.1 --port 4321 --served_model_name small --backend pytorch --tp_size 2 --pp_size 3 "
        "--free_gpu_memory_fraction 0.5 --max_seq_len 4096 --max_batch_size 64 --max_num_tokens 2048 "
        "--enable_chunked_prefill --reasoning_parser qwen3 --tool_parser qwen3 --chat_template /t.jinja "
        f"--trust_remote_code --config {config} "
        '--set kv_cache_config.dtype="fp8" --set kv_cache_config.enable_block_reuse=false '
        '--set quant_config.quant_algo="FP8" --set dtype="bfloat16" '
        '--set speculative_config={"decoding_type":"NGram","max_draft_len":4} --set return_perf_metrics=true '
        "--set enable_iter_perf_stats=true --log_level warning"
    )
    assert launched.env == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0", "A": "b"}
    assert {*FLAGS, *SETTINGS} <= set(given)


def test_what_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trtllm: str) -> None:
    with pytest.raises(LaunchError, match=r"there is no /no/such\.yaml: correct the path"):
        launch(model="m", config="/no/such.yaml")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(
        LaunchError, match="no program trtllm-serve: install it with `pip install tensorrt-llm"
    ):
        launch(model="m")
    with pytest.raises(ValidationError):
        options(model="m", lora={"a": "b"})


def test_a_body_of_known_keys_goes_out_as_it_came() -> None:
    body = b'{ "model": "m", "messages": [], "top_k": 3,\n "temperature":0 }'
    assert ENGINE.call(Request(Operation.CHAT, body, "m"), "m").body == body


def test_unknown_keys_are_left_out() -> None:
    foreign = {"metadata": {}, "store": True, "service_tier": "auto", "prediction": None, "made_up": 1}
    known = {"model": "m", "messages": [{"role": "user", "content": "a"}], "min_p": 0.1}
    assert sent({**foreign, **known, "lora_request": None, "n": None}) == known
    completing = {"model": "m", "prompt": "a", "detokenize": True}
    assert sent({**completing, "messages": [], "store": 1}, Operation.COMPLETIONS) == completing
    embedding = {"model": "m", "input": "a", "dimensions": 8}
    assert sent({**embedding, "truncate": True}, Operation.EMBEDDINGS) == embedding


def test_of_two_limits_the_newer_counts() -> None:
    assert sent({"model": "m", "max_tokens": 5, "max_completion_tokens": 9}) == {
        "model": "m",
        "max_completion_tokens": 9,
    }
    assert sent({"model": "m", "max_tokens": 5}) == {"model": "m", "max_tokens": 5}
    assert sent({"model": "m", "max_tokens": 5, "max_completion_tokens": None}) == {
        "model": "m",
        "max_tokens": 5,
    }


@pytest.mark.parametrize("name", ["guided_json", "functions", "continue_final_message"])
def test_without_which_the_answer_would_be_another_is_refused(name: str) -> None:
    with pytest.raises(RequestError) as error:
        sent({"model": "m", "messages": [], name: {"a": 1}})
    assert (error.value.failure.kind, error.value.failure.param) == (Kind.UNSUPPORTED, name)


def test_stream_options_are_its_own_only() -> None:
    body = {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    }
    assert sent(body)["stream_options"] == {"include_usage": True}
    # By default the server reports usage, so the request always says what the gateway wants.
    assert sent({"model": "m", "stream": True, "stream_options": {}}, usage=False)["stream_options"] == {
        "include_usage": True
    }
    assert "stream_options" not in sent({"model": "m", "stream": True, "stream_options": None})
    assert "stream_options" not in sent({"model": "m", "messages": []})


def test_the_responses_api_takes_any_key() -> None:
    body = {"model": "m", "input": "a", "prompt_cache_key": "k"}
    assert sent(body, Operation.RESPONSES) == body


def test_tokenizing() -> None:
    body = {"model": "m", "prompt": "a", "add_special_tokens": False}
    call = ENGINE.call(Request(Operation.TOKENIZE, json.dumps(body).encode(), "m"), "m")
    assert call.path == "/_internal/tokenize" and json.loads(call.body) == {"model": "m", "prompt": "a"}
    reply = ENGINE.reply(Request(Operation.TOKENIZE, b"{}", "m"), "m", (), b'{"count":2,"tokens":[1,2]}')
    assert isinstance(reply, Reply) and json.loads(reply.body) == {"count": 2, "tokens": [1, 2]}
    with pytest.raises(RequestError) as error:
        ENGINE.call(Request(Operation.TOKENIZE, b'{"model":"m","messages":[]}', "m"), "m")
    assert error.value.failure.kind is Kind.UNSUPPORTED


@pytest.mark.parametrize("stream", [True, False])
def test_an_executor_that_died_says_nothing(stream: bool) -> None:
    reply = ENGINE.reply(Request(Operation.CHAT, b"{}", "m", stream=stream), "m", (), b"null")
    assert isinstance(reply, Failure) and reply.kind is Kind.FAILED


def test_a_stream_with_spaces_after_its_events() -> None:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = [{"index": 0, "delta": {"content": "Hi"}}], [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    text = (
        "".join(f"data: {json.dumps({**chunk, 'choices': choices})} \n\n" for choices in said)
        + "data: [DONE]\n\n"
    )
    decoder = ENGINE.decoder(Request(Operation.CHAT, b"{}", "public", stream=True), "m")
    out = decoder.feed(text.encode()) + decoder.close()
    assert decoder.failure is None and decoder.finished and decoder.content == 1
    assert b'"public"' in out and out.endswith(b"data: [DONE]\n\n")


def test_health() -> None:
    assert ENGINE.health() == Call("/health", method="GET")
    unwell = b"LLM is unavailable. Please check the server logs for more details."
    assert (ENGINE.health_of(200, b""), ENGINE.health_of(503, unwell)) == (Health.READY, Health.DOWN)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": "[{'type': 'extra_forbidden', 'loc': ('body', 'x')}]"}, Kind.REJECTED),
        (400, {"object": "error", "message": "too long", "type": "x", "code": "context_length_exceeded"}, Kind.CONTEXT),
        (400, {"object": "error", "message": "This model's maximum context length is 9 tokens.", "code": 400},
         Kind.CONTEXT),
        (404, {"detail": "Not Found"}, Kind.UNSUPPORTED),
        (501, {"object": "error", "message": "no", "type": "NotImplementedError", "code": 501}, Kind.UNSUPPORTED),
    ],
)  # fmt: skip
def test_failures(status: int, body: object, kind: Kind) -> None:
    assert ENGINE.failure(status, (), json.dumps(body).encode()).kind is kind


def test_signals() -> None:
    assert ENGINE.signal_calls() == (Call("/prometheus/metrics", method="GET"),)
    names = ("num_requests_running", "num_requests_waiting", "max_num_active_requests")
    shares = ("kv_cache_utilization", "kv_cache_hit_rate")
    page = "".join(f'trtllm_{name}{{model_name="m",pid="{pid}"}} 2\n' for name in names for pid in (1, 2))
    page += "".join(
        f'trtllm_{name}{{model_name="m",pid="{pid}"}} 0.{pid}\n' for name in shares for pid in (1, 2)
    )
    found = ENGINE.signals_of([page.encode()])
    assert {signal: reading.value for signal, reading in found.items()} == {
        Signal.RUNNING: 4,
        Signal.WAITING: 4,
        Signal.SLOTS: 4,
        Signal.KV_USE: 0.2,
        Signal.PREFIX_HITS: 0.2,
    }
    assert {reading.status for reading in ENGINE.signals_of([None]).values()} == {Status.MISSING}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "RuntimeError: Failed to bind socket to localhost:8000: [Errno 98] Address already in use",
            "its port was taken by another program",
        ),
        ("ValueError: No GPU devices found on the node", "it finds no GPU"),
        (
            "Error: No such option: --set",
            "this trtllm-serve has no --set: put the settings into a 'config' file",
        ),
        ("Error: No such option: --served_model_name", "No such option: --served_model_name"),
        ("[11/21/2026-10:00:00] [TRT-LLM] [I] fine", None),
    ],
)
def test_why_it_died(line: str, reason: str | None) -> None:
    assert ENGINE.crash_reason([line]) == reason
