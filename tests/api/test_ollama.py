"""Ollama's API over real sockets, in front of an engine that speaks OpenAI's: its Python client, as it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest

from gateway.fake.engine import FakeEngine
from gateway.keys import hash_key
from tests.api.asking import answering
from tests.serving import Served, serving

HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Any] = {"model": "m", "messages": HI, "stream": False}
SAID = "word0 word1 word2 word3 word4"
FIVE = {"num_predict": 5}


@asynccontextmanager
async def served(tmp_path: Path, engine: FakeEngine, more: str = "") -> AsyncIterator[Served]:
    text = f"""
backends:
  a: {{engine: openai, url: "{engine.url}"}}
models:
  m: {{targets: {{a: fake}}{more}}}
  "tagged:latest": {{targets: {{a: fake}}}}
"""
    async with serving(tmp_path, text) as found:
        yield found


@asynccontextmanager
async def asking(tmp_path: Path, more: str = "") -> AsyncIterator[tuple[ollama.AsyncClient, FakeEngine]]:
    async with FakeEngine() as engine, served(tmp_path, engine, more) as found:
        client = ollama.AsyncClient(host=found.url)
        try:
            yield client, engine
        finally:
            await client._client.aclose()


async def test_its_client_chats(tmp_path: Path) -> None:
    async with asking(tmp_path) as (client, engine):
        answer = await client.chat("m", HI, options=FIVE)
        assert (answer.message.content, answer.done_reason, answer.model) == (SAID, "length", "m")
        assert answer.eval_count == 5 and answer.eval_duration and answer.total_duration
        parts = [part async for part in await client.chat("m", HI, stream=True, options=FIVE)]
        assert "".join(part.message.content or "" for part in parts) == SAID and len(parts) == 6
        assert parts[-1].done and parts[-1].eval_count == 5 and parts[-1].prompt_eval_duration
        assert {one.path for one in engine.requests if one.method == "POST"} == {"/v1/chat/completions"}


async def test_its_client_generates(tmp_path: Path) -> None:
    async with asking(tmp_path) as (client, engine):
        assert (await client.generate("m", "hi", options=FIVE)).response == SAID
        parts = [part async for part in await client.generate("m", "hi", raw=True, stream=True, options=FIVE)]
        assert "".join(part.response or "" for part in parts) == SAID and parts[-1].done
        assert engine.requests[-1].path == "/v1/completions"
        assert (await client.generate("m")).done_reason == "load"
        assert (await client.generate("m", keep_alive=0)).done_reason == "unload"


async def test_its_client_embeds(tmp_path: Path) -> None:
    async with asking(tmp_path) as (client, _):
        found = await client.embed("m", ["a", "b"])
        assert len(found.embeddings) == 2 and all(found.embeddings)
        assert (await client.embeddings("m", "a")).embedding == found.embeddings[0]


async def test_its_client_lists(tmp_path: Path) -> None:
    async with asking(tmp_path, ", context: 4096, capabilities: {tools: true}") as (client, _):
        listed = {model.model: model for model in (await client.list()).models}
        assert set(listed) == {"m", "tagged:latest"} and len(listed["m"].digest or "") == 64
        shown = await client.show("m")
        assert shown.capabilities == ["completion", "tools"]
        assert shown.modelinfo is not None and shown.modelinfo["unknown.context_length"] == 4096
        running = {model.model: model for model in (await client.ps()).models}
        assert set(running) == {"m", "tagged:latest"} and running["m"].context_length == 4096


async def test_its_client_is_told_of_mistakes(tmp_path: Path) -> None:
    async with asking(tmp_path) as (client, engine):
        for ask in (client.chat("nope", HI), client.show("nope"), client.embed("nope", "a")):
            with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
                await ask
            assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="time: invalid duration") as caught:
            await client.chat("m", HI, keep_alive="soon")
        assert caught.value.status_code == 400
        assert not [one for one in engine.requests if one.method == "POST"]


async def test_the_default_tag_may_be_left_out_or_added(tmp_path: Path) -> None:
    async with asking(tmp_path) as (client, _):
        for name in ("m:latest", "tagged", "tagged:latest"):
            assert (await client.chat(name, HI, options=FIVE)).model == name
            assert await client.show(name)
        with pytest.raises(ollama.ResponseError):
            await client.chat("m:7b", HI)


async def test_a_stream_that_breaks_off_raises(tmp_path: Path) -> None:
    script = {"faults": [{"at": "event 3", "do": "reset"}]}
    async with FakeEngine(defaults=script) as engine, served(tmp_path, engine) as found:
        answer = await found.post("/api/chat", {"model": "m", "messages": HI})
        assert answer.headers["content-type"] == "application/x-ndjson" and not answer.whole
        last = json.loads(answer.body.rstrip(b"\n").split(b"\n")[-1])
        assert set(last) == {"error"} and b'"done":true' not in answer.body


async def test_a_body_needs_no_type_unless_a_page_sends_it(tmp_path: Path) -> None:
    """As curl's `-d` sends it."""
    async with FakeEngine() as engine, served(tmp_path, engine) as found:
        form = "application/x-www-form-urlencoded"
        answer = await found.post("/api/chat", ASKED, content_type=form)
        assert answer.status == 200 and answer.json()["message"]["content"]
        foreign = await found.post("/api/chat", ASKED, content_type=form, origin="http://evil.example")
        assert foreign.status == 403


