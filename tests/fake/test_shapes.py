"""Transport shapes: the same answer spelled in every way a server may spell it, and in some it may not."""

import gzip
import json
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.fake.raw import Received, ask, chat, connected, request


async def answered(body: Any = None, **behaviour: Any) -> Received:
    async with FakeEngine(defaults=behaviour) as engine:
        return await ask(engine, chat() if body is None else body)


@pytest.mark.parametrize(
    ("sse", "mark"),
    [
        ({"newline": "crlf"}, b"\r\n\r\n"),
        ({"newline": "cr"}, b"\r\r"),
        ({"newline": "mixed"}, b"\r\rdata"),
        ({"space": False}, b"data:{"),
        ({"bom": True}, b"\xef\xbb\xbfdata"),
        ({"comment_every": 2}, b": comment\n\n"),
        ({"multiline": True}, b"\ndata:  "),
        ({"id": True}, b"id: 3\n"),
        ({"event": "message"}, b"event: message\n"),
        ({"retry": 100}, b"retry: 100\n"),
        ({"newline": "mixed", "space": False, "multiline": True, "id": True, "bom": True}, b"id: 1\r\n"),
    ],
)
async def test_every_spelling_says_the_same(sse: dict[str, Any], mark: bytes) -> None:
    answer = await answered(sse=sse)
    assert mark in answer.body
    assert answer.chunks == (await answered()).chunks
    assert answer.payloads[-1] == b"[DONE]"


@pytest.mark.parametrize("events", [2, 3, 100])
async def test_events_in_one_chunk(events: int) -> None:
    answer = await answered(sse={"coalesce": events}, gap=0.001)
    assert answer.body == (await answered()).body
    sizes = []
    rest = answer.rest
    while size := int(rest.partition(b"\r\n")[0], 16):
        rest = rest.partition(b"\r\n")[2]
        sizes.append(rest[:size].count(b"data:"))
        rest = rest[size + 2 :]
    assert sizes == {2: [2, 2, 2, 1], 3: [3, 3, 1], 100: [7]}[events]


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_split_writes_change_nothing(size: int) -> None:
    assert (await answered(http={"split": size})).data == (await answered()).data


@pytest.mark.parametrize(
    ("done", "ends"), [("once", [b"[DONE]"]), ("never", []), ("twice", [b"[DONE]", b"[DONE]"])]
)
async def test_done(done: str, ends: list[bytes]) -> None:
    answer = await answered(sse={"done": done})
    assert [payload for payload in answer.payloads if payload == b"[DONE]"] == ends
    assert answer.whole


async def test_an_event_after_done() -> None:
    assert (await answered(sse={"after_done": {"late": True}})).payloads[-2:] == [b"[DONE]", b'{"late":true}']


async def test_no_finish_reason() -> None:
    answer = await answered(finish=None)
    assert {choice["finish_reason"] for chunk in answer.chunks for choice in chunk["choices"]} == {None}
    assert answer.payloads[-1] == b"[DONE]"
    assert (await answered(chat(stream=False), finish=None)).json()["choices"][0]["finish_reason"] is None


async def test_an_odd_finish_reason() -> None:
    assert (await answered(finish="error")).chunks[-1]["choices"][0]["finish_reason"] == "error"


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("usage", ["asked", "never", "always", "every", "null"])
async def test_usage(usage: str, asked: bool) -> None:
    chunks = (await answered(chat(stream_options={"include_usage": asked}), usage=usage)).chunks
    own = usage != "never" and (asked or usage == "always")
    assert (chunks[-1]["choices"] == []) is own
    words = chunks[1:5]
    match usage:
        case "every":
            assert [chunk["usage"]["completion_tokens"] for chunk in words] == [1, 2, 3, 4]
        case "null":
            assert all(chunk["usage"] is None for chunk in words)
        case _:
            assert not any("usage" in chunk for chunk in words)


async def test_a_stream_of_ones_own() -> None:
    answer = await answered(sse={"events": [{"a": 1}, "[DONE]", "not json"]})
    assert answer.payloads == [b'{"a":1}', b"[DONE]", b"not json"]


