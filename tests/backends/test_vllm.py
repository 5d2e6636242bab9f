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
    Reply,
    Request,
    RequestError,
    Signal,
    Status,
)
from backends.engines.vllm.engine import VLLM
from backends.engines.vllm.launch import FLAGS, VLLMLaunch
from backends.facts.residing import Residing
from gateway.config.section import validate
from tests.backends.recorded import played, recorded, refusal, request

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
    assert set(given) | {"command", "pull"} == set(VLLMLaunch.model_fields) - set(Residing.model_fields)
    launched = launch(**given)
    assert " ".join(launched.argv[7:]) == (
        "--port 4321 --disable-uvicorn-access-log --enable-prompt-tokens-details --tensor-parallel-size 2 "
        "--pipeline-parallel-size 3 --data-parallel-size 4 --gpu-memory-utilization 0.85 --max-model-len 4096 "
        "--max-num-seqs 64 --max-num-batched-tokens 2048 --dtype bfloat16 "
        "--quantization fp8 --kv-cache-dtype fp8_e5m2 --no-enable-prefix-caching --enable-chunked-prefill "
        '--speculative-config {"method":"ngram","num_speculative_tokens":4} --reasoning-parser qwen3 '
        "--tool-call-parser hermes --chat-template /t.jinja --trust-remote-code --enable-sleep-mode "
        f"--lora-modules sql={tmp_path} fr=org/fr --max-loras 3 --max-lora-rank 32 --max-num-queued-reqs 266 "
        "--enable-auto-tool-choice --enable-lora --enforce-eager"
    )
    assert launched.argv[2:5] == (str(tmp_path), "--served-model-name", "small")
    # The variables in `env` win.
    assert launched.env == {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_SERVER_DEV_MODE": "0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
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
        {"model": "m", "max_queue": 8},
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


DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


def test_a_500_is_about_its_request_unless_the_engine_says_that_it_is_dead() -> None:
    for name in ("chat_structured_type", "chat_grammar_conflict", "chat_named_without_function"):
        failure = refusal(ENGINE, name)
        assert (failure.kind, failure.engine_lives) == (Kind.FAILED, True)
    dead = ENGINE.failure(500, (), json.dumps({"error": {"message": DEAD, "code": 500}}).encode())
    assert (dead.kind, dead.engine_lives) == (Kind.FAILED, False)


@pytest.mark.parametrize(
    ("name", "kind", "param", "message"),
    [
        (
            "chat_seed_big",
            Kind.REJECTED,
            "seed",
            "seed: Input should be less than or equal to 9223372036854775807",
        ),
        (
            "chat_tool_content_null",
            Kind.REJECTED,
            "messages.2.content",
            "messages.2.content: Input should be a",
        ),
        (
            "chat_history_arguments_object",
            Kind.REJECTED,
            "0.function",
            "0.function: Input should be a valid s",
        ),
        (
            "chat_name_null",
            Kind.REJECTED,
            "messages.0.name",
            "messages.0.name: Input should be a valid string",
        ),
        ("messages_invalid", Kind.REJECTED, "max_tokens", "max_tokens: max_tokens must be positive"),
        ("responses_background_null", Kind.REJECTED, "background", "background: Input should be a valid boo"),
        (
            "chat_max_huge",
            Kind.REJECTED,
            "max_tokens",
            "max_tokens=100000 cannot be greater than max_model_len",
        ),
        (
            "chat_tool_choice_alone",
            Kind.REJECTED,
            "tool_choice",
            "When using `tool_choice`, `tools` must be set.",
        ),
        ("completions_exact", Kind.CONTEXT, "max_tokens", "the prompt leaves no room for an answer"),
        ("embeddings_overflow", Kind.CONTEXT, "input_tokens", "This model's maximum context length is 2048"),
        ("messages_overflow", Kind.CONTEXT, None, "This model's maximum context length is 2048"),
        ("responses_overflow", Kind.CONTEXT, "input_tokens", "This model's maximum context length is 2048"),
        ("chat_image", Kind.UNSUPPORTED, None, "the model reads text only"),
        (
            "embeddings_dimensions",
            Kind.UNSUPPORTED,
            None,
            "'dimensions': the model's vectors have one length",
        ),
        ("completions_suffix_empty", Kind.UNSUPPORTED, "suffix", "'suffix': the model is not made for"),
        (
            "messages_thinking_refused",
            Kind.UNSUPPORTED,
            None,
            "a budget for thinking needs a 'reasoning_parser'",
        ),
        (
            "responses_previous_missing",
            Kind.UNSUPPORTED,
            "previous_response_id",
            "the engine does not know the",
        ),
        ("messages_tool_not_object", Kind.FAILED, None, "the model called a tool with arguments that are no"),
        ("chat_missing", Kind.UNSUPPORTED, None, "the engine does not offer this operation"),
        ("model_missing", Kind.MISSING, None, "the engine does not have this model"),
        ("overloaded_messages", Kind.OVERLOADED, None, "the engine is overloaded"),
        ("overloaded_responses", Kind.OVERLOADED, None, "the engine is overloaded"),
    ],
)
def test_what_its_errors_mean(name: str, kind: Kind, param: str | None, message: str) -> None:
    failure = refusal(ENGINE, name)
    assert (failure.kind, failure.param) == (kind, param)
    assert failure.message.startswith(message), failure.message
    assert "ChatCompletion" not in failure.message and "(parameter=" not in failure.message


def test_a_response_that_it_does_not_know_is_no_missing_model() -> None:
    failure = refusal(ENGINE, "responses_previous_missing")
    assert (failure.code, failure.message) == (
        "previous_response_not_found",
        "the engine does not know the response that 'previous_response_id' names",
    )


def test_what_it_refuses_in_a_stream_of_messages() -> None:
    """The words are cut off in the engine's own answer; the status is there."""
    asking = request(Operation.MESSAGES, messages=[], stream=True)
    _, decoder = played(ENGINE, asking, "messages_thinking_refused_stream")
    assert decoder.failure is not None
    assert (decoder.failure.kind, decoder.failure.unexplained) == (Kind.REJECTED, True)
    _, decoder = played(ENGINE, asking, "overloaded_messages_in_stream")
    assert decoder.failure is not None
    assert (decoder.failure.kind, decoder.failure.unexplained) == (Kind.OVERLOADED, False)


@pytest.mark.parametrize("name", ["chat_logit_bias_stream", "overloaded_in_stream"])
def test_what_it_refuses_in_a_stream_of_chat(name: str) -> None:
    _, decoder = played(ENGINE, request(Operation.CHAT, messages=[], stream=True), name)
    assert decoder.failure is not None
    assert decoder.failure.kind is (Kind.OVERLOADED if "overloaded" in name else Kind.REJECTED)


def test_the_tokens_of_a_message_are_counted() -> None:
    asking = request(Operation.COUNT_TOKENS, messages=[{"role": "user", "content": "x"}], system=None)
    call = ENGINE.call(asking, "demo")
    assert (call.path, call.headers) == (
        "/v1/messages/count_tokens",
        ((b"anthropic-version", b"2023-06-01"),),
    )
    found = recorded("vllm", "count_tokens")
    reply = ENGINE.reply(asking, "demo", (), found.answer)
    assert isinstance(reply, Reply) and reply.body == found.answer
    assert json.loads(reply.body)["input_tokens"] == 16


# --- requests


def sent(operation: Operation, **body: Any) -> dict[str, Any]:
    """Return the body that vLLM gets, without the model."""
    found: dict[str, Any] = json.loads(ENGINE.call(request(operation, **body), "m").body)
    assert found.pop("model") == "m"
    return found


def test_a_request_without_anything_special_passes_byte_by_byte() -> None:
    body = b'{ "model":"m", "messages":[{"role":"user","content":"nothing"}],  "top_k": 3 }'
    assert ENGINE.call(Request(Operation.CHAT, body, "m"), "m").body == body
    body = b'{ "model":"m", "messages":[{"role":"user","content":null}],  "top_k": 3 }'
    assert ENGINE.call(Request(Operation.CHAT, body, "m"), "m").body == body


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        (Operation.CHAT, {"messages": [], "priority": None, "ignore_eos": None}),
        (Operation.COMPLETIONS, {"prompt": "x", "n": None, "echo": None, "best_of": None}),
        (Operation.EMBEDDINGS, {"input": "x", "encoding_format": None}),
        (Operation.RERANK, {"query": "q", "documents": ["d"], "top_n": None}),
        (Operation.SCORE, {"text_1": "q", "text_2": ["d"], "truncate_prompt_tokens": None}),
        (Operation.TOKENIZE, {"prompt": "x", "add_special_tokens": None}),
        (Operation.DETOKENIZE, {"tokens": [1], "anything": None}),
        (
            Operation.RESPONSES,
            {"input": "x", "tools": None, "tool_choice": None, "service_tier": None, "background": None},
        ),
        (Operation.MESSAGES, {"messages": [], "max_tokens": 5, "system": None}),
    ],
)
def test_a_null_is_not_sent(operation: Operation, more: dict[str, Any]) -> None:
    assert sent(operation, **more) == {name: value for name, value in more.items() if value is not None}


