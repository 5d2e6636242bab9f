"""The SGLang engine: options, command lines, its own forms, and the meaning of its answers, loads and crashes."""

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
    Usage,
)
from backends.engines.sglang.engine import SGLang
from backends.engines.sglang.launch import FLAGS, SGLangLaunch
from backends.facts.residing import Residing
from gateway.config.section import validate
from tests.backends.recorded import played, recorded, refusal
from tests.backends.recorded import request as recorded_request

ENGINE = SGLang()


def options(**given: object) -> SGLangLaunch:
    """Read options as the config file does: as JSON, strictly."""
    return validate(SGLangLaunch, given)


def launch(**given: object) -> Launch:
    return options(**given).launch("127.0.0.1", 4321)


@pytest.fixture
def sglang(program: Callable[[str], str]) -> str:
    return program("sglang")


def asked(operation: Operation, **body: Any) -> Call:
    request = Request(operation, json.dumps({"model": "public", **body}).encode(), "public")
    return ENGINE.call(request, "m")


def answered(operation: Operation, body: object) -> Reply | Failure:
    request = Request(operation, b'{"model":"public"}', "public")
    return ENGINE.reply(request, "m", (), body if isinstance(body, bytes) else json.dumps(body).encode())


def test_the_smallest_options(sglang: str) -> None:
    launched = launch(model="org/small")
    assert " ".join(launched.argv) == (
        f"{sglang} serve --model-path org/small --served-model-name org/small --host 127.0.0.1 --port 4321 "
        "--log-level-http warning --enable-metrics --enable-cache-report"
    )
    assert (launched.env, launched.key_env, launched.start_timeout) == ({}, None, 1800)
    assert options(model="org/small").served_names() == ("org/small",)


def test_every_option_reaches_sglang(sglang: str, tmp_path: Path) -> None:
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
        "chunked_prefill": False,
        "speculative": {"algorithm": "EAGLE3", "num_draft_tokens": 4},
        "lora": {"sql": str(tmp_path), "fr": "org/fr"},
        "lora_loading": True,
        "max_loras": 3,
        "max_lora_rank": 32,
        "reasoning_parser": "qwen3",
        "tool_parser": "qwen25",
        "chat_template": "/t.jinja",
        "trust_remote_code": True,
        "sleep_mode": True,
        "embeddings": True,
        "extra_args": ["--schedule-policy", "lpm"],
        "gpus": [],
        "env": {"A": "b"},
        "start_timeout": "1m",
        "stop_timeout": "5s",
    }
    assert set(given) | {"command", "pull"} == set(SGLangLaunch.model_fields) - set(Residing.model_fields)
    launched = launch(**given)
    assert " ".join(launched.argv[14:]) == (
        "--tp-size 2 --pp-size 3 --dp-size 4 --mem-fraction-static 0.85 --context-length 4096 "
        "--max-running-requests 64 --max-prefill-tokens 2048 --max-queued-requests 10 --dtype bfloat16 "
        "--quantization fp8 --kv-cache-dtype fp8_e5m2 --reasoning-parser qwen3 --tool-call-parser qwen25 "
        "--chat-template /t.jinja --trust-remote-code --enable-memory-saver --is-embedding --enable-lora "
        f"--lora-paths sql={tmp_path} fr=org/fr --max-loras-per-batch 3 --max-lora-rank 32 --disable-radix-cache "
        "--chunked-prefill-size -1 --speculative-algorithm EAGLE3 --speculative-num-draft-tokens 4 "
        "--schedule-policy lpm"
    )
    assert launched.env == {"CUDA_VISIBLE_DEVICES": "", "A": "b"}
    # Asked for by the adapter's name alone, the model without the adapter would answer.
    assert options(**given).served_names() == ("small", "small:sql", "small:fr")
    assert set(FLAGS) <= set(given)


def test_what_is_on_by_itself_needs_no_flag(sglang: str) -> None:
    plain = launch(model="m").argv
    assert launch(model="m", prefix_caching=True, chunked_prefill=True).argv == plain


def test_what_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="no program sglang: install it with `pip install sglang`"):
        launch(model="m")
    with pytest.raises(ValidationError):
        options(model="m", speculative={"algorithm": ["a"]})


def test_health() -> None:
    assert ENGINE.health() == Call("/ready", method="GET")
    found = [ENGINE.health_of(status, b"") for status in (200, 503, 404, 401, 500)]
    assert found == [Health.READY, Health.LOADING, Health.READY, Health.READY, Health.DOWN]


