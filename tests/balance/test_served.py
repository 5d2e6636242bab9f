"""Prefix and session over real sockets: several engines, the real gateway, and what its clients see.

Rules:
- Requests come one after the other, so loads never decide: what is seen is affinity alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from gateway.fake.script import Match, Reply, Rule
from tests.faults.clients import CHAT, config
from tests.serving import Answer, Served, serving

COUNT = 3


@contextlib.asynccontextmanager
async def several(
    folder: Path, balance: str, count: int = COUNT, **fields: Any
) -> AsyncIterator[tuple[Served, list[FakeEngine]]]:
    """Serve the model `m` at so many engines."""
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(FakeEngine(models=["up"], **fields)) for _ in range(count)]
        text = config(*[engine.url for engine in engines], model=f"balance: {balance}")
        yield await stack.enter_async_context(serving(folder, text)), engines


def where(answer: Answer) -> tuple[str, str]:
    """Return the backend that answered, and what is said of affinity."""
    assert answer.status == 200
    return answer.headers["x-gateway-backend"], answer.headers.get("x-gateway-affinity", "")


def talk(who: object, turn: int, system: str = "", **fields: Any) -> dict[str, Any]:
    """Return the body of one turn of a conversation."""
    messages = [{"role": "system", "content": system}] if system else []
    for number in range(2 * turn + 1):
        role = "assistant" if number % 2 else "user"
        messages.append({"role": role, "content": f"{who} says {number} " * 40})
    return {"model": "m", "messages": messages, **fields}


async def test_a_conversation_stays_at_its_backend_and_clients_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gateway.dispatch")
    async with several(tmp_path, "prefix") as (served, engines):
        homes = {}
        for user in range(9):
            homes[user], said = where(await served.post(CHAT, talk(user, 0)))
            assert said == "miss"
        for turn in (1, 2):
            for user, home in homes.items():
                # Another formatting is the same prompt.
                body = json.dumps(talk(user, turn, stream=turn == 2), indent=turn).encode()
                assert where(await served.post(CHAT, body)) == (home, "hit")
        assert len(set(homes.values())) > 1
        assert served.metric("gateway_affinity_total", model="m", outcome="hit") == 18
        assert served.metric("gateway_affinity_total", model="m", outcome="miss") == 9
        asked = sum(exchange.path == CHAT for engine in engines for exchange in engine.journal.exchanges)
        assert asked == 27
    lines = [record.getMessage() for record in caplog.records if "affinity" in record.getMessage()]
    assert len(lines) == 27 and any(line.endswith("affinity hit") for line in lines)


async def test_one_system_prompt_does_not_gather_all_conversations_at_one_backend(tmp_path: Path) -> None:
    system = "You are an agent with very many rules. " * 200
    async with several(tmp_path, "prefix") as (served, _):
        counts = Counter[str]()
        for user in range(45):
            home, _ = where(await served.post(CHAT, talk(user, 0, system)))
            counts[home] += 1
            if user % 9 == 0:
                assert where(await served.post(CHAT, talk(user, 1, system))) == (home, "hit")
        assert len(counts) == COUNT and max(counts.values()) < 30


async def test_a_backend_that_was_gone_has_forgotten(tmp_path: Path) -> None:
    async with several(tmp_path, "prefix", 2) as (served, engines):
        home, _ = where(await served.post(CHAT, talk("u", 0)))
        number = int(home[-1])
        await engines[number].down()
        other, said = where(await served.post(CHAT, talk("u", 1)))
        assert (other != home, said) == (True, "miss")
        await engines[number].up()
        backend = served.gateway.pool.backends[home]
        while not backend.ready:
            backend.woken.set()
            await served.gateway.pool.change()
        for turn in range(2, 6):
            assert where(await served.post(CHAT, talk("u", turn))) == (other, "hit")


SESSIONS: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("session", {"x_session_id": "chat-{}"}, {}),
    ("session", {"x_claude_code_session_id": "chat-{}"}, {}),
    ("session", {}, {"metadata": {"user_id": '{{"device_id": "d", "session_id": "chat-{}"}}'}}),
    ("session", {}, {"prompt_cache_key": "chat-{}"}),
    ("session", {}, {"user": "user-{}"}),
    ('{policy: session, by: ["header:x-chat"]}', {"x_chat": "{}"}, {}),
    ('{policy: session, by: ["cookie:sid"]}', {"cookie": "a=b; sid={}"}, {}),
    ('{policy: session, by: ["metadata:chat"]}', {}, {"metadata": {"chat": "{}"}}),
]


def filled(value: Any, number: int) -> Any:
    """Return the value with the number of the session in its texts."""
    if isinstance(value, dict):
        return {name: filled(each, number) for name, each in value.items()}
    return value.format(number)


@pytest.mark.parametrize(("balance", "headers", "fields"), SESSIONS)
async def test_a_session_stays_at_its_backend(
    balance: str, headers: dict[str, str], fields: dict[str, Any], tmp_path: Path
) -> None:
    async with several(tmp_path, balance) as (served, _):
        homes: dict[int, str] = {}
        for turn in range(2):
            for number in range(8):
                body = talk(f"turn {turn}", 0, **filled(fields, number))
                found, said = where(await served.post(CHAT, body, **filled(headers, number)))
                assert found == homes.setdefault(number, found)
                assert said == ("hit" if turn else "miss")
        assert len(set(homes.values())) > 1


async def test_a_session_moves_where_its_backend_fails_and_stays_there(tmp_path: Path) -> None:
    async with several(tmp_path, "session", 2) as (served, engines):
        home, _ = where(await served.post(CHAT, talk("u", 0), x_session_id="s"))
        await engines[int(home[-1])].down()
        other, said = where(await served.post(CHAT, talk("u", 1), x_session_id="s"))
        assert (other != home, said) == (True, "moved")
        assert where(await served.post(CHAT, talk("u", 2), x_session_id="s")) == (other, "hit")
        await engines[int(home[-1])].up()


async def test_no_session_is_no_affinity(tmp_path: Path) -> None:
    async with several(tmp_path, "session") as (served, _):
        found = {where(await served.post(CHAT, talk(number, 0))) for number in range(20)}
        assert len(found) > 1 and {said for _, said in found} == {""}


async def test_first_tokens_teach_the_balancer_by_latency(tmp_path: Path) -> None:
    """One engine is slow to begin: after both have answered once, the other one takes what comes."""
    slow = {"first_token": 0.3}
    async with FakeEngine(models=["up"], defaults=slow) as one, FakeEngine(models=["up"]) as other:
        text = config(one.url, other.url, model="balance: latency")
        async with serving(tmp_path, text) as served:
            found = [where(await served.post(CHAT, talk(number, 0, stream=True)))[0] for number in range(12)]
            assert set(found[:2]) == {"engine-0", "engine-1"}
            assert set(found[2:]) == {"engine-1"}


async def test_what_others_have_at_an_engine_counts_as_load(tmp_path: Path) -> None:
    """A vLLM with somebody else's requests gets none of ours while another one is idle."""
    page = (
        'vllm:num_requests_running{{model_name="up",engine="0"}} {0}\n'
        'vllm:num_requests_waiting{{model_name="up",engine="0"}} {0}\n'
    )
    async with contextlib.AsyncExitStack() as stack:
        engines = []
        for count in (7, 0):
            reply = Reply(status=200, body=page.format(count).encode())
            engines.append(
                await stack.enter_async_context(
                    FakeEngine(models=["up"], rules=[Rule(match=Match(path="/metrics"), reply=reply)])
                )
            )
        text = config(*[engine.url for engine in engines], kind="vllm")
        served = await stack.enter_async_context(serving(tmp_path, text))
        busy = served.gateway.pool.backends["engine-0"]
        await served.gateway.fleet.poll("engine-0").ask()
        assert busy.load.foreign(asyncio.get_running_loop().time()) == 14
        found = [where(await served.post(CHAT, talk(number, 0)))[0] for number in range(10)]
        assert set(found) == {"engine-1"}
