"""The llama-cpp-python engine: what it is sent, what its answers mean, and how it is launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.base import Kind, LaunchError, Operation, Reply, Request, RequestError
from backends.engines.llama_cpp_python.engine import TOO_LONG, LlamaCppPython
from backends.engines.llama_cpp_python.launch import LlamaCppPythonLaunch

ENGINE = LlamaCppPython()
TOOL = {"type": "function", "function": {"name": "get_port", "parameters": {}}}


def request(operation: Operation = Operation.CHAT, *, stream: bool | None = False, **body: Any) -> Request:
    nothing = {"stream": None} if stream is None else {}
    sent = json.dumps({"model": "public", **nothing, **body}).encode()
    return Request(operation, sent, "public", bool(stream))


def sent(operation: Operation = Operation.CHAT, **body: Any) -> Any:
    return json.loads(ENGINE.call(request(operation, **body), "demo").body)


def refused(operation: Operation = Operation.CHAT, **body: Any) -> tuple[Kind, str | None]:
    with pytest.raises(RequestError) as caught:
        ENGINE.call(request(operation, **body), "demo")
    return caught.value.failure.kind, caught.value.failure.param


def answer(operation: Operation, body: Any) -> Any:
    reply = ENGINE.reply(request(operation), "demo", (), json.dumps(body).encode())
    assert isinstance(reply, Reply)
    return json.loads(reply.body)


def test_newer_fields_in_older_words() -> None:
    schema = {"type": "object"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert sent(max_completion_tokens=5, response_format=form) == {
        "model": "demo",
        "max_tokens": 5,
        "response_format": {"type": "json_object", "schema": schema},
    }
    assert sent(max_tokens=5) == {"model": "demo", "max_tokens": 5}


def test_the_only_tool_is_named_where_one_must_be_called() -> None:
    named = {"type": "function", "function": {"name": "get_port"}}
    assert sent(tools=[TOOL], tool_choice="required")["tool_choice"] == named
    assert sent(tools=[TOOL], tool_choice="auto")["tool_choice"] == "auto"
    assert refused(tools=[TOOL, TOOL], tool_choice="required") == (Kind.UNSUPPORTED, "tool_choice")


def test_nulls_and_the_role_developer_are_not_sent() -> None:
    """The engine refuses both."""
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "developer"}]
    found = sent(messages=messages, top_p=None, stream=None)
    assert found == {"model": "demo", "messages": [{**messages[0], "role": "system"}, messages[1]]}


@pytest.mark.parametrize(("arguments", "reason"), [('{"a": 1}', "tool_calls"), ('{"a": ', "length")])
def test_a_call_that_the_limit_cut_says_so(arguments: str, reason: str) -> None:
    """The engine calls it complete."""
    function = {"name": "get_port", "arguments": arguments}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    decoder = ENGINE.decoder(request(stream=True), "demo")
    out = decoder.feed(chunk({"content": None, "tool_calls": [call]})) + decoder.feed(chunk({}, "tool_calls"))
    out += decoder.feed(b"data: [DONE]\n\n")
    assert b'"finish_reason": "%b"' % reason.encode() in out and decoder.finished
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    body = json.dumps({"model": "demo", "choices": [choice]}, separators=(",", ":")).encode()
    reply = ENGINE.reply(request(), "demo", (), body)
    assert isinstance(reply, Reply) and json.loads(reply.body)["choices"][0]["finish_reason"] == reason


def test_what_it_does_not_do_is_refused() -> None:
    assert refused(n=2) == (Kind.UNSUPPORTED, "n")
    assert refused(Operation.COMPLETIONS, prompt=["a", "b"]) == (Kind.UNSUPPORTED, "prompt")
    assert refused(Operation.TOKENIZE, messages=[]) == (Kind.UNSUPPORTED, "messages")
    assert refused(tools=7, max_completion_tokens=1) == (Kind.REJECTED, "tools")
    assert sent(Operation.COMPLETIONS, prompt=["a"])["prompt"] == ["a"]


def test_tokens_both_ways() -> None:
    assert ENGINE.call(request(Operation.TOKENIZE, prompt="Hi"), "demo").path == "/extras/tokenize"
    assert sent(Operation.TOKENIZE, prompt="Hi") == {"input": "Hi"}
    assert answer(Operation.TOKENIZE, {"tokens": [1, 2]}) == {"count": 2, "tokens": [1, 2]}
    assert answer(Operation.DETOKENIZE, {"text": "Hi"}) == {"prompt": "Hi"}


def test_vectors_of_tokens_become_one() -> None:
    item = {"object": "embedding", "index": 0, "embedding": [[1.0, 2.0], [3.0, 4.0]]}
    told = answer(Operation.EMBEDDINGS, {"object": "list", "model": "demo", "data": [item]})
    assert told["data"] == [{"object": "embedding", "index": 0, "embedding": [2.0, 3.0]}]
    assert told["model"] == "public"


def test_a_vector_of_the_text_passes() -> None:
    item = {"object": "embedding", "index": 0, "embedding": [1.0, 2.0]}
    assert answer(Operation.EMBEDDINGS, {"model": "demo", "data": [item]})["data"] == [item]


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (500, "2 validation errors:\n  {'type': 'string_type'}", Kind.REJECTED),
        (500, "Llama model must be created with embedding=True to call this method", Kind.REJECTED),
        (500, "llama_decode returned -3", Kind.FAILED),
    ],
)
def test_mistakes_of_clients_are_told_apart(status: int, message: str, kind: Kind) -> None:
    body = {"error": {"message": message, "type": "internal_server_error", "param": None, "code": None}}
    failure = ENGINE.failure(status, (), json.dumps(body).encode())
    assert failure.kind is kind
    assert "string_type" not in failure.message


def test_a_stream_that_ends_before_it_began() -> None:
    decoder = ENGINE.decoder(request(stream=True), "demo")
    assert decoder.close() == b""
    assert decoder.failure is not None
    assert (decoder.failure.kind, decoder.failure.message) == (Kind.REJECTED, TOO_LONG)


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "finish_reason": reason, "delta": delta}
    return b"data: %s\n\n" % json.dumps({"model": "demo", "choices": [choice]}).encode()


def test_a_stream_that_breaks_later_is_a_failure() -> None:
    decoder = ENGINE.decoder(request(stream=True), "demo")
    decoder.feed(chunk({"content": "It"}))
    decoder.close()
    assert decoder.failure is not None and decoder.failure.kind is Kind.RESET


def test_a_tool_is_named_once() -> None:
    decoder = ENGINE.decoder(request(stream=True), "demo")
    out = b""
    for arguments in ("{", "}"):
        function = {"name": "get_port", "arguments": arguments}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        out += decoder.feed(chunk({"content": None, "function_call": function, "tool_calls": [call]}))
    out += decoder.feed(chunk({}, "tool_calls"))
    events = [json.loads(event.removeprefix("data: ")) for event in out.decode().split("\n\n") if event]
    calls = [event["choices"][0]["delta"]["tool_calls"][0] for event in events[:2]]
    assert calls[0]["id"] == "call_1" and calls[0]["function"] == {"name": "get_port", "arguments": "{"}
    assert calls[1] == {"index": 0, "function": {"arguments": "}"}}
    assert decoder.finished and decoder.content == 2


def test_one_at_a_time_and_no_request_ids() -> None:
    assert ENGINE.parallel == 1
    assert not ENGINE.request_ids


def test_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    model = tmp_path / "small.gguf"
    model.write_bytes(b"GGUF")
    options = LlamaCppPythonLaunch(model=model, max_model_len=512, embeddings=True, prompt_lookup=4)
    launch = options.launch("127.0.0.1", 4321)
    assert " ".join(launch.argv) == (
        f"{program} -m llama_cpp.server --model {model} --model_alias small --host 127.0.0.1 --port 4321 "
        "--interrupt_requests false --verbose false --n_ctx 512 --draft_model_num_pred_tokens 4 "
        "--embedding true --draft_model prompt-lookup-decoding"
    )
    assert launch.env == {"HOST": "127.0.0.1", "PORT": "4321"}
    assert launch.key_env == "API_KEY"
    assert options.served_names() == ("small",)


def test_a_missing_file_is_told_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="there is no file"):
        LlamaCppPythonLaunch(model=tmp_path / "no.gguf").launch("127.0.0.1", 4321)


def test_why_it_died() -> None:
    assert ENGINE.crash_reason(["ValueError: Failed to load model from file: LICENSE"]) == (
        "cannot load LICENSE: it is no model that llama.cpp can read"
    )
