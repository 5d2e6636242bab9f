"""The vLLM engine: options, command lines, the meaning of its answers, metrics and crashes. No process is started."""

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
    ModelCard,
    Operation,
    Request,
    Signal,
    Status,
)
from backends.engines.vllm import FLAGS, VLLM, VLLMLaunch
from gateway.config.schema import validate

ENGINE = VLLM()

Programs = Callable[[str], str]


def options(**given: object) -> VLLMLaunch:
    """Read options as the config file does: as JSON, strictly."""
    return validate(VLLMLaunch, given)


def launch(**given: object) -> Launch:
    return options(**given).launch("127.0.0.1", 4321)


def test_the_smallest_options(program: Programs) -> None:
    vllm = program("vllm")
    launched = launch(model="org/small")
    assert " ".join(launched.argv) == (
        f"{vllm} serve org/small --served-model-name org/small --host 127.0.0.1 --port 4321 "
        "--disable-uvicorn-access-log --enable-prompt-tokens-details"
    )
    assert (launched.env, launched.key_env) == ({}, "VLLM_API_KEY")
    assert (launched.start_timeout, launched.stop_timeout) == (1800, 30)
    assert options(model="org/small").served_names() == ("org/small",)


def test_every_option_reaches_vllm(program: Programs, tmp_path: Path) -> None:
    program("vllm")
    given: dict[str, Any] = {
        "model": str(tmp_path),
        "name": "small",
        "tensor_parallel": 2,
        "pipeline_parallel": 3,
        "data_parallel": 4,
        "gpu_memory": "85%",
        "max_model_len": 4096,
        "max_num_seqs": 64,
        "max_batched_tokens": 2048,
        "max_queue": 10,
        "dtype": "bfloat16",
        "quantization": "fp8",
        "kv_cache_dtype": "fp8_e5m2",
        "prefix_caching": False,
        "chunked_prefill": True,
        "speculative": {"method": "ngram", "num_speculative_tokens": 4},
        "lora": {"sql": str(tmp_path), "fr": "org/fr"},
        "lora_loading": True,
        "max_loras": 3,
        "max_lora_rank": 32,
        "reasoning_parser": "qwen3",
        "tool_parser": "hermes",
        "chat_template": "/t.jinja",
        "trust_remote_code": True,
        "sleep_mode": True,
        "extra_args": ["--enforce-eager"],
        "gpus": [1, 2],
        "env": {"A": "b", "VLLM_SERVER_DEV_MODE": "0"},
        "start_timeout": "1m",
        "stop_timeout": "5s",
    }
    assert set(given) | {"command"} == set(VLLMLaunch.model_fields)
    launched = launch(**given)
    assert " ".join(launched.argv[7:]) == (
        "--port 4321 --disable-uvicorn-access-log --enable-prompt-tokens-details --tensor-parallel-size 2 "
        "--pipeline-parallel-size 3 --data-parallel-size 4 --gpu-memory-utilization 0.85 --max-model-len 4096 "
        "--max-num-seqs 64 --max-num-batched-tokens 2048 --max-num-queued-reqs 10 --dtype bfloat16 "
        "--quantization fp8 --kv-cache-dtype fp8_e5m2 --no-enable-prefix-caching --enable-chunked-prefill "
        '--speculative-config {"method":"ngram","num_speculative_tokens":4} --reasoning-parser qwen3 '
        "--tool-call-parser hermes --chat-template /t.jinja --trust-remote-code --enable-sleep-mode "
        f"--lora-modules sql={tmp_path} fr=org/fr --max-loras 3 --max-lora-rank 32 --enable-auto-tool-choice "
        "--enable-lora --enforce-eager"
    )
    assert launched.argv[2:5] == (str(tmp_path), "--served-model-name", "small")
    # The variables in `env` win.
    assert launched.env == {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_SERVER_DEV_MODE": "0",
        "CUDA_VISIBLE_DEVICES": "1,2",
        "A": "b",
    }
    assert (launched.start_timeout, launched.stop_timeout) == (60, 5)
    assert options(**given).served_names() == ("small", "sql", "fr")


def test_every_flag_belongs_to_an_option() -> None:
    assert set(FLAGS) <= set(VLLMLaunch.model_fields)


def test_the_module_takes_the_model_by_its_flag(program: Programs) -> None:
    python = program("python3.12")
    command = ["python3.12", "-m", "vllm.entrypoints.openai.api_server"]
    assert launch(model="/only/there", command=command).argv[:5] == (
        python,
        *command[1:],
        "--model",
        "/only/there",
    )


def test_sleep_and_adapters_need_their_switches(program: Programs) -> None:
    program("vllm")
    assert launch(model="m", sleep_mode=True).env == {"VLLM_SERVER_DEV_MODE": "1"}
    loading = launch(model="m", lora_loading=True)
    assert loading.env == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} and loading.argv[-1] == "--enable-lora"


