"""The llama.cpp engine: options, command lines, and the meaning of its answers and its log. No process is started."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from backends.base import (
    NATIVE,
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
from backends.engines.llamacpp.engine import LlamaCpp
from backends.engines.llamacpp.launch import RUNNER, LlamaCppLaunch
from gateway.config.section import validate

RECORDINGS = Path(__file__).parent.parent / "recordings" / "llamacpp"
ENGINE = LlamaCpp()


def recorded(name: str) -> tuple[int, tuple[tuple[bytes, bytes], ...], bytes]:
    """Return status, headers and body of a recorded answer."""
    _, _, answer = (RECORDINGS / f"{name}.http").read_bytes().partition(b"\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = ((key.lower(), value.strip()) for key, _, value in (line.partition(b":") for line in lines))
    return int(status.split()[1]), tuple(headers), body


def options(**given: object) -> LlamaCppLaunch:
    """Read options as the config file does: as JSON, strictly."""
    return validate(LlamaCppLaunch, given)


def launch(**given: object) -> Launch:
    return options(**given).launch("127.0.0.1", 4321)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Provide a file that begins like a model."""
    path = tmp_path / "small-chat.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100))
    return str(path)


@pytest.fixture
def llama_server(tmp_path: Path) -> str:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return str(program)


def test_health() -> None:
    assert ENGINE.health() == Call("/health", method="GET")
    for name, health in (
        ("health", Health.READY),
        ("loading", Health.LOADING),
        ("error_bad_json", Health.DOWN),
    ):
        status, _, body = recorded(name)
        assert ENGINE.health_of(status, body) is health
    assert ENGINE.health_of(503, b"upstream connect error") is Health.DOWN
    assert ENGINE.health_of(503, b'{"error":"busy"}') is Health.DOWN


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("error_context", Kind.CONTEXT),
        ("error_embeddings_too_large", Kind.CONTEXT),
        ("error_embeddings_off", Kind.UNSUPPORTED),
        ("error_bad_json", Kind.REJECTED),
        ("error_no_messages", Kind.REJECTED),
        ("error_detokenize", Kind.REJECTED),
        ("error_infill", Kind.UNSUPPORTED),
        ("error_rerank_off", Kind.UNSUPPORTED),
        ("loading", Kind.LOADING),
    ],
)
def test_failures(name: str, kind: Kind) -> None:
    status, headers, body = recorded(name)
    failure = ENGINE.failure(status, headers, body)
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.message


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error":3}', b"[" * 100_000])
def test_a_failure_without_its_type_is_read_by_its_status(body: bytes) -> None:
    assert ENGINE.failure(500, (), body).kind is Kind.FAILED
    assert ENGINE.failure(503, (), body).kind is Kind.OVERLOADED


def test_an_internal_error_stays_the_engines_fault() -> None:
    body = b'{"error":{"code":500,"message":"failed to decode","type":"server_error"}}'
    assert ENGINE.failure(500, (), body).kind is Kind.FAILED


@pytest.mark.parametrize(
    "said", ["Failed to parse tools: Missing tool type", "image input is not supported - hint: x"]
)
def test_a_clients_mistake_that_comes_as_500_is_the_clients(said: str) -> None:
    body = b'{"error":{"code":500,"message":"%b","type":"server_error"}}' % said.encode()
    failure = ENGINE.failure(500, (), body)
    assert (failure.kind, failure.message) == (Kind.REJECTED, said)


def test_models() -> None:
    assert ENGINE.models_of(recorded("models")[2]) == (ModelCard("demo", 2048),)
    assert ENGINE.models_of(b'{"data":[{"id":"a"}]}') == (ModelCard("a"),)
    for body in (b"", b"{}", b'{"data":{}}', b"[" * 100_000):
        with pytest.raises(ValueError):
            ENGINE.models_of(body)


@pytest.mark.parametrize(
    ("name", "operation", "tokens"),
    [
        ("chat", Operation.CHAT, (16, 24)),
        ("completions", Operation.COMPLETIONS, None),
        ("embeddings", Operation.EMBEDDINGS, None),
    ],
)
def test_answers_pass_unchanged(name: str, operation: Operation, tokens: tuple[int, int] | None) -> None:
    _, headers, body = recorded(name)
    reply = ENGINE.reply(Request(operation, b"{}", "demo"), "demo", headers, body)
    assert not isinstance(reply, Failure)
    assert isinstance(reply, Reply) and reply.body == body and reply.usage is not None
    assert reply.usage.input > 0
    if tokens:
        assert (reply.usage.input, reply.usage.output) == tokens


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_a_stream_passes_unchanged(size: int) -> None:
    _, _, body = recorded("chat_stream")
    request = Request(Operation.CHAT, b"{}", "demo", stream=True, stream_options=True, include_usage=True)
    decoder = ENGINE.decoder(request, "demo")
    sent = b"".join(decoder.feed(body[at : at + size]) for at in range(0, len(body), size)) + decoder.close()
    assert sent == body
    assert decoder.finished and decoder.failure is None and decoder.usage is not None
    assert decoder.content == decoder.usage.output == 24


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"prompt": "hi"}, {"content": "hi", "add_special": True, "with_pieces": False}),
        (
            {"prompt": "", "add_special_tokens": False, "return_token_strs": True, "x": 1},
            {"content": "", "add_special": False, "with_pieces": True},
        ),
        (
            {"prompt": "hi", "add_special_tokens": None},
            {"content": "hi", "add_special": True, "with_pieces": False},
        ),
    ],
)
def test_tokens_are_asked_for_in_its_words(asked: dict[str, object], sent: dict[str, object]) -> None:
    body = json.dumps({"model": "m", **asked}).encode()
    call = ENGINE.call(Request(Operation.TOKENIZE, body, "m"), "demo")
    assert (call.path, json.loads(call.body)) == ("/tokenize", sent)