@pytest.mark.parametrize(
    ("operation", "given", "kept"),
    [
        (Operation.CHAT, {"tools": [], "tool_choice": "auto"}, {}),
        (Operation.CHAT, {"tools": None, "tool_choice": "none"}, {}),
        (Operation.CHAT, {"tools": [], "tool_choice": "required"}, {"tool_choice": "required"}),
        (Operation.CHAT, {"stop": ""}, {}),
        (Operation.CHAT, {"stop": ["", "x"]}, {"stop": ["x"]}),
        (Operation.COMPLETIONS, {"suffix": "", "stop": [""]}, {}),
        (Operation.COMPLETIONS, {"best_of": 2, "n": 2}, {"n": 2}),
        (Operation.COMPLETIONS, {"max_tokens": 0, "echo": True}, {"max_tokens": 0, "echo": True}),
        (Operation.RESPONSES, {"background": False}, {}),
        (Operation.EMBEDDINGS, {"encoding_format": "base64"}, {"encoding_format": "base64"}),
    ],
)
def test_what_asks_for_nothing_is_not_sent(
    operation: Operation, given: dict[str, Any], kept: dict[str, Any]
) -> None:
    assert sent(operation, **given) == kept


def test_a_name_of_null_is_left_out_of_a_message() -> None:
    messages = [
        {"role": "user", "content": "x", "name": None},
        {"role": "user", "content": None, "name": "a"},
    ]
    assert sent(Operation.CHAT, messages=messages)["messages"] == [
        {"role": "user", "content": "x"},
        {"role": "user", "content": None, "name": "a"},
    ]


