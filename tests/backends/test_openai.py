"""The base of OpenAI-compatible engines, without streams: requests, whole answers, errors, health, model lists."""

import json

import pytest

from backends.base import Call, Failure, Health, Kind, ModelCard, Operation, Reply, Request, Usage
from backends.dialect import reasons
from backends.engines.openai import OpenAI

ENGINE = OpenAI()


def request(operation: Operation = Operation.CHAT, model: str = "public") -> Request:
    return Request(operation, json.dumps({"model": model, "x": 1}, separators=(",", ":")).encode(), model)


def answer(body: bytes, operation: Operation = Operation.CHAT, model: str = "public") -> Reply | Failure:
    return ENGINE.reply(request(operation, model), "private", (), body)


def accepted(body: bytes, operation: Operation = Operation.CHAT, model: str = "public") -> Reply:
    reply = answer(body, operation, model)
    assert isinstance(reply, Reply), reply
    return reply


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (Operation.CHAT, "/v1/chat/completions"),
        (Operation.COMPLETIONS, "/v1/completions"),
        (Operation.EMBEDDINGS, "/v1/embeddings"),
    ],
)
def test_a_call_is_the_clients_body_under_the_backends_name(operation: Operation, path: str) -> None:
    assert ENGINE.call(request(operation), "private") == Call(path, b'{"model":"private","x":1}')


CHAT = (
    b'{"id":"x","model":"private","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}'
)
TEXT = b'{"model":"private","choices":[{"text":"hi","index":0,"finish_reason":"length"}]}'
VECTORS = b'{"data":[{"embedding":[0.1,-2e-3],"index":0}],"model":"private","usage":{"prompt_tokens":3}}'


@pytest.mark.parametrize(
    ("operation", "body"),
    [(Operation.CHAT, CHAT), (Operation.COMPLETIONS, TEXT), (Operation.EMBEDDINGS, VECTORS)],
)
def test_an_answer_keeps_its_bytes_but_for_the_name(operation: Operation, body: bytes) -> None:
    assert accepted(body, operation).body == body.replace(b'"private"', b'"public"')
    assert accepted(body, operation, model="private").body is body


@pytest.mark.parametrize("name", ['a"b', "org/model:7b", "模型", "\\"])
def test_public_names_of_any_characters(name: str) -> None:
    assert json.loads(accepted(CHAT, model=name).body)["model"] == name


def test_text_that_imitates_the_protocol_changes_nothing() -> None:
    text = '"model":"private","error":{"message":"x"},"usage":{"prompt_tokens":9}'
    said = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "model": "private"}
    reply = accepted(json.dumps(said, separators=(",", ":")).encode())
    assert json.loads(reply.body) == said | {"model": "public"}
    assert reply.usage is None


USAGES = {
    '{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}': Usage(3, 5),
    '{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":2}}': Usage(3, 5, 2),
    '{"prompt_tokens":3,"prompt_tokens_details":null,"completion_tokens":null}': Usage(3),
    '{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":null}}': Usage(3),
    '{"prompt_tokens":-3,"completion_tokens":-1,"prompt_tokens_details":{"cached_tokens":-1}}': Usage(),
    '{"prompt_tokens":3,"seconds":{"a":[1.5]}}': Usage(3),
    "null": None,
    "{}": None,
    "[]": None,
    "5": None,
    '"many"': None,
    '{"prompt_tokens":"3"}': None,
    '{"prompt_tokens":3.5}': None,
    '{"prompt_tokens":true}': None,
    '{"prompt_tokens":"3","completion_tokens":5,"prompt_tokens_details":[2]}': Usage(0, 5),
}


@pytest.mark.parametrize(("said", "usage"), USAGES.items(), ids=[said[:40] for said in USAGES])
def test_usage_is_read_and_never_spoils_an_answer(said: str, usage: Usage | None) -> None:
    assert accepted(CHAT[:-1] + b',"usage":' + said.encode() + b"}").usage == usage


GARBLED = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a string": b'"error"',
    "a page": b"<!DOCTYPE html><html>Welcome to nginx</html>",
    "a stream": b"data: {}\n\ndata: [DONE]\n\n",
    "cut off": CHAT[:-10],
    "two": CHAT + CHAT,
    "an empty object": b"{}",
    "no choices": b'{"id":"x","model":"private"}',
    "null choices": b'{"choices":null}',
    "empty choices": b'{"choices":[]}',
    "choices that are none": b'{"choices":5}',
    "choices of nulls": b'{"choices":[null]}',
    "NaN": b'{"choices":[{"logprobs":NaN}]}',
    "nested too deep": b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested too deep beside": b'{"x":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001,
    "a number beyond all bounds": CHAT[:-1] + b',"usage":{"prompt_tokens":' + b"9" * 5000 + b"}}",
    "not UTF-8": b'{"choices":[{"finish_reason":"\xff"}]}',
    "UTF-16": CHAT.decode().encode("utf-16"),
}


@pytest.mark.parametrize("body", GARBLED.values(), ids=GARBLED.keys())
@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS])
def test_what_is_no_answer_is_garbled(operation: Operation, body: bytes) -> None:
    failure = answer(body, operation)
    assert isinstance(failure, Failure)
    assert failure.kind is Kind.GARBLED
    assert failure.message.startswith("the engine's reply ")
    assert "nginx" not in failure.message
    assert len(failure.detail) < 500 and failure.detail.isprintable()