def test_tokens_of_messages_it_does_not_know() -> None:
    with pytest.raises(RequestError) as error:
        ENGINE.call(Request(Operation.TOKENIZE, b'{"model":"m","messages":[{}]}', "m"), "demo")
    assert (error.value.failure.kind, error.value.failure.param) == (Kind.UNSUPPORTED, "messages")


@pytest.mark.parametrize(
    ("name", "operation", "said"),
    [
        ("tokenize", Operation.TOKENIZE, {"count": 7, "tokens": [262, 1222, 284, 130, 117, 84, 432]}),
        (
            "tokenize_pieces",
            Operation.TOKENIZE,
            {
                "count": 7,
                "tokens": [262, 1222, 284, 130, 117, 84, 432],
                "token_strs": ["he", "llo", " w", "\ufffd", "\ufffd", "r", "ld"],
            },
        ),
        ("detokenize", Operation.DETOKENIZE, {"prompt": "hello"}),
    ],
)
def test_tokens_are_told_in_the_clients_words(name: str, operation: Operation, said: object) -> None:
    _, headers, body = recorded(name)
    reply = ENGINE.reply(Request(operation, b"{}", "m"), "demo", headers, body)
    assert isinstance(reply, Reply) and json.loads(reply.body) == said


@pytest.mark.parametrize("operation", [Operation.TOKENIZE, Operation.DETOKENIZE])
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"tokens":["a"]}', b'{"content":5}', b"[" * 100_000])
def test_other_answers_are_garbled(operation: Operation, body: bytes) -> None:
    failure = ENGINE.reply(Request(operation, b"{}", "m"), "demo", (), body)
    assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED


@pytest.mark.parametrize(
    ("name", "operation", "usage"),
    [
        ("rerank", Operation.RERANK, Usage(8)),
        ("messages", Operation.MESSAGES, Usage(16, 8, 15)),
    ],
)
def test_other_operations_pass_unchanged(name: str, operation: Operation, usage: Usage) -> None:
    _, headers, body = recorded(name)
    reply = ENGINE.reply(Request(operation, b"{}", "demo"), "demo", headers, body)
    assert isinstance(reply, Reply) and reply.body == body
    assert reply.usage is not None
    assert (reply.usage.input, reply.usage.output) == (usage.input, usage.output)


def test_operations_are_those_it_has() -> None:
    missing = {Operation.SCORE, Operation.TRANSLATIONS, Operation.SPEECH, Operation.IMAGES}
    missing |= {Operation.IMAGE_EDITS, Operation.IMAGE_VARIATIONS, Operation.REALTIME}
    assert NATIVE - LlamaCpp.operations == missing


def test_what_is_generated_is_asked_for_as_a_stream() -> None:
    """Otherwise llama.cpp would not notice that the client has left."""
    call = ENGINE.call(Request(Operation.RESPONSES, b'{"model":"m","input":"hi"}', "m"), "demo")
    assert call == Call("/v1/responses", b'{"stream":true,"model":"demo","input":"hi"}')
    body = b'{"model":"m","query":"q"}'
    assert ENGINE.call(Request(Operation.RERANK, body, "m"), "demo").body == b'{"model":"demo","query":"q"}'


SIGNALS = ("metrics", "slots", "lora_adapters")


def test_signals() -> None:
    assert [call.path for call in ENGINE.signal_calls()] == ["/metrics", "/slots", "/lora-adapters"]
    signals = ENGINE.signals_of([recorded(name)[2] for name in SIGNALS])
    assert {signal: (reading.status, reading.value) for signal, reading in signals.items()} == {
        Signal.RUNNING: (Status.OK, 2),
        Signal.WAITING: (Status.OK, 1),
        Signal.SLOTS: (Status.OK, 2),
        Signal.KV_USE: (Status.OK, (16 + 18) / 4096),
        Signal.PREFIX_HITS: (Status.OK, 75 / (75 + 23)),
        Signal.LORAS: (Status.OK, 0),
    }