def test_an_adapter_is_listed_as_it_is_asked_for() -> None:
    cards = [
        {"id": "m", "parent": None, "max_model_len": 4096},
        {"id": "sql", "root": "/sql", "parent": "m", "max_model_len": None},
    ]
    assert ENGINE.models_of(json.dumps({"data": cards}).encode()) == (
        ModelCard("m", 4096),
        ModelCard("m:sql", 4096),
    )
    for body in (b"", b"{}", b'{"data":{}}', b"[" * 100_000):
        with pytest.raises(ValueError):
            ENGINE.models_of(body)


# --- its own forms


@pytest.mark.parametrize("text_1", ["q", ["q"]])
def test_scores_are_asked_for_in_its_form(text_1: object) -> None:
    call = asked(Operation.SCORE, text_1=text_1, text_2=["a", "b"], label_token_ids=[9])
    assert call.path == "/v1/score"
    assert json.loads(call.body) == {"model": "m", "query": "q", "items": ["a", "b"], "label_token_ids": [9]}


@pytest.mark.parametrize("text_1", [["q", "r"], []])
def test_pairs_of_texts_cannot_be_scored(text_1: list[str]) -> None:
    with pytest.raises(RequestError) as error:
        asked(Operation.SCORE, text_1=text_1, text_2=["a", "b"])
    assert error.value.failure.kind is Kind.UNSUPPORTED


def test_scores() -> None:
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    reply = answered(Operation.SCORE, {"scores": [[0.5, 0.1], [0.25, 0.2]], "model": "m", "usage": usage})
    assert isinstance(reply, Reply) and reply.usage == Usage(9)
    assert json.loads(reply.body) == {
        "object": "list",
        "model": "public",
        "data": [
            {"index": 0, "object": "score", "score": 0.5},
            {"index": 1, "object": "score", "score": 0.25},
        ],
        "usage": usage,
    }


def test_a_ranking() -> None:
    ranked = [
        {"score": 0.9, "document": "b", "index": 1, "meta_info": {"prompt_tokens": 4}},
        {"score": 0.1, "index": 0, "meta_info": None},
    ]
    reply = answered(Operation.RERANK, ranked)
    assert isinstance(reply, Reply) and reply.usage == Usage(4)
    assert json.loads(reply.body) == {
        "model": "public",
        "results": [
            {"index": 1, "document": {"text": "b"}, "relevance_score": 0.9},
            {"index": 0, "relevance_score": 0.1},
        ],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }


def test_detokenizing_leaves_nothing_out() -> None:
    call = asked(Operation.DETOKENIZE, tokens=[1, 2])
    assert json.loads(call.body) == {"model": "m", "tokens": [1, 2], "skip_special_tokens": False}
    own = asked(Operation.DETOKENIZE, tokens=[1], skip_special_tokens=True)
    assert json.loads(own.body)["skip_special_tokens"] is True
    reply = answered(Operation.DETOKENIZE, {"text": "a 🚀"})
    assert isinstance(reply, Reply) and json.loads(reply.body) == {"prompt": "a 🚀"}


@pytest.mark.parametrize("operation", [Operation.RERANK, Operation.SCORE, Operation.DETOKENIZE])
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"null", b'[{"index":"a"}]', b"[" * 100_000, b'{"scores":[]}']
)
def test_what_is_no_such_answer(operation: Operation, body: bytes) -> None:
    reply = answered(operation, body)
    assert isinstance(reply, Failure) and reply.kind is Kind.GARBLED


def test_an_error_in_its_form_of_an_answer() -> None:
    reply = answered(
        Operation.RERANK, {"object": "error", "message": "no", "type": "x", "param": None, "code": 400}
    )
    assert isinstance(reply, Failure) and reply.kind is Kind.REJECTED


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_request_the_server_dropped_is_a_failure(reason: str) -> None:
    whole = {"object": "chat.completion", "model": "m", "choices": [{"index": 0, "finish_reason": reason}]}
    reply = answered(Operation.CHAT, whole)
    assert isinstance(reply, Failure) and reply.kind is Kind.FAILED


