"""Ollama's operations on the files of models: who may ask for them, which backend gets them, and what comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest

from gateway.fake.engine import FakeEngine
from gateway.fake.script import Fault, Match, Reply, Rule
from tests.api.asking import answering
from tests.api.test_admin import KEYS
from tests.serving import Served, serving

PROGRESS = b'{"status":"pulling manifest"}\n{"status":"success"}\n'
LINES = "application/x-ndjson"
MISSING = '{"error":"model \\"nope\\" not found"}'
ALIVE = [
    answering("/api/version", {"version": "0.33.0"}),
    answering("/api/tags", {"models": [{"name": "demo:latest"}]}),
]
DIGEST = "sha256:" + "0" * 64


def lines(path: str, body: bytes = PROGRESS, **more: Any) -> Rule:
    return Rule(
        match=Match(path=path), reply=Reply(status=200, body=body, headers={"content-type": LINES}), **more
    )


@asynccontextmanager
async def asking(
    folder: Path, *rules: Rule, more: str = "", keys: str = ""
) -> AsyncIterator[tuple[FakeEngine, Served]]:
    """Yield a fake Ollama with these rules and the gateway in front of it."""
    async with FakeEngine(rules=[*rules, *ALIVE]) as engine:
        text = f'backends:\n  one: {{engine: ollama, url: "{engine.url}"}}\n{more}{keys}'
        async with serving(folder, text) as served:
            yield engine, served


def asked(engine: FakeEngine, path: str) -> list[Any]:
    return [one for one in engine.requests if one.path.partition("?")[0] == path]


@pytest.mark.parametrize("path", ["/api/pull", "/api/push", "/api/create"])
async def test_progress_passes_as_it_is(path: str, tmp_path: Path) -> None:
    async with asking(tmp_path, lines(path)) as (engine, served):
        body = {"model": "demo", "from": "x", "anything": [1]}
        answer = await served.post(path, body)
        assert (answer.status, answer.body, answer.whole) == (200, PROGRESS, True)
        assert answer.headers["content-type"] == LINES
        (got,) = asked(engine, path)
        assert (got.method, got.json()) == ("POST", body)
        assert asked(engine, "/api/tags")[1:], "its models are asked for again"


async def test_ollamas_client_manages_models(tmp_path: Path) -> None:
    rules = [lines("/api/pull"), answering("/api/copy", "", "text/plain"), answering("/api/delete", "")]
    async with asking(tmp_path, *rules) as (engine, served):
        client = ollama.AsyncClient(host=served.url)
        try:
            told = [part.status async for part in await client.pull("demo", stream=True)]
            assert told == ["pulling manifest", "success"]
            assert (await client.copy("demo", "copy")).status == "success"
            assert (await client.delete("copy")).status == "success"
        finally:
            await client._client.aclose()
        assert [(one.method, one.json()) for one in asked(engine, "/api/delete")] == [
            ("DELETE", {"model": "copy"})
        ]


async def test_the_engines_refusal_passes_with_its_status(tmp_path: Path) -> None:
    rule = answering("/api/copy", MISSING, status=404)
    async with asking(tmp_path, rule) as (_, served):
        answer = await served.post("/api/copy", {"source": "nope", "destination": "x"})
        assert (answer.status, answer.json()) == (404, json.loads(MISSING))


async def test_an_error_among_the_lines_passes(tmp_path: Path) -> None:
    said = b'{"status":"pulling manifest"}\n{"error":"no such host"}\n'
    async with asking(tmp_path, lines("/api/pull", said)) as (_, served):
        assert (await served.post("/api/pull", {"model": "nope"})).body == said


async def test_progress_that_breaks_off_has_no_end(tmp_path: Path) -> None:
    fault = Fault(at=f"body byte {PROGRESS.index(b'{', 1)}", do="reset")
    async with asking(tmp_path, lines("/api/pull", faults=(fault,))) as (_, served):
        answer = await served.post("/api/pull", {"model": "demo"})
        assert not answer.whole
        last = json.loads(answer.body.rstrip(b"\n").split(b"\n")[-1])
        assert set(last) == {"error"} and isinstance(last["error"], str)


async def test_blobs_go_to_the_engine(tmp_path: Path) -> None:
    path = f"/api/blobs/{DIGEST}"
    rules = [
        Rule(match=Match(path=path, times=1), reply=Reply(status=404)),
        Rule(match=Match(path=path), reply=Reply(status=201, body="")),
    ]
    async with asking(tmp_path, *rules) as (engine, served):
        assert (await served.ask("HEAD", path, None, {})).status == 404
        kept = await served.ask("POST", path, b"GGUF\0\xff", {"content_type": "application/octet-stream"})
        assert (kept.status, kept.body) == (200, b"")
        head, upload = asked(engine, path)
        assert (head.method, upload.method, upload.body) == ("HEAD", "POST", b"GGUF\0\xff")
        for odd in ("sha256:xyz", "..%2f..%2fetc", "sha256:" + "0" * 63):
            refused = await served.ask("POST", f"/api/blobs/{odd}", b"x", {})
            assert refused.status in (400, 404) and set(refused.json()) == {"error"}
        assert len([one for one in engine.requests if "/blobs/" in one.path]) == 2


@pytest.mark.parametrize(
    "named", [{}, {"x_gateway_backend": "two"}, "?backend=two", "?backend=none", "?backend=chat"]
)
async def test_which_backend_is_asked(named: Any, tmp_path: Path) -> None:
    async with FakeEngine(rules=[lines("/api/pull"), *ALIVE]) as two, FakeEngine() as chat:
        more = f'  two: {{engine: ollama, url: "{two.url}"}}\n  chat: {{engine: openai, url: "{chat.url}"}}\n'
        async with asking(tmp_path, lines("/api/pull"), more=more) as (one, served):
            path, headers = ("/api/pull" + named, {}) if isinstance(named, str) else ("/api/pull", named)
            answer = await served.post(path, {"model": "demo"}, **headers)
            if "two" in str(named):
                assert answer.status == 200 and asked(two, "/api/pull")
            else:
                assert answer.status == 400 and "one, two" in answer.json()["error"]
                assert not asked(two, "/api/pull")
            assert not asked(one, "/api/pull") and not asked(chat, "/api/pull")


async def test_where_no_engine_has_them_that_is_said(tmp_path: Path) -> None:
    async with (
        FakeEngine() as engine,
        serving(tmp_path, f'backends: {{a: {{engine: openai, url: "{engine.url}"}}}}\n') as served,
    ):
        for path in ("/api/pull", "/api/push", "/api/create", "/api/copy"):
            answer = await served.post(path, {"model": "demo"})
            assert answer.status == 400 and f"no backend here has {path}" in answer.json()["error"]
        gone = await served.ask("DELETE", "/api/delete", b"{}", {})
        assert gone.status == 400 and set(gone.json()) == {"error"}


async def test_operators_only(tmp_path: Path) -> None:
    async with asking(tmp_path, lines("/api/pull"), keys=KEYS) as (engine, served):
        for secret, status in (("", 401), ("sk-team", 403), ("sk-boss", 200)):
            headers = {"authorization": f"Bearer {secret}"} if secret else {}
            answer = await served.post("/api/pull", {"model": "demo"}, **headers)
            assert answer.status == status
            assert status == 200 or isinstance(answer.json()["error"], str)
        assert len(asked(engine, "/api/pull")) == 1


async def test_the_root_answers_head_too(tmp_path: Path) -> None:
    async with asking(tmp_path) as (_, served):
        answer = await served.ask("HEAD", "/", None, {})
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-type"].startswith("text/plain")