def test_adapters_in_use_are_named() -> None:
    said = b'[{"id":0,"path":"/m/sql.gguf","scale":1.0},{"id":1,"path":"fr.gguf","scale":0.0}]'
    reading = ENGINE.signals_of([None, None, said])[Signal.LORAS]
    assert (reading.value, reading.names) == (1, ("sql",))


@pytest.mark.parametrize("answer", [None, b"", b"{}", b"[{}]", b'{"error":{"code":501}}', b"[" * 100_000])
def test_signals_that_are_not_told_are_missing(answer: bytes | None) -> None:
    signals = ENGINE.signals_of([answer] * 3)
    assert len(signals) == 6
    for reading in signals.values():
        assert (reading.status, reading.value) == (Status.MISSING, None)
        assert reading.source


def test_a_slot_beyond_its_context_is_suspect() -> None:
    slots = b'[{"n_ctx":10,"is_processing":true,"n_prompt_tokens":11}]'
    assert ENGINE.signals_of([None, slots, None])[Signal.KV_USE].status is Status.SUSPECT
    assert ENGINE.signals_of([None, b"[]", None])[Signal.KV_USE].status is Status.MISSING


def test_the_smallest_options(model: str) -> None:
    plain = options(model=model)
    assert plain.served_names() == ("small-chat",)
    launched = launch(model=model)
    assert launched.argv == (
        *(sys.executable, "-P", str(RUNNER), f"--model={model}", "--name=small-chat"),
        *("--host", "127.0.0.1", "--port", "4321", "--parallel", "4", "--verbosity", "1", "--"),
    )
    assert launched.env == {"GGML_NO_BACKTRACE": "1"}
    assert launched.start_timeout == 300


def test_every_option_reaches_the_runner(model: str, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    given = {
        "model": model,
        "name": "team/chat:1",
        "context": 1024,
        "parallel": 2,
        "threads": 3,
        "gpu_layers": 0,
        "prompt_cache": "512MiB",
        "chat_template": str(template),
        "lora": [model],
        "embeddings": True,
        "extra_args": ["--n-batch", "64"],
        "env": {"A": "b", "GGML_NO_BACKTRACE": "0"},
        "start_timeout": "1m30s",
        "log_level": "debug",
    }
    launched = launch(**given)
    assert options(**given).served_names() == ("team/chat:1",)
    assert " ".join(launched.argv[5:]) == (
        "--host 127.0.0.1 --port 4321 --parallel 2 --verbosity 5 --context 2048 --threads 3 --gpu-layers 0 "
        f"--prompt-cache 512 --chat-template-file={template} --lora={model} --embeddings --ubatch 1024 "
        "--pooling mean -- --n-batch 64"
    )
    assert launched.env == {"A": "b", "GGML_NO_BACKTRACE": "0"}
    assert launched.start_timeout == 90


def test_every_option_reaches_a_llama_server(model: str, llama_server: str) -> None:
    launched = launch(
        model=model,
        runtime=llama_server,
        context=4096,
        parallel=2,
        threads=3,
        gpu_layers=99,
        prompt_cache=False,
        chat_template="chatml",
        lora=[model],
        embeddings=True,
        pooling="last",
        extra_args=["--cache-reuse", "256"],
    )
    assert " ".join(launched.argv) == (
        f"{llama_server} -m {model} -a small-chat --host 127.0.0.1 --port 4321 -np 2 --metrics --slots -c 8192 -t 3 "
        "-ngl 99 --cache-ram 0 "
        f"--chat-template chatml --lora {model} --embeddings -b 2048 -ub 2048 --pooling last --cache-reuse 256"
    )
    assert launched.env["LLAMA_ARG_LOG_VERBOSITY"] == "1"


def test_a_reranker(model: str, llama_server: str) -> None:
    assert " ".join(launch(model=model, rerank=True).argv[9:]) == (
        "--parallel 4 --verbosity 1 --embeddings --ubatch 2048 --pooling rank --"
    )
    assert " ".join(launch(model=model, rerank=True, runtime=llama_server).argv[11:]) == (
        "--metrics --slots --rerank -b 2048 -ub 2048"
    )
    for other in ({"embeddings": True}, {"pooling": "mean"}):
        with pytest.raises(ValidationError, match="goes with neither"):
            options(model=model, rerank=True, **other)


def test_a_model_keeps_its_own_pooling(model: str) -> None:
    with Path(model).open("ab") as file:
        file.write(b"\x11\0\0\0\0\0\0\0bert.pooling_type\x04\0\0\0\x02\0\0\0")
    assert "--pooling" not in launch(model=model, embeddings=True).argv
    assert launch(model=model, embeddings=True, pooling="cls").argv[-2] == "cls"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no model file"),
        (b"", "is not in GGUF format, it is empty: download it again"),
        (b"<!DOCTYPE html>", "is not in GGUF format, it begins with b'<!DOCTYP': download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is only a Git LFS pointer: run `git lfs pull`"),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "m.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LaunchError) as error:
        launch(model=str(path))
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_else_cannot_start(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, words in (
        ({"model": str(tmp_path)}, "Is a directory"),
        ({"model": model, "lora": [str(tmp_path / "none.gguf")]}, "there is no LoRA adapter file"),
        ({"model": model, "chat_template": "llama3"}, "there is no chat template file llama3"),
        ({"model": model, "runtime": "no-such-llama-server"}, "there is no program no-such-llama-server"),
    ):
        with pytest.raises(LaunchError, match=words):
            launch(**given)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LaunchError, match=f"none.gguf \\(in {tmp_path}\\)"):
        launch(model="none.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LaunchError, match="xllamacpp is not installed: pip install"):
        launch(model=model)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"model": "a.gguf", "modell": "b.gguf"},
        {"model": "a b.gguf"},
        {"model": "a.gguf", "name": "two words"},
        {"model": "a.gguf", "context": 0},
        {"model": "a.gguf", "parallel": "4"},
        {"model": "a.gguf", "parallel": 1000},
        {"model": "a.gguf", "start_timeout": 30},
        {"model": "a.gguf", "log_level": "loud"},
        {"model": "a.gguf", "embeddings": "yes"},
        {"model": "a.gguf", "pooling": "max"},
        {"model": "a.gguf", "runtime": ""},
        {"model": "a.gguf", "env": {"A": 1}},
    ],
)
def test_options_that_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        options(**given)