# --- failures


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "The following requested LoRA adapters are not loaded: sql\nLoaded adapters: ...", Kind.MISSING),
        (400, ("This model does not appear to be an embedding model by default. Please add `--is-embedding` when "
         "launching the server or try another model."), Kind.UNSUPPORTED),
        (503, "Using priority is disabled for this server. Please send a new request without a priority.",
         Kind.REJECTED),
        (503, "The request queue is full.", Kind.OVERLOADED),
        (400, "The input (9000 tokens) is longer than the model's context length (4096 tokens).", Kind.CONTEXT),
        (400, "Requested token count exceeds the model's maximum context length of 4096 tokens.", Kind.CONTEXT),
        (400, "temperature must be non-negative, got -5.", Kind.REJECTED),
        (404, "Not Found", Kind.UNSUPPORTED),
        (500, "Internal server error: x", Kind.FAILED),
    ],
)  # fmt: skip
def test_failures(status: int, message: str, kind: Kind) -> None:
    flat = {"object": "error", "message": message, "type": "BadRequest", "param": None, "code": status}
    failure = ENGINE.failure(status, (), json.dumps(flat).encode())
    assert (failure.kind, failure.status) == (kind, status)
    if kind is Kind.REJECTED:
        assert failure.message == message
    # The same within a stream that has begun.
    decoder = ENGINE.decoder(Request(Operation.CHAT, b"{}", "m", stream=True), "m")
    decoder.feed(b"data: " + json.dumps({"error": flat}).encode() + b"\n\ndata: [DONE]\n\n")
    assert decoder.failure is not None and decoder.failure.kind is kind


# --- load

LOADS: dict[str, Any] = {
    "version": "0.5.23",
    "loads": [
        {"num_running_reqs": 3, "num_waiting_reqs": 1, "token_usage": 0.25, "max_running_requests": 64},
        {"num_running_reqs": 2, "num_waiting_reqs": 0, "token_usage": 0.75, "max_running_requests": 64},
    ],
}
PAGE = b"""\
sglang:num_running_reqs{dp_rank="0",model_name="m"} 7.0
sglang:num_queue_reqs{dp_rank="0",model_name="m"} 2.0
sglang:token_usage{dp_rank="0",model_name="m"} 0.5
sglang:token_usage{dp_rank="1",model_name="m"} 0.25
sglang:prompt_tokens_total{model_name="m"} 100.0
sglang:cached_tokens_total{cache_source="device",model_name="m"} 20.0
sglang:cached_tokens_total{cache_source="host",model_name="m"} 5.0
"""


def values(*answers: bytes | None) -> dict[Signal, float | None]:
    return {signal: reading.value for signal, reading in ENGINE.signals_of(answers).items()}


def test_loads_are_asked_first() -> None:
    assert ENGINE.signal_calls() == (
        Call("/v1/loads?include=core,lora", method="GET"),
        Call("/metrics", method="GET"),
    )
    loads = json.dumps(LOADS).encode()
    assert values(loads, PAGE) == {
        Signal.RUNNING: 5,
        Signal.WAITING: 1,
        Signal.KV_USE: 0.5,
        Signal.SLOTS: 128,
        Signal.PREFIX_HITS: 0.25,
        Signal.LORAS: None,
    }
    without = ENGINE.signals_of([loads, None])
    assert without[Signal.RUNNING].value == 5 and without[Signal.RUNNING].source == "/v1/loads"
    assert without[Signal.PREFIX_HITS].status is Status.MISSING
    assert "--enable-metrics" in without[Signal.PREFIX_HITS].source


@pytest.mark.parametrize("loads", [None, b"", b"[]", b'{"loads":[]}', b'{"loads":[{}]}', b"[" * 100_000])
def test_without_loads_the_metrics_count(loads: bytes | None) -> None:
    found = values(loads, PAGE)
    assert (found[Signal.RUNNING], found[Signal.WAITING], found[Signal.KV_USE]) == (7, 2, 0.375)


def test_the_other_prefix() -> None:
    page = PAGE.replace(b"sglang:", b"sglang_")
    assert values(None, page) == values(None, PAGE)


def test_adapters_in_use() -> None:
    loads = {
        "loads": [{**LOADS["loads"][0], "lora": {"slots_used": 2, "slots_total": 8, "utilization": 0.25}}]
    }
    assert values(json.dumps(loads).encode(), None)[Signal.LORAS] == 2


