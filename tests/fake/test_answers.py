"""Without any script a fake engine is a well-behaved OpenAI server."""

import base64
import json
import struct
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from gateway.fake.script import Script
from tests.fake.raw import CHAT, ask, chat, connected, request


async def test_a_chat_answer() -> None:
    async with FakeEngine() as engine:
        answer = await ask(engine, chat(stream=False))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert int(answer.headers["content-length"]) == len(answer.rest)
    said = answer.json()
    assert (said["object"], said["model"]) == ("chat.completion", "m")
    message = {"role": "assistant", "content": "word0 word1 word2 word3"}
    assert said["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}]
    assert said["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


async def test_a_chat_stream() -> None:
    async with FakeEngine() as engine:
        answer = await ask(engine, chat())
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.whole and answer.payloads[-1] == b"[DONE]"
    role, *words, last = answer.chunks
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [word["choices"][0]["delta"]["content"] for word in words] == [
        "word0",
        " word1",
        " word2",
        " word3",
    ]
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert {chunk["object"] for chunk in answer.chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in answer.chunks}) == 1
    assert not any("usage" in chunk for chunk in answer.chunks)


async def test_usage_is_an_event_of_its_own_when_asked_for() -> None:
    async with FakeEngine() as engine:
        answer = await ask(engine, chat(stream_options={"include_usage": True}))
    assert answer.chunks[-1]["choices"] == []
    assert answer.chunks[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    assert answer.chunks[-2]["choices"][0]["finish_reason"] == "length"


async def test_completions() -> None:
    body = {"model": "m", "prompt": "a b", "max_tokens": 2}
    async with FakeEngine() as engine:
        whole = await ask(engine, body, "/v1/completions")
        stream = await ask(engine, body | {"stream": True}, "/v1/completions")
    assert whole.json()["object"] == stream.chunks[0]["object"] == "text_completion"
    assert whole.json()["choices"][0]["text"] == "word0 word1"
    assert "".join(chunk["choices"][0]["text"] for chunk in stream.chunks) == "word0 word1"
    assert stream.chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_embeddings_as_numbers_and_in_base64() -> None:
    body = {"model": "e", "input": ["one", "two"], "dimensions": 4}
    async with FakeEngine() as engine:
        plain = (await ask(engine, body, "/v1/embeddings")).json()
        packed = (await ask(engine, body | {"encoding_format": "base64"}, "/v1/embeddings")).json()
    first, second = (row["embedding"] for row in plain["data"])
    assert len(first) == 4 and first != second
    bytes_ = base64.b64decode(packed["data"][1]["embedding"])
    assert list(struct.unpack("<4f", bytes_)) == pytest.approx(second)


@pytest.mark.parametrize(
    ("fields", "count", "finish"),
    [
        ({"max_tokens": None}, 16, "stop"),
        ({"max_tokens": 3}, 3, "length"),
        ({"max_completion_tokens": 2, "max_tokens": 9}, 2, "length"),
        ({"max_tokens": 0}, 0, "length"),
        ({"max_tokens": 40}, 40, "length"),
    ],
)
async def test_the_limit_is_kept(fields: dict[str, Any], count: int, finish: str) -> None:
    async with FakeEngine() as engine:
        whole = (await ask(engine, chat(stream=False, **fields))).json()
        stream = await ask(engine, chat(**fields))
    assert whole["usage"]["completion_tokens"] == count
    assert whole["choices"][0]["finish_reason"] == finish
    assert stream.text == whole["choices"][0]["message"]["content"]
    assert len(stream.payloads) == count + 3


async def test_a_script_may_say_how_long_answers_are() -> None:
    async with FakeEngine(defaults={"tokens": 3}) as engine:
        assert (await ask(engine, chat(max_tokens=9))).text == "word0 word1 word2"
        assert (await ask(engine, chat(max_tokens=9))).chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert (await ask(engine, chat(max_tokens=2))).text == "word0 word1"


async def test_several_choices() -> None:
    async with FakeEngine() as engine:
        whole = (await ask(engine, chat(stream=False, n=3))).json()
        stream = await ask(engine, chat(n=2))
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert whole["usage"]["completion_tokens"] == 12
    for index in (0, 1):
        mine = [c for chunk in stream.chunks for c in chunk["choices"] if c["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in mine) == "word0 word1 word2 word3"
        assert mine[-1]["finish_reason"] == "length"


async def test_texts() -> None:
    async with FakeEngine(defaults={"text": "echo"}) as engine:
        assert (await ask(engine, chat(max_tokens=None))).text == "one two three"
        engine.set(defaults={"text": "lorem"})
        assert (await ask(engine, chat())).text == "lorem ipsum dolor sit"
        engine.set(defaults={"say": "tick tock"})
        assert (await ask(engine, chat())).text == "tick tock"
        assert (await ask(engine, chat(max_tokens=1))).text == "tick"
        engine.set(defaults={"text": "unicode"})
        answer = await ask(engine, chat())
        assert "\u2028" in answer.text and "\u2028".encode() in answer.body


async def test_models_and_health() -> None:
    async with FakeEngine(models=["a", "b"]) as engine:
        listed = (await ask(engine, path="/v1/models", method="GET")).json()
        health = await ask(engine, path="/health", method="GET")
    assert [model["id"] for model in listed["data"]] == ["a", "b"]
    assert health.json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("GET", CHAT, None, 405),
        ("POST", "/health", None, 405),
        ("POST", CHAT, b"{", 400),
        ("POST", CHAT, b"[1]", 400),
    ],
)
async def test_what_cannot_be_answered(method: str, path: str, body: Any, status: int) -> None:
    async with FakeEngine() as engine:
        answer = await ask(engine, body, path, method)
    assert answer.status == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_the_same_question_gets_the_same_bytes() -> None:
    seen = set()
    for _ in range(2):
        async with FakeEngine(defaults={"text": "unicode"}) as engine:
            seen |= {(await ask(engine, chat())).data for _ in range(2)}
    assert len(seen) == 1


async def test_many_requests_on_one_connection_even_at_once() -> None:
    async with FakeEngine() as engine, connected(engine) as wire:
        wire.send(request(chat(stream=False)) + request(chat()) + request(path="/health", method="GET"))
        assert b"word3" in await wire.until(b'"total_tokens":9}}')
        assert b"[DONE]" in await wire.until(b"0\r\n\r\n")
        assert b"200 OK" in await wire.until(b'{"status":"ok"}')
        assert [exchange.connection for exchange in engine.requests] == [1, 1, 1]


async def test_a_thousand_requests_at_once_on_one_connection() -> None:
    async with FakeEngine() as engine, connected(engine) as wire:
        wire.send(request(path="/health", method="GET") * 1000)
        await engine.finished(1000)
        wire.send(request(chat(), headers={"connection": "close"}))
        assert (await wire.rest()).data.count(b"HTTP/1.1 200") == 1001


async def test_a_chunked_request_in_single_bytes() -> None:
    body = json.dumps(chat(stream=False)).encode()
    data = (
        b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        % CHAT.encode()
    )
    data += b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:])
    async with FakeEngine() as engine, connected(engine) as wire:
        for byte in data:
            wire.send(bytes([byte]))
        answer = await wire.rest()
        assert engine.requests[0].body == body
    assert answer.json()["usage"]["completion_tokens"] == 4


async def test_bytes_that_are_no_http() -> None:
    async with FakeEngine() as engine, connected(engine) as wire:
        wire.send(b"\x16\x03\x01\x02\x00\x01\x00")
        assert (await wire.rest()).status == 400
        assert engine.requests == []


async def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async with FakeEngine() as engine, connected(engine) as wire:
        head, _, body = request(chat(), headers={"expect": "100-continue"}).partition(b"\r\n\r\n")
        wire.send(head + b"\r\n\r\n")
        assert await wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(body)
        assert b" 200 " in await wire.until(b"\r\n\r\n")


async def test_a_script_in_an_object_or_in_fields() -> None:
    async with FakeEngine(Script(models=["x"])) as one, FakeEngine(models=["x"]) as two:
        assert one.script == two.script
        assert one.url == f"http://127.0.0.1:{one.port}" != two.url