@pytest.mark.parametrize("body", [CHAT, b'{"data":null}', b'{"data":[]}', b'{"model":"private"}', b"[]"])
def test_an_answer_without_vectors_is_garbled(body: bytes) -> None:
    failure = answer(body, Operation.EMBEDDINGS)
    assert isinstance(failure, Failure)
    assert failure.kind is Kind.GARBLED


ERRORS = {
    "nested": b'{"error":{"message":"m","type":"t","code":503}}',
    "flat": b'{"object":"error","message":"m","code":503}',
    "a string": b'{"error":"generate expects model to produce exactly 1 response"}',
    "beside an answer": CHAT[:-1] + b',"error":{"message":"m","code":503}}',
}


@pytest.mark.parametrize("body", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("operation", list(Operation))
def test_an_error_under_status_200_is_an_error(operation: Operation, body: bytes) -> None:
    failure = answer(body, operation)
    assert isinstance(failure, Failure)
    assert failure.kind is (Kind.OVERLOADED if b"503" in body else Kind.FAILED)


@pytest.mark.parametrize("nothing", [b"null", b"{}", b'""', b"[]"])
def test_an_empty_error_is_none(nothing: bytes) -> None:
    accepted(CHAT[:-1] + b',"error":' + nothing + b"}")


def test_an_answer_the_engine_broke_off_is_a_failure() -> None:
    failure = answer(CHAT.replace(b'"stop"', b'"error"'))
    assert isinstance(failure, Failure)
    assert failure.kind is Kind.FAILED


@pytest.mark.parametrize("reason", [b'"length"', b'"function_call"', b'"tool_calls"', b'"content_filter"'])
def test_other_ways_to_finish_are_answers(reason: bytes) -> None:
    said = CHAT.replace(b'"stop"', reason)
    assert accepted(said, model="private").body is said


@pytest.mark.parametrize("reason", [b"null", b'""', b'"null"', b'"abort"', b'"cancelled"', b'"who knows"'])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_a_known_end_was_broken_off(reason: bytes, stream: bool) -> None:
    failure = ENGINE.reply(
        Request(Operation.CHAT, b"{}", "m", stream=stream), "m", (), CHAT.replace(b'"stop"', reason)
    )
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message) == (Kind.FAILED, reasons.BROKE_OFF)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("eos", "stop"),
        ("EOS_TOKEN", "stop"),
        ("Stop", "stop"),
        ("repetition", "length"),
        ("MAX_TOKENS", "length"),
        ("tool_use", "tool_calls"),
        ("safety", "content_filter"),
    ],
)
def test_other_words_become_one_of_the_five(said: str, told: str) -> None:
    told_of = accepted(CHAT.replace(b'"stop"', json.dumps(said).encode()), model="private")
    assert json.loads(told_of.body) == json.loads(CHAT.replace(b'"stop"', json.dumps(told).encode()))


def test_an_answer_with_fewer_choices_than_were_asked_for_is_not_what_the_engine_can() -> None:
    two = Request(Operation.CHAT, b"{}", "m", choices=2)
    failure = ENGINE.reply(two, "m", (), CHAT)
    assert isinstance(failure, Failure) and (failure.kind, failure.param) == (Kind.UNSUPPORTED, "n")
    for prompt, enough in ((["a", "b"], False), ([["a"]], True), ([1, 2], True), ("a", True)):
        body = json.dumps({"model": "m", "prompt": prompt}).encode()
        found = ENGINE.reply(Request(Operation.COMPLETIONS, body, "m"), "m", (), CHAT)
        assert isinstance(found, Reply) is enough, prompt


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS, Operation.RERANK])
def test_a_byte_that_is_not_utf8_is_no_json_wherever_it_is(operation: Operation) -> None:
    failure = answer(b'{"results":[1],' + CHAT[1:-1] + b',"x":"\xff"}', operation)
    assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED


def test_other_statuses_are_failures() -> None:
    failure = ENGINE.failure(429, [(b"retry-after", b"3")], b'{"error":{"message":"slow down"}}')
    assert (failure.kind, failure.status, failure.retry_after) == (Kind.OVERLOADED, 429, 3.0)


def test_health_is_the_model_list() -> None:
    assert ENGINE.health() == ENGINE.models() == Call("/v1/models", method="GET")


@pytest.mark.parametrize(
    ("status", "health"),
    [(200, Health.READY), (401, Health.READY), (404, Health.READY), (500, Health.DOWN), (503, Health.DOWN)],
)
def test_health_of(status: int, health: Health) -> None:
    assert ENGINE.health_of(status, b"") is health


def test_models_are_listed() -> None:
    body = b'{"data":[{"id":"a","max_model_len":4096,"x":[]},{"id":"b"},{"id":"c","max_model_len":null}]}'
    assert ENGINE.models_of(body) == (ModelCard("a", 4096), ModelCard("b"), ModelCard("c"))
    assert ENGINE.models_of(b'{"data":[]}') == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        b"{}",
        b"<html>",
        b'{"data":{}}',
        b'{"data":"a"}',
        b'{"data":' + b"[" * 100_000,
    ],
)
def test_what_is_no_model_list(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a list of models"):
        ENGINE.models_of(body)