NAMED = {"type": "function", "function": {"name": "x"}}


@pytest.mark.parametrize(
    ("operation", "given", "param", "kind"),
    [
        (Operation.CHAT, {"structured_outputs": "x"}, "structured_outputs", Kind.REJECTED),
        (Operation.CHAT, {"max_tokens": 0}, "max_tokens", Kind.REJECTED),
        (Operation.CHAT, {"max_completion_tokens": 0}, "max_completion_tokens", Kind.REJECTED),
        (Operation.CHAT, {"tools": [{"type": "function"}], "tool_choice": NAMED}, "tools", Kind.REJECTED),
        (Operation.COMPLETIONS, {"max_tokens": 0}, "max_tokens", Kind.REJECTED),
        (Operation.COMPLETIONS, {"best_of": 2}, "best_of", Kind.UNSUPPORTED),
        (Operation.COMPLETIONS, {"structured_outputs": 5}, "structured_outputs", Kind.REJECTED),
        (Operation.EMBEDDINGS, {"encoding_format": "bytes_only"}, "encoding_format", Kind.UNSUPPORTED),
        (Operation.RESPONSES, {"background": True}, "background", Kind.UNSUPPORTED),
    ],
)
def test_what_it_would_fail_over_or_not_hear_is_refused(
    operation: Operation, given: dict[str, Any], param: str, kind: Kind
) -> None:
    with pytest.raises(RequestError) as refused:
        ENGINE.call(request(operation, **given), "m")
    assert (refused.value.failure.kind, refused.value.failure.param) == (kind, param)


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
        (
            "Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor.",
            "something killed one of its processes, as the system does when memory runs out",
        ),
        (
            "Worker proc VllmWorker-1 died unexpectedly (exit code: 1), shutting down executor.",
            "proc VllmWorker-1 died unexpectedly (exit code: 1), and did not say why",
        ),
        ("AsyncLLM: engine core exited unexpectedly", "engine core exited unexpectedly, and did not say why"),
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
