"""One engine's own paths: byte for byte, with the engine's key, for operators alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.fake.engine import FakeEngine
from gateway.fake.script import Fault, Http, Match, Reply, Rule
from tests.serving import Served, serving

CONFIG = """
backends:
  a: {{engine: openai, url: "{url}", api_key: sesame}}
models: {{m: {{targets: {{a: up}}}}}}
keys:
  boss: {{value: "${{env.BOSS}}", admin: true}}
  user: {{value: "${{env.USER}}"}}
"""
ENVIRON = {"BOSS": "sk-the-operators-key", "USER": "sk-the-users-own-key"}
BOSS = {"authorization": f"Bearer {ENVIRON['BOSS']}"}
ANSWER = b'{"odd": \xff}'
RULES = [
    Rule(
        match=Match(path="/own/*"),
        reply=Reply(
            status=418,
            headers=(
                *(("content-type", "application/x-own"), ("set-cookie", "engine=1"), ("x-own", "kept")),
                *(("connection", "x-gone"), ("x-gone", "1"), ("keep-alive", "timeout=9")),
            ),
            body=ANSWER,
        ),
    ),
    Rule(match=Match(path="/empty"), reply=Reply(status=204, body=b"")),
    Rule(
        match=Match(path="/broken"),
        reply=Reply(status=200, body=b"x" * 100),
        faults=(Fault(at="body byte 50", do="close"),),
        http=Http(framing="chunked"),
    ),
]


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine(models=["up"], rules=RULES) as made:
        yield made


@pytest_asyncio.fixture
async def served(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, CONFIG.format(url=engine.url), ENVIRON) as made:
        yield made


ODD = "/own/a%2Fb%20c//%c3%a4/../x?q=%26&q=1+2&"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_bytes_pass_in_both_directions(
    method: str, engine: FakeEngine, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {
        **BOSS,
        "x_mine": "kept",
        "x_dropped": "1",
        "cookie": "secret=1",
        "content_type": "text/odd",
        "te": "trailers",
    }
    body = b"\x00\xff not JSON" if method != "GET" else None
    with caplog.at_level(logging.INFO, "gateway.api"):
        answer = await served.ask(method, f"/backends/a{ODD}", body, headers)
    assert (answer.status, answer.body, answer.whole) == (418, ANSWER, True)
    assert (answer.headers["content-type"], answer.headers["x-own"]) == ("application/x-own", "kept")
    assert not {"set-cookie", "x-gone", "keep-alive"} & set(answer.headers)
    assert answer.headers["x-request-id"]
    (asked,) = [each for each in engine.requests if each.path.startswith("/own")]
    assert (asked.method, asked.body) == (method, body or b"")
    assert asked.headers["authorization"] == "Bearer sesame"
    assert asked.headers["x-mine"] == "kept"
    assert asked.headers.get("content-type") == ("text/odd" if body else None)
    assert not {"cookie", "te", "x-api-key"} & set(asked.headers)
    line = f"backend 'a': {method} /own/a%2Fb%20c//%c3%a4/../x, asked for by 'boss'"
    assert any(record.getMessage().startswith(line) for record in caplog.records)
    assert ENVIRON["BOSS"] not in str(asked.headers) + caplog.text


async def test_the_target_is_what_the_client_wrote(served: Served) -> None:
    """The fake engine shows the decoded path; this one keeps the line that came over the wire."""
    lines: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readline())
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        served.gateway.pool.backends["a"].relocate(f"http://127.0.0.1:{port}")
        await served.ask("GET", f"/backends/a{ODD}", None, BOSS)
    assert b"GET " + ODD.encode() + b" HTTP/1.1\r\n" in lines


async def test_head_and_answers_without_a_body(served: Served) -> None:
    for method, path, status in (("HEAD", "/own/x", 418), ("GET", "/empty", 204)):
        answer = await served.ask(method, f"/backends/a{path}", None, BOSS)
        assert (answer.status, answer.body) == (status, b"")


async def test_an_answer_that_breaks_off_is_never_whole(served: Served) -> None:
    answer = await served.ask("GET", "/backends/a/broken", None, BOSS)
    assert (answer.status, answer.whole) == (200, False)


async def test_an_openai_path_of_the_engine_is_its_own(served: Served, engine: FakeEngine) -> None:
    answer = await served.ask("GET", "/backends/a/v1/models", None, BOSS)
    assert [each["id"] for each in answer.json()["data"]] == ["up"]
    # It is no request for a model: it takes no part in routing or metrics.
    assert served.metric("gateway_requests_total") == 0


async def test_it_is_for_operators(served: Served, engine: FakeEngine) -> None:
    for headers, status in (({}, 401), ({"x_api_key": ENVIRON["USER"]}, 403)):
        answer = await served.ask("POST", "/backends/a/own/x", b"{}", headers)
        assert answer.status == status and answer.error
    for path in ("/backends/a/own/metrics", "/backends/a/v1/metrics"):
        assert (await served.ask("GET", path, None, {})).status == 401
    assert not [each for each in engine.requests if each.path.startswith("/own")]


async def test_what_is_not_there(served: Served) -> None:
    answer = await served.ask("GET", "/backends/none/x", None, BOSS)
    assert (answer.status, answer.error["code"]) == (404, "backend_not_found")


async def test_other_sites_cannot_have_a_browser_do_it(served: Served) -> None:
    answer = await served.ask("POST", "/backends/a/own/x", b"", {**BOSS, "sec_fetch_site": "cross-site"})
    assert answer.status == 403


async def test_a_stream_passes_as_it_comes(served: Served) -> None:
    body = b'{"model":"up","stream":true,"messages":[{"role":"user","content":"hi"}]}'
    headers = {**BOSS, "content_type": "application/json"}
    answer = await served.ask("POST", "/backends/a/v1/chat/completions", body, headers)
    assert answer.headers["content-type"].startswith("text/event-stream") and answer.whole
    assert answer.events[-1] == "[DONE]"