async def test_an_endless_stream_ignores_the_limit_and_waits_for_a_slow_reader() -> None:
    async with FakeEngine(defaults={"endless": True}) as engine, connected(engine) as wire:
        wire.send(request(chat()))
        await wire.until(b'" word200"')
        await engine.until(lambda: engine.requests[0].tokens > 200)
        await ask(engine, path="/health", method="GET")
        sent = engine.requests[0].bytes_sent
        for _ in range(20):
            await ask(engine, path="/health", method="GET")
        assert engine.requests[0].bytes_sent == sent, "the engine goes on although nobody reads"
        wire.leave()
        assert (await engine.closed())[0].phase == "streaming"


async def test_framings() -> None:
    body = (await answered()).body
    length = await answered(http={"framing": "length"})
    assert int(length.headers["content-length"]) == len(length.rest) and length.rest == body
    closed = await answered(http={"framing": "close", "version": "1.0"})
    assert closed.head.startswith(b"HTTP/1.0 200") and closed.rest == body
    assert not {"content-length", "transfer-encoding"} & closed.headers.keys()
    both = await answered(http={"framing": "both"})
    assert both.headers["transfer-encoding"] == "chunked" and both.body == body
    assert int(both.headers["content-length"]) == len(body)


async def test_version_1_0_ends_by_closing() -> None:
    async with FakeEngine(defaults={"http": {"version": "1.0"}}) as engine, connected(engine) as wire:
        wire.send(request(chat(stream=False)))
        answer = await wire.rest()
    assert answer.end == "fin" and json.loads(answer.rest)["object"] == "chat.completion"


@pytest.mark.parametrize("off", [10, -10])
async def test_a_wrong_content_length(off: int) -> None:
    answer = await answered(chat(stream=False), http={"length_off": off})
    assert int(answer.headers["content-length"]) == len(answer.rest) + off


async def test_a_too_long_content_length_ends_the_connection() -> None:
    async with FakeEngine(defaults={"http": {"length_off": 1}}) as engine, connected(engine) as wire:
        wire.send(request(chat(stream=False)))
        assert (await wire.rest()).end == "fin"


async def test_trailers() -> None:
    answer = await answered(http={"trailers": {"x-sum": "1"}})
    assert answer.rest.endswith(b"\r\n0\r\nx-sum: 1\r\n\r\n")


@pytest.mark.parametrize("stream", [True, False])
async def test_gzip_although_nobody_asked(stream: bool) -> None:
    answer = await answered(chat(stream=stream), http={"gzip": True})
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == (await answered(chat(stream=stream))).body


async def test_an_encoding_that_is_a_lie() -> None:
    answer = await answered(chat(stream=False), reply={"headers": {"Content-Encoding": "br"}})
    assert answer.headers["content-encoding"] == "br" and answer.json()


async def test_interim_replies() -> None:
    answer = await answered(http={"interim": {"status": 103, "count": 50}})
    line = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert answer.data.startswith(line * 50 + b"HTTP/1.1 200 OK")


async def test_many_headers_and_large_ones() -> None:
    answer = await answered(http={"extra_headers": 1000, "extra_header_size": "2KiB"})
    assert len(answer.headers) == 1000 + 3
    assert len(answer.headers["x-extra-999"]) == 2048


async def test_the_head_goes_early_when_told() -> None:
    behaviour = {"first_token": 600, "http": {"early_headers": True}}
    async with FakeEngine(defaults=behaviour) as engine, connected(engine) as wire:
        wire.send(request(chat()))
        assert b"text/event-stream" in await wire.until(b"\r\n\r\n")
        assert engine.requests[0].phase == "headers"


async def test_the_other_form_than_asked() -> None:
    as_json = await answered(reply={"form": "json"})
    assert (
        as_json.headers["content-type"] == "application/json"
        and as_json.json()["object"] == "chat.completion"
    )
    as_sse = await answered(chat(stream=False), reply={"form": "sse"})
    assert as_sse.headers["content-type"].startswith("text/event-stream") and len(as_sse.payloads) == 7


@pytest.mark.parametrize("status", [201, 299, 301, 400, 404, 429, 500, 503, 529, 599, 999])
async def test_any_status(status: int) -> None:
    answer = await answered(chat(stream=False), reply={"status": status, "headers": {"retry-after": "7"}})
    assert (answer.status, answer.headers["retry-after"]) == (status, "7")
    assert ("error" in answer.json()) is (status >= 300)


