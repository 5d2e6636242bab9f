"""`keep_alive` of Ollama's API for engines that this gateway starts on demand: its Python client, real processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest

from backends.base import Operation, Request
from backends.surfaces.ollama import idle
from backends.surfaces.surface import InvalidRequest
from gateway.fake.engine import FakeEngine
from gateway.residency.state import EngineState
from tests.api.asking import answering
from tests.faults.clients import until
from tests.fleet.playing import Toy
from tests.fleet.test_on_demand import ask, becomes, head, pid_of, state
from tests.serving import Served, serving

HI = [{"role": "user", "content": "hi"}]
SLOW = [{"role": "user", "content": "slow"}]


@asynccontextmanager
async def asking(tmp_path: Path, more: str = "") -> AsyncIterator[tuple[Served, Toy, ollama.AsyncClient]]:
    toy = Toy(tmp_path, "a")
    async with serving(tmp_path, head() + toy.section(f"start: on_demand{more}")) as served:
        client = ollama.AsyncClient(host=served.url)
        try:
            yield served, toy, client
        finally:
            await client._client.aclose()


def stops(served: Served, reason: str) -> float:
    return served.metric("gateway_engine_stops_total", backend="a", reason=reason)


async def test_a_request_says_how_long_its_engine_stays_and_the_next_start_begins_anew(
    tmp_path: Path,
) -> None:
    async with asking(tmp_path, ", idle: 1h") as (served, toy, client):
        await client.chat("a", HI, keep_alive="400ms")
        assert state(served, "a") is EngineState.READY
        await becomes(served, "a", EngineState.STOPPED)
        assert stops(served, "idle") == 1
        # What was said of the engine's last life is forgotten.
        pid_of(await ask(served, "a"))
        await asyncio.sleep(1.5)
        assert (toy.starts, state(served, "a")) == (2, EngineState.READY)


async def test_what_one_said_stays_until_another_says_otherwise(tmp_path: Path) -> None:
    async with asking(tmp_path, ", idle: 400ms") as (served, toy, client):
        await client.chat("a", HI, keep_alive=-1)
        await asyncio.sleep(1.5)
        assert state(served, "a") is EngineState.READY
        pid_of(await ask(served, "a"))
        await client.chat("a", HI)
        await asyncio.sleep(1.5)
        assert (toy.starts, state(served, "a")) == (1, EngineState.READY)
        await client.generate("a", "hi", keep_alive="200ms")
        await becomes(served, "a", EngineState.STOPPED)


@pytest.mark.parametrize("api", ["chat", "generate", "embed", "embeddings"])
async def test_no_time_stops_it_as_soon_as_the_request_has_ended(tmp_path: Path, api: str) -> None:
    async with asking(tmp_path, ", idle: 1h, embeddings: true") as (served, toy, client):
        calls: dict[str, Any] = {
            "chat": lambda: client.chat("a", HI, keep_alive=0),
            "generate": lambda: client.generate("a", "hi", keep_alive="0s"),
            "embed": lambda: client.embed("a", "hi", keep_alive=0),
            "embeddings": lambda: client.embeddings("a", "hi", keep_alive=0),
        }
        assert await calls[api]()
        await becomes(served, "a", EngineState.STOPPED)
        assert (toy.starts, stops(served, "idle")) == (1, 1)


async def test_no_time_stops_nothing_under_another_request(tmp_path: Path) -> None:
    async with asking(tmp_path, ", idle: 1h") as (served, toy, client):
        slow = ask(served, "a", "slow")
        await until(lambda: toy.asked == ["slow"], "it is asked")
        await client.chat("a", HI, keep_alive=0)
        await asyncio.sleep(1.5)
        assert state(served, "a") is EngineState.READY
        toy.set("go")
        pid_of(await slow)
        await becomes(served, "a", EngineState.STOPPED)


async def test_an_empty_prompt_loads_it_and_without_time_unloads_it(tmp_path: Path) -> None:
    async with asking(tmp_path, ", idle: 1h") as (served, toy, client):
        loaded = await client.generate("a", keep_alive="10m")
        assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
        assert state(served, "a") is EngineState.READY
        gone = await client.chat("a", [], keep_alive=0)
        assert (gone.done, gone.done_reason, gone.message.content) == (True, "unload", "")
        assert gone.created_at and gone.model == "a"
        await becomes(served, "a", EngineState.STOPPED)
        assert (toy.starts, stops(served, "unloaded")) == (1, 1)
        # There is nothing to unload any more, and nothing starts for it.
        assert (await client.generate("a", keep_alive=0)).done_reason == "unload"
        assert (await client.embed("a", [], keep_alive=0)).embeddings == []
        await asyncio.sleep(0.5)
        assert (toy.starts, state(served, "a")) == (1, EngineState.STOPPED)
        assert served.metric("gateway_requests_total", operation="ollama_generate", outcome="ok") == 2


async def test_an_unload_lets_requests_end_and_who_comes_then_waits_for_the_next_start(
    tmp_path: Path,
) -> None:
    async with asking(tmp_path, ", idle: 1h") as (served, toy, client):
        slow = ask(served, "a", "slow")
        await until(lambda: toy.asked == ["slow"], "it is asked")
        assert (await client.generate("a", keep_alive=0)).done_reason == "unload"
        await becomes(served, "a", EngineState.DRAINING)
        late = ask(served, "a")
        await asyncio.sleep(0.5)
        assert toy.asked == ["slow"]
        toy.set("go")
        assert pid_of(await slow) != pid_of(await late)
        assert toy.starts == 2


@pytest.mark.parametrize("more", [", pin: true", "always"])
async def test_neither_a_pinned_engine_nor_one_that_always_runs_is_unloaded(
    tmp_path: Path, more: str
) -> None:
    toy = Toy(tmp_path, "a")
    section = "start: always" if more == "always" else "start: on_demand" + more
    async with serving(tmp_path, head() + toy.section(section)) as served:
        first = pid_of(await ask(served, "a"))
        for asked in ({"prompt": "hi"}, {"prompt": ""}):
            answer = await served.post(
                "/api/generate", {"model": "a", "keep_alive": 0, "stream": False} | asked
            )
            assert answer.status == 200
        await asyncio.sleep(1.3)
        assert pid_of(await ask(served, "a")) == first


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed"])
@pytest.mark.parametrize("value", ["soon", True, "10", {}])
async def test_what_is_no_duration_is_refused_and_starts_nothing(
    tmp_path: Path, path: str, value: Any
) -> None:
    async with asking(tmp_path) as (served, toy, _):
        asked = {"model": "a", "messages": HI, "prompt": "hi", "input": "hi", "keep_alive": value}
        answer = await served.post(path, asked)
        assert answer.status == 400 and set(answer.json()) == {"error"}
        assert isinstance(answer.json()["error"], str)
        assert toy.starts == 0


async def test_an_engine_gets_no_keep_alive_that_is_obeyed_here_and_no_header_says_it_was_dropped(
    tmp_path: Path,
) -> None:
    async with asking(tmp_path) as (served, toy, _):
        asked = {"model": "a", "messages": HI, "keep_alive": "5m", "stream": False}
        answer = await served.post("/api/chat", asked)
        assert answer.status == 200 and "x-gateway-dropped" not in answer.headers
        assert not any("keep_alive" in body for body in toy.bodies)


async def test_an_ollama_gets_it_as_it_is(tmp_path: Path) -> None:
    said = {"model": "fake", "message": {"role": "assistant", "content": "hi"}, "done": True}
    async with FakeEngine(rules=[answering("/api/chat", said)]) as engine:
        text = f'backends: {{a: {{engine: ollama, url: "{engine.url}", models: [fake]}}}}'
        async with serving(tmp_path, text) as served:
            asked = {"model": "fake", "messages": HI, "keep_alive": "5m", "stream": False}
            assert (await served.post("/api/chat", asked)).status == 200
            sent = [json.loads(one.body) for one in engine.requests if one.path == "/api/chat"]
            assert [one["keep_alive"] for one in sent] == ["5m"]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("0", 0.0),
        ("-0s", 0.0),
        (0, 0.0),
        (90, 90.0),
        (2.5, 2.5),
        (-1, float("inf")),
        ("-1m", float("inf")),
        (10**400, float("inf")),
    ],
)
def test_durations_are_read_as_ollama_reads_them(said: Any, seconds: float) -> None:
    body = json.dumps({"model": "m", "keep_alive": said}).encode()
    assert idle.staying(Request(Operation.OLLAMA_CHAT, body, "m")) == seconds


def test_who_says_nothing_of_it_says_nothing() -> None:
    for body in (b'{"model":"m"}', b'{"model":"m","keep_alive":null}'):
        assert idle.staying(Request(Operation.OLLAMA_CHAT, body, "m")) is None
    with pytest.raises(InvalidRequest):
        idle.staying(Request(Operation.OLLAMA_CHAT, b'{"keep_alive":[]}', "m"))
