"""Forms with recordings, over real sockets: however one arrives, what is wrong is said, and no engine is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.surfaces.forms import LONGEST_VALUE
from tests.api.asking import FORM, TRANSCRIPTIONS, WAV, answered, answering, form
from tests.serving import Answer, serving

CONFIG = """
backends: {nowhere: {engine: openai, url: "http://127.0.0.1:9"}}
models: {public: {targets: {nowhere: x}}}
"""
GOOD = form(("model", "public"), ("file", WAV))
HELLO = answering(TRANSCRIPTIONS, {"text": "hello"})
BAD: dict[str, tuple[bytes, str, str | None]] = {
    "nothing": (b"", "invalid_form", None),
    "JSON": (b'{"model":"public"}', "invalid_form", None),
    "cut off": (GOOD[:-10], "invalid_form", None),
    "another boundary": (form(("model", "public"), boundary="y"), "invalid_form", None),
    "line feeds alone": (GOOD.replace(b"\r\n", b"\n"), "invalid_form", None),
    "no model": (form(("file", WAV)), "missing_field", "model"),
    "an empty model": (form(("model", ""), ("file", WAV)), "invalid_value", "model"),
    "two models": (form(("model", "public"), ("file", WAV), ("model", "other")), "invalid_value", "model"),
    "the same model twice": (form(("model", "public"), ("model", "public"), ("file", WAV)), "invalid_value", "model"),
    "a model as a file": (form(("model", b"public"), ("file", WAV)), "invalid_value", "model"),
    "a long model": (form(("model", "m" * (LONGEST_VALUE + 1)), ("file", WAV)), "invalid_value", "model"),
    "a model that is not UTF-8": (GOOD.replace(b"public", b"\xff"), "invalid_value", "model"),
    "no file": (form(("model", "public")), "missing_field", "file"),
    "an empty file": (form(("model", "public"), ("file", b"")), "missing_field", "file"),
    "two files": (form(("model", "public"), ("file", WAV), ("file", WAV)), "invalid_value", "file"),
    "a stream of a word": (form(("model", "public"), ("file", WAV), ("stream", "maybe")), "invalid_value", "stream"),
    "two streams": (
        form(("model", "public"), ("file", WAV), ("stream", "true"), ("stream", "false")), "invalid_value", "stream"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_form(name: str, tmp_path: Path) -> None:
    sent, code, param = BAD[name]
    async with serving(tmp_path, CONFIG) as served:
        answer = await served.post(TRANSCRIPTIONS, sent, content_type=FORM)
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, param)
        assert answer.error["type"] == "invalid_request_error"
        outcome = {"operation": "transcriptions", "outcome": "client_error"}
        assert served.metric("gateway_requests_total", **outcome) == 1


async def test_an_unknown_model_in_a_form(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        answer = await served.post(TRANSCRIPTIONS, form(("model", "pubic"), ("file", WAV)), content_type=FORM)
        assert (answer.status, answer.error["param"]) == (404, "model")
        assert "did you mean 'public'?" in answer.error["message"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("multipart/form-data; boundary=x1", 200),
        ('Multipart/Form-Data; charset=utf-8; boundary="x1"', 200),
        ("multipart/form-data", 400),
        ('multipart/form-data; boundary="x1', 400),
        ("multipart/form-data; boundary=x1; boundary=x2", 400),
        ("application/json", 415),
        ("multipart/mixed; boundary=x1", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
    ],
)
async def test_content_type(kind: str, status: int, tmp_path: Path) -> None:
    async with answered(tmp_path, HELLO) as (engine, served):
        answer = await served.post(TRANSCRIPTIONS, GOOD, content_type=kind)
        assert answer.status == status
        if status == 415:
            assert "multipart/form-data" in answer.error["message"]
        asked = [
            exchange.headers["content-type"] for exchange in engine.requests if exchange.method == "POST"
        ]
        assert asked == ([kind] if status == 200 else [])


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/audio/speech", "/v1/responses", "/tokenize"])
async def test_a_form_where_json_is_wanted(path: str, tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        answer = await served.post(path, GOOD, content_type=FORM)
        assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


async def test_a_boundary_in_quotes_with_a_space(tmp_path: Path) -> None:
    sent = form(("model", "public"), ("file", WAV), boundary="a b")
    async with answered(tmp_path, HELLO) as (engine, served):
        answer = await served.post(TRANSCRIPTIONS, sent, content_type='multipart/form-data; boundary="a b"')
        assert answer.json() == {"text": "hello"}
        assert engine.requests[-1].body == sent.replace(b"public", b"private")


async def sent_in_pieces(served: Any, data: bytes, size: int) -> Answer:
    """Post a form, chunk by chunk, each in a write of its own."""
    head = (
        f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {FORM}\r\n"
    )
    reader, writer = await served.connect()
    writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"0\r\n\r\n")
    async with asyncio.timeout(10):
        whole = await reader.read()
    writer.close()
    return Answer.read(whole)


@pytest.mark.parametrize("size", [1, 2, 3, 64])
async def test_a_form_may_arrive_in_pieces(size: int, tmp_path: Path) -> None:
    async with answered(tmp_path, HELLO) as (engine, served):
        answer = await sent_in_pieces(served, GOOD, size)
        assert (answer.status, answer.json()) == (200, {"text": "hello"})
        assert engine.requests[-1].body == GOOD.replace(b"public", b"private")


async def test_a_large_file_passes_and_one_beyond_the_limit_does_not(tmp_path: Path) -> None:
    limited = 'server: {{listen: "127.0.0.1:0", limits: {{body: 3MiB}}}}\n{}'
    async with answered(tmp_path, HELLO) as (engine, _):
        text = f'backends: {{e: {{engine: openai, url: "{engine.url}"}}}}\nmodels: {{public: {{targets: {{e: p}}}}}}\n'
        async with serving(tmp_path, limited.format(text)) as served:
            sound = bytes(range(256)) * 4096 * 2
            answer = await served.post(
                TRANSCRIPTIONS, form(("file", sound), ("model", "public")), content_type=FORM
            )
            assert answer.status == 200
            assert engine.requests[-1].body == form(("file", sound), ("model", "p"))
            head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
            refused = await served.raw(f"{head}Content-Length: {4 << 20}\r\n\r\n".encode() + GOOD)
            assert Answer.read(refused).error["code"] == "request_too_large"
            assert len([exchange for exchange in engine.requests if exchange.method == "POST"]) == 1