@pytest.mark.parametrize("status", [101, 204, 304])
async def test_a_status_without_a_body(status: int) -> None:
    async with FakeEngine(defaults={"reply": {"status": status}}) as engine, connected(engine) as wire:
        wire.send(request(chat()) + request(path="/health", method="GET"))
        head = await wire.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status) and b"content" not in head
        await wire.until(b'{"status":"ok"}')


async def test_no_reason_phrase() -> None:
    assert (await answered(reply={"reason": ""})).data.startswith(b"HTTP/1.1 200\r\n")
    assert (await answered(reply={"reason": "Fine"})).data.startswith(b"HTTP/1.1 200 Fine\r\n")


async def test_any_body_under_any_type() -> None:
    answer = await answered(reply={"body": "<html>", "headers": {"Content-Type": "text/html"}})
    assert (answer.headers["content-type"], answer.rest) == ("text/html", b"<html>")
    assert (await answered(reply={"body": ""})).rest == b""
    assert (await answered(reply={"body": [1]})).rest == b"[1]"
    assert (await answered(reply={"body": "hex:ff00"})).rest == b"\xff\x00"


async def test_headers_that_come_twice() -> None:
    answer = await answered(reply={"headers": {"set-cookie": ["a=1", "b=2"]}})
    assert answer.head.count(b"set-cookie: ") == 2


async def test_connection_close_is_said_and_done() -> None:
    behaviour = {"reply": {"headers": {"connection": "close"}}}
    async with FakeEngine(defaults=behaviour) as engine, connected(engine) as wire:
        wire.send(request(chat(stream=False)))
        answer = await wire.rest()
        assert answer.headers["connection"] == "close" and answer.end == "fin"
        assert engine.requests[0].outcome == "finished"


async def test_closed_after_so_many_answers_without_notice() -> None:
    async with FakeEngine(requests_per_connection=2) as engine, connected(engine) as wire:
        wire.send(request(chat()) + request(chat()))
        answer = await wire.rest()
    assert answer.data.count(b"200 OK") == 2 and b"connection" not in answer.data.lower()


async def test_closed_when_idle() -> None:
    async with FakeEngine(keep_alive=0.01) as engine, connected(engine) as wire:
        wire.send(request(path="/health", method="GET"))
        answer = await wire.rest()
        assert answer.json() == {"status": "ok"} and answer.end == "fin"
        async with connected(engine) as silent:
            assert (await silent.rest()).data == b""


@pytest.mark.parametrize("framing", ["content-length", "transfer-encoding"])
async def test_an_offer_to_upgrade_is_declined(framing: str) -> None:
    """Java's HTTP client offers h2c with every request, a body or not. What follows is HTTP/1.1 still."""
    body = json.dumps(chat()).encode()
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP"}
    if framing == "transfer-encoding":
        lines = ["POST /v1/chat/completions HTTP/1.1", "host: fake", f"{framing}: chunked"]
        lines += [f"{name}: {value}" for name, value in offer.items()]
        head = "\r\n".join([*lines, "", ""]).encode()
        asked = head + b"%x\r\n%b\r\n9\r\n%b\r\n0\r\n\r\n" % (len(body) - 9, body[:-9], body[-9:])
    else:
        asked = request(body, headers=offer)
    listed = request(None, "/v1/models", "GET", headers=offer)
    for size in (1, 40, len(asked)):
        async with FakeEngine(models=["m"]) as engine, connected(engine) as wire:
            data = asked + listed + asked + request(None, "/health", "GET", headers={"connection": "close"})
            for start in range(0, len(data), size):
                wire.send(data[start : start + size])
            await engine.finished(4)
            assert [(e.method, e.path) for e in engine.requests] == [
                ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions"),
                ("GET", "/health"),
            ]  # fmt: skip
            assert [e.body for e in engine.requests] == [body, b"", body, b""]
            assert all(e.headers.get("upgrade") == "h2c" for e in engine.requests[:3])
            assert (await wire.rest()).data.count(b"HTTP/1.1 200") == 4