def test_what_cannot_start(program: Programs, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no program vllm: install it with `pip install vllm`, or name one"):
        launch(model="m")
    program("vllm")
    with pytest.raises(LaunchError, match="there is no /no/such/model: correct the path"):
        launch(model="/no/such/model")
    with pytest.raises(LaunchError, match=r"there is no \./adapter \(in .*\): correct the path"):
        launch(model=str(tmp_path), name="m", lora={"a": "./adapter"})


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"model": ""},
        {"model": "two words"},
        {"model": "m", "gpu_memory": 1.5},
        {"model": "m", "gpu_memory": "120%"},
        {"model": "m", "tensor_parallel": 0},
        {"model": "m", "lora": {"two words": "p"}},
        {"model": "m", "lora": {"a": ""}},
        {"model": "m", "speculative": "ngram"},
        {"model": "m", "prefix_caching": "yes"},
        {"model": "m", "tensor_paralel": 2},
    ],
)
def test_options_that_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        options(**given)


def test_health() -> None:
    assert ENGINE.health() == Call("/health", method="GET")
    assert [ENGINE.health_of(status, b"") for status in (200, 503, 404)] == [
        Health.READY,
        Health.DOWN,
        Health.DOWN,
    ]


def test_an_adapter_has_the_length_of_its_model() -> None:
    cards = [
        {"id": "m", "root": "org/m", "parent": None, "max_model_len": 4096},
        {"id": "sql", "root": "/sql", "parent": "m", "max_model_len": None},
    ]
    listed = json.dumps({"object": "list", "data": cards}).encode()
    assert ENGINE.models_of(listed) == (ModelCard("m", 4096), ModelCard("sql", 4096))


PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="weights_offloaded"} 0.0
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 400.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 100.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1.763724e+09
vllm:lora_requests_info{max_lora="4",running_lora_adapters="sql,fr",waiting_lora_adapters="de"} 1.763725e+09
"""


def test_signals() -> None:
    assert ENGINE.signal_calls() == (Call("/metrics", method="GET"),)
    found = ENGINE.signals_of([PAGE])
    assert {signal: (reading.status, reading.value) for signal, reading in found.items()} == {
        Signal.RUNNING: (Status.OK, 5),
        Signal.WAITING: (Status.OK, 4),
        Signal.KV_USE: (Status.OK, 0.375),
        Signal.PREFIX_HITS: (Status.OK, 0.25),
        Signal.ASLEEP: (Status.OK, 0),
        Signal.LORAS: (Status.OK, 3),
    }
    assert found[Signal.LORAS].names == ("de", "fr", "sql")


def test_signals_of_older_versions_and_of_one_asleep() -> None:
    page = (
        b"vllm:gpu_cache_usage_perc 0.75\n"
        b"vllm:gpu_prefix_cache_queries_total 10\nvllm:gpu_prefix_cache_hits_total 5\n"
        b'vllm:engine_sleep_state{engine="0",sleep_state="awake"} 1\n'
        b'vllm:engine_sleep_state{engine="1",sleep_state="awake"} 0\n'
    )
    found = ENGINE.signals_of([page])
    assert (found[Signal.KV_USE].value, found[Signal.KV_USE].source) == (0.75, "vllm:gpu_cache_usage_perc")
    assert (found[Signal.PREFIX_HITS].value, found[Signal.ASLEEP].value) == (0.5, 1)
    assert found[Signal.RUNNING].status is found[Signal.LORAS].status is Status.MISSING


def test_adapters_before_the_first_request_for_one() -> None:
    page = b"# HELP vllm:lora_requests_info Running stats on lora requests.\n# TYPE vllm:lora_requests_info gauge\n"
    reading = ENGINE.signals_of([page])[Signal.LORAS]
    assert (reading.status, reading.value, reading.names) == (Status.OK, 0, ())


def test_signals_that_are_not_told() -> None:
    for page in (None, b"", b"\xff{}"):
        found = ENGINE.signals_of([page])
        assert set(found) == {*VLLM().signals_of([PAGE])}
        assert {reading.status for reading in found.values()} == {Status.MISSING}


@pytest.mark.parametrize(
    ("action", "given", "path", "body"),
    [
        (
            Action.LOAD_LORA,
            {"name": "a", "path": "/a"},
            "/v1/load_lora_adapter",
            {"lora_name": "a", "lora_path": "/a"},
        ),
        (Action.UNLOAD_LORA, {"name": "a"}, "/v1/unload_lora_adapter", {"lora_name": "a"}),
        (Action.SLEEP, {}, "/sleep", None),
        (Action.SLEEP, {"level": 2}, "/sleep?level=2", None),
        (Action.WAKE, {}, "/wake_up", None),
        (Action.WAKE, {"tags": ["weights", "kv_cache"]}, "/wake_up?tags=weights&tags=kv_cache", None),
    ],
)
def test_actions(action: Action, given: dict[str, object], path: str, body: object) -> None:
    assert action in ENGINE.actions
    call = ENGINE.action(action, given)
    assert (call.method, call.path) == ("POST", path)
    assert (json.loads(call.body) if call.body else None) == body


def test_an_action_it_does_not_have() -> None:
    assert Action.PULL not in ENGINE.actions
    with pytest.raises(NotImplementedError):
        ENGINE.action(Action.PULL, {})
    with pytest.raises(ValueError, match="load_lora needs the argument 'path'"):
        ENGINE.action(Action.LOAD_LORA, {"name": "a"})


def chat(stream: bool = False) -> Request:
    return Request(Operation.CHAT, b'{"model":"m","messages":[]}', "m", stream=stream, include_usage=True)


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_request_the_server_dropped_is_a_failure(reason: str) -> None:
    whole = {"object": "chat.completion", "model": "m", "choices": [{"index": 0, "finish_reason": reason}]}
    reply = ENGINE.reply(chat(), "m", (), json.dumps(whole).encode())
    assert isinstance(reply, Failure) and reply.kind is Kind.FAILED
    event = {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {}, "finish_reason": reason}],
    }
    decoder = ENGINE.decoder(chat(stream=True), "m")
    decoder.feed(f"data: {json.dumps(event)}\n\n".encode())
    assert decoder.failure is not None and decoder.failure.kind is Kind.FAILED


def test_repetition_is_an_end_the_client_asked_for() -> None:
    whole = {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "repetition"}],
    }
    assert not isinstance(ENGINE.reply(chat(), "m", (), json.dumps(whole).encode()), Failure)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, '{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}}',
         Kind.MISSING),
        (404, '{"error":{"message":"Not Found","type":"Not Found","param":null,"code":404}}', Kind.UNSUPPORTED),
        (404, '{"detail":"Not Found"}', Kind.UNSUPPORTED),
        (401, '{"error":"Unauthorized"}', Kind.REFUSED),
        (503, '{"error":{"message":"queue is full","type":"Service Unavailable","param":null,"code":503}}',
         Kind.OVERLOADED),
        (500, '{"error":{"message":"EngineCore encountered an issue","type":"InternalServerError","code":500}}',
         Kind.FAILED),
        (501, '{"error":{"message":"no","type":"NotImplementedError","code":501}}', Kind.UNSUPPORTED),
    ],
)  # fmt: skip
def test_failures(status: int, body: str, kind: Kind) -> None:
    assert ENGINE.failure(status, (), body.encode()).kind is kind


ERROR = "(EngineCore pid=7) ERROR 11-21 10:00:00 [core.py:9] "


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when ...",
            "no memory is left for the KV cache: give it more with 'gpu_memory'",
        ),
        (
            (
                "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache "
                "is needed, which is larger than the available KV cache memory (5.2 GiB). Based on the available "
                "memory, the estimated maximum model length is 42560. Try increasing"
            ),
            (
                "the KV cache is too small for one request of 131072 tokens: raise 'gpu_memory', or 'max_model_len' at "
                "most 42560"
            ),
        ),
        (
            (
                "ValueError: To serve at least one request with the model's max seq len (4096), (16.0 GiB KV cache is "
                "needed, which is larger than the available KV cache memory (5.2 GiB). Try increasing"
            ),
            "the KV cache is too small for one request of 4096 tokens: lower 'max_model_len' or raise 'gpu_memory'",
        ),
        (
            (
                "ValueError: Free memory on device cuda:0 (3.1/23.6 GiB) on startup is less than desired GPU memory "
                "utilization (0.9, 21.2 GiB)."
            ),
            "only 3.1/23.6 GiB of the GPU's memory is free: lower 'gpu_memory', or end what else uses the GPU",
        ),
        (
            (
                "  Value error, User-specified max_model_len (9999) is greater than the derived max_model_len "
                "(max_position_embeddings=2048 or model_max_length=None in model's config.json). To allow"
            ),
            "'max_model_len' 9999 is more than the 2048 tokens the model can",
        ),
        (
            "ValueError: World size (4) is larger than the number of available GPUs (1) in this node.",
            "it needs 4 GPUs and finds 1",
        ),
        (
            "ValueError: LoRA rank 64 is greater than max_lora_rank 16.",
            "an adapter has rank 64: raise 'max_lora_rank'",
        ),
        (
            "KeyError: 'invalid tool call parser: hermess (chose from { hermes, llama3_json })'",
            "invalid tool call parser: hermess",
        ),
    ],
)
def test_why_it_died(line: str, reason: str) -> None:
    log = [ERROR + line, "RuntimeError: Engine core initialization failed. See root cause above."]
    assert ENGINE.crash_reason(log) == reason


def test_what_else_it_can_do() -> None:
    assert {Operation.RERANK, Operation.SCORE, Operation.TOKENIZE, Operation.MESSAGES} <= ENGINE.operations
    assert Operation.IMAGES not in ENGINE.operations
    assert ENGINE.call(chat(), "m").path == "/v1/chat/completions"
    assert ENGINE.log_level(ERROR) > ENGINE.log_level("INFO x")