def test_a_load_that_cannot_be_is_suspect() -> None:
    loads = {"loads": [{"num_running_reqs": -1, "num_waiting_reqs": 0, "token_usage": 7}]}
    found = ENGINE.signals_of([json.dumps(loads).encode(), None])
    assert found[Signal.RUNNING].status is found[Signal.KV_USE].status is Status.SUSPECT


@pytest.mark.parametrize(
    ("action", "given", "path", "body"),
    [
        (Action.LOAD_LORA, {"name": "a", "path": "/a", "pinned": True}, "/load_lora_adapter",
         {"lora_name": "a", "lora_path": "/a", "pinned": True}),
        (Action.LOAD_LORA, {"name": "a", "path": "/a"}, "/load_lora_adapter", {"lora_name": "a", "lora_path": "/a"}),
        (Action.UNLOAD_LORA, {"name": "a"}, "/unload_lora_adapter", {"lora_name": "a"}),
    ],
)  # fmt: skip
def test_actions(action: Action, given: dict[str, object], path: str, body: object) -> None:
    assert action in ENGINE.actions
    call = ENGINE.action(action, given)
    assert (call.method, call.path, json.loads(call.body)) == ("POST", path, body)
    assert call.then is None


def test_it_is_paused_as_long_as_it_sleeps() -> None:
    sleep, wake = ENGINE.action(Action.SLEEP, {}), ENGINE.action(Action.WAKE, {"tags": ["weights"]})
    assert sleep == Call("/pause_generation", b"{}", then=Call("/release_memory_occupation", b"{}"))
    resume = b'{"tags":["weights"]}'
    assert wake == Call("/resume_memory_occupation", resume, then=Call("/continue_generation", b"{}"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: 0.2",
            "no memory is left for the KV cache: raise 'gpu_memory'",
        ),
        (
            "[2026-11-21 10:00:00 TP0] ValueError: model type x is not supported",
            "ValueError: model type x is not supported",
        ),
        ("Received sigquit from a child process. It usually means the child failed.", None),
    ],
)
def test_why_it_died(line: str, reason: str | None) -> None:
    assert ENGINE.crash_reason(["Received sigquit from a child process.", line]) == reason


# --- what was tried on its server


def heard(operation: Operation, **body: Any) -> dict[str, Any]:
    """Return the body of the engine's request, without what is in each of them."""
    found: dict[str, Any] = json.loads(asked(operation, **body).body)
    assert found.pop("model") == "m"
    return found


def refused(operation: Operation, **body: Any) -> tuple[Kind, str | None]:
    with pytest.raises(RequestError) as error:
        asked(operation, **body)
    return error.value.failure.kind, error.value.failure.param


@pytest.mark.parametrize(
    "operation", [Operation.CHAT, Operation.EMBEDDINGS, Operation.RERANK, Operation.RESPONSES]
)
def test_nulls_are_not_sent(operation: Operation) -> None:
    assert heard(operation, n=None, tools=None, encoding_format=None, input="a") == {"input": "a"}


def test_what_has_no_nulls_keeps_its_bytes() -> None:
    body = b'{"model": "public",  "input": "a"}'
    call = ENGINE.call(Request(Operation.EMBEDDINGS, body, "public"), "public")
    assert call.body is body


ASSISTANT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "The"}]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"min_new_tokens": 3}, {"min_tokens": 3}),
        ({"include_stop_str_in_output": True}, {"no_stop_trim": True}),
        ({"stop": ["", "a"]}, {"stop": ["a"]}),
        ({"stop": ""}, {}),
        ({"seed": 1 << 63}, {"seed": 0}),
        ({"seed": -1}, {"seed": -1}),
        ({"messages": ASSISTANT}, {"messages": ASSISTANT, "continue_final_message": True}),
        (
            {"messages": ASSISTANT, "continue_final_message": False},
            {"messages": ASSISTANT, "continue_final_message": False},
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": "required"},
            {
                "tools": [{"type": "function", "function": {"name": "a", "strict": True}}],
                "tool_choice": "required",
            },
        ),
    ],
)
def test_a_chat_in_its_own_words(sent: dict[str, Any], kept: dict[str, Any]) -> None:
    assert heard(Operation.CHAT, **{"messages": [], **sent}) == {"messages": [], **kept}