def test_every_option_is_described() -> None:
    assert all(field.description for field in LlamaCppLaunch.model_fields.values())


TRUNCATED = """\
0.00.003.984 E llama_model_load: error loading model: tensor 'a', model is corrupted or incomplete
0.00.004.001 E llama_model_load_from_file_impl: failed to load model
0.00.004.148 E cmn  common_init_: failed to load model 'models/x.gguf'
0.00.004.148 E srv    load_model: failed to load model, 'models/x.gguf'
0.00.004.444 E srv          init: exiting due to model loading error"""
TEMPLATE = """\
0.00.046.624 E common_chat_templates_init: error: Unknown statement: broken
0.00.046.671 E common_chat_templates_init: failed to initialize chat template
0.00.047.608 E srv          init: exiting due to model loading error"""
UNKNOWN = """\
0.00.000.001 I srv  init: initializing
0.00.000.002 E srv  init: something new went wrong
0.00.000.003 E srv  init: and so this failed as well"""
PORT = """\
0.00.002.493 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 18803
0.00.002.702 E srv          init: exiting due to HTTP server error"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            TRUNCATED,
            "cannot load models/x.gguf: tensor 'a', model is corrupted or incomplete; download it again",
        ),
        (TEMPLATE, "the chat template is not valid: Unknown statement: broken"),
        (PORT, "its port was taken by another program"),
        (UNKNOWN, "srv  init: something new went wrong"),
        (
            "llamacpp_runner: extra_args: llama.cpp has no parameter 'x'",
            "extra_args: llama.cpp has no parameter 'x'",
        ),
        ("/src/ggml.c:12: GGML_ASSERT(n > 0) failed", "llama.cpp gave up: GGML_ASSERT(n > 0) failed"),
        ("error: invalid argument: --nonsense", "invalid argument: --nonsense"),
        ("ggml_backend_cuda_buffer: CUDA error: out of memory", "CUDA error: out of memory"),
        ("0.00.000.001 I srv  init: initializing", None),
        ("", None),
    ],
)
def test_why_it_died(log: str, reason: str | None) -> None:
    assert ENGINE.crash_reason(log.splitlines()) == reason


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("0.00.000.230 I srv          init: initializing ...", logging.INFO),
        ("0.00.002.013 W srv          init: security: no API key is set", logging.WARNING),
        ("0.00.002.013 D srv          init: detail", logging.DEBUG),
        ("0.01.002.013 E srv    update_slots: failed to decode", logging.ERROR),
        ("0.01.002.013 E srv    send_error: task id = 0, error: too large", logging.DEBUG),
        ("Traceback (most recent call last):", logging.INFO),
        (TRUNCATED.splitlines()[0], logging.DEBUG),
    ],
)
def test_how_serious_a_line_is(line: str, level: int) -> None:
    assert ENGINE.log_level(line) == level