async def test_heartbeats_are_no_lines(tmp_path: Path) -> None:
    script = {"first_token": 0.8}
    async with FakeEngine(defaults=script) as engine, served(tmp_path, engine, ", heartbeat: 100ms") as found:
        answer = await found.post("/api/chat", ASKED | {"stream": True, "options": FIVE})
        assert answer.body.startswith(b" ") and answer.whole
        assert all(json.loads(line) for line in answer.body.split(b"\n")[:-1])


async def test_the_root_says_what_ollama_says(tmp_path: Path) -> None:
    async with FakeEngine() as engine, served(tmp_path, engine) as found:
        told = await found.get("/", accept="*/*")
        assert (told.body, told.headers["content-type"]) == (
            b"Ollama is running",
            "text/plain; charset=utf-8",
        )
        page = await found.get("/", accept="text/html,application/xhtml+xml,*/*;q=0.8")
        assert page.body.startswith(b"<!doctype html>") and page.headers["vary"] == "Accept"
        assert (await found.get("/api/version")).json() == {"version": "0.33.0"}
        lost = await found.get("/api/nothing")
        assert lost.status == 404 and set(lost.json()) == {"error"} and isinstance(lost.json()["error"], str)


async def test_what_a_model_settles_holds_here_too(tmp_path: Path) -> None:
    more = ", parameters: {default: {temperature: 0.1, top_p: 0.2}, clamp: {max_tokens: [1, 7]}}"
    async with FakeEngine() as engine, served(tmp_path, engine, more) as found:
        await found.post("/api/chat", ASKED | {"options": {"num_predict": 900, "temperature": 0.9}})
        asked = json.loads(engine.requests[-1].body)
        assert (asked["max_tokens"], asked["temperature"], asked["top_p"]) == (7, 0.9, 0.2)


async def test_keys_are_asked_for_in_its_words(tmp_path: Path) -> None:
    keys = f'keys: {{me: {{hash: "{hash_key("gw-secret")}", models: [none]}}}}'
    text = keys + '\nbackends: {a: {engine: openai, url: "http://127.0.0.1:9", models: [m]}}\n'
    async with serving(tmp_path, text) as found:
        for path in ("/api/tags", "/api/ps"):
            denied = await found.get(path)
            assert denied.status == 401 and isinstance(denied.json()["error"], str)
            assert (await found.get(path, authorization="Bearer gw-secret")).json() == {"models": []}
        denied = await found.post("/api/chat", ASKED)
        assert denied.status == 401 and isinstance(denied.json()["error"], str)


async def test_an_engine_without_room_is_told(tmp_path: Path) -> None:
    rule = answering("/v1/chat/completions", {}, status=503)
    async with FakeEngine(rules=[rule]) as engine, served(tmp_path, engine) as found:
        answer = await found.post("/api/chat", ASKED)
        assert answer.status == 503 and isinstance(answer.json()["error"], str)