@pytest.mark.parametrize(
    ("operation", "sent"),
    [
        (Operation.COMPLETIONS, {"suffix": "a"}),
        (Operation.COMPLETIONS, {"best_of": 2}),
        (Operation.TOKENIZE, {"return_token_strs": True}),
    ],
)
def test_what_it_would_ignore_is_refused_by_name(operation: Operation, sent: dict[str, Any]) -> None:
    assert refused(operation, prompt="a", **sent) == (Kind.UNSUPPORTED, next(iter(sent)))


def test_an_adapter_is_not_asked_for_where_the_bare_model_would_answer() -> None:
    body = b'{"model":"public","input":"a"}'
    with pytest.raises(RequestError) as error:
        ENGINE.call(Request(Operation.RESPONSES, body, "public"), "demo:sql")
    assert error.value.failure.kind is Kind.UNSUPPORTED
    assert ENGINE.call(Request(Operation.RESPONSES, body, "public"), "demo").path == "/v1/responses"


def test_messages_are_not_offered_because_an_abort_looks_like_an_end() -> None:
    assert Operation.MESSAGES not in ENGINE.operations


def test_what_is_wrong_with_a_body_is_told_without_the_servers_files() -> None:
    failure = refusal(ENGINE, "null_n")
    assert (failure.kind, failure.param) == (Kind.REJECTED, "n")
    assert failure.message == "n: Input should be a valid integer"
    failure = refusal(ENGINE, "wrong_type")
    assert failure.kind is Kind.REJECTED and "/usr/" not in failure.message and "File" not in failure.message


def test_an_adapter_that_was_never_loaded_is_a_missing_model() -> None:
    assert refusal(ENGINE, "lora_missing").kind is Kind.MISSING
    words = b'{"message":"LoRA adapter \'x\' was requested, but LoRA is not enabled. Add it."}'
    assert ENGINE.failure(400, (), words).kind is Kind.MISSING


def test_an_adapter_that_cannot_be_loaded_is_told_why() -> None:
    failure = ENGINE.failure(400, (), b'{"success":false,"error_message":"it has another rank"}')
    assert (failure.kind, failure.message) == (Kind.REJECTED, "it has another rank")


def test_the_schedulers_status_stands_in_its_words() -> None:
    failure = refusal(ENGINE, "queue_full_responses")
    assert (failure.kind, failure.status) == (Kind.OVERLOADED, 503)
    failed = b'{"error":{"message":"500: it broke","type":"invalid_request_error","code":400}}'
    assert ENGINE.failure(400, (), failed).kind is Kind.FAILED


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_a_response_that_is_refused_in_its_stream(size: int) -> None:
    response = recorded_request(Operation.RESPONSES, input="a", stream=True)
    _, decoder = played(ENGINE, response, "responses_overflow_stream", size)
    assert decoder.failure is not None and decoder.failure.kind is Kind.CONTEXT
    assert "context length" in decoder.failure.message
    _, decoder = played(ENGINE, response, "responses_error_first_stream", size)
    assert decoder.failure is not None and decoder.failure.kind is Kind.FAILED


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_only_the_first_tool_call_where_the_client_wants_one(size: int) -> None:
    one = recorded_request(Operation.CHAT, messages=[], parallel_tool_calls=False, stream=True)
    out, decoder = played(ENGINE, one, "tools_two_stream", size)
    assert decoder.finished and b'"get_port"' in out and b'"weather"' not in out
    both = recorded_request(Operation.CHAT, messages=[], parallel_tool_calls=True, stream=True)
    assert b'"weather"' in played(ENGINE, both, "tools_two_stream", size)[0]
    whole = recorded_request(Operation.CHAT, messages=[], parallel_tool_calls=False)
    reply = ENGINE.reply(whole, "m", (), recorded("sglang", "tools_parallel_false").answer)
    assert isinstance(reply, Reply)
    (call,) = json.loads(reply.body)["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_port"


def test_no_hit_yet_is_no_missing_signal() -> None:
    page = b'sglang:prompt_tokens_total{model_name="m"} 0.0\n'
    reading = ENGINE.signals_of([None, page])[Signal.PREFIX_HITS]
    assert (reading.status, reading.value) == (Status.OK, 0.0)
    assert ENGINE.signals_of([None, b""])[Signal.PREFIX_HITS].status is Status.MISSING


def test_health_is_asked_again_only_where_the_first_answer_may_be_out_of_date() -> None:
    assert ENGINE.health_again(503) == Call("/health", method="GET")
    assert ENGINE.health_again(200) is ENGINE.health_again(404) is None
