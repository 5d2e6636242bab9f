"""Engines on demand under a gateway with two workers: the master starts and stops them for the requests of both."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.clients import until
from tests.faults.support import question
from tests.fleet.playing import Toy
from tests.serving import Answer
from tests.test_workers_operated import ROOT, Two

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def two(folder: Path, text: str) -> AsyncIterator[Two]:
    file = folder / "gateway.yaml"
    file.write_text(text)
    command = [sys.executable, "-m", "gateway", "serve", str(file), "--workers", "2"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        first = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        gateway = Two(process, int(re.findall(r":(\d+)", first)[-1]))
        await until(lambda: len(gateway.workers()) == 2, "two workers run")
        yield gateway
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 30)


def ask(gateway: Two, model: str, content: str = "quick") -> asyncio.Task[Answer]:
    body = question(model) | {"messages": [{"role": "user", "content": content}]}
    return asyncio.create_task(gateway.ask("POST", "/v1/chat/completions", body))


async def launched(gateway: Two, name: str) -> dict[str, Any]:
    views = (await gateway.ask("GET", "/gateway/backends")).json()
    found: dict[str, Any] = next(view["launched"] for view in views if view["name"] == name)
    return found


async def becomes(gateway: Two, name: str, wanted: str) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):  # no worker listens for a moment after all have died
                if (await launched(gateway, name))["state"] == wanted:
                    return
            await asyncio.sleep(0.05)


async def test_requests_of_both_workers_wait_for_one_start(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    text = 'server: {listen: "127.0.0.1:0"}\nbackends:\n' + toy.section("start: on_demand, idle: 2s")
    async with two(tmp_path, text) as gateway:
        assert (await gateway.ask("GET", "/readyz")).status == 200
        asked = [ask(gateway, "a") for _ in range(16)]
        await until(lambda: toy.starts == 1, "it starts")
        page = ""
        async with asyncio.timeout(20):
            while 'gateway_engine_requests_waiting{backend="a"} 16' not in page:
                page = (await gateway.ask("GET", "/metrics")).body.decode()
        toy.clear("hold")
        answers = await asyncio.gather(*asked)
        assert {answer.status for answer in answers} == {200}
        assert toy.starts == 1
        slow = ask(gateway, "a", "slow")
        await until(lambda: "slow" in toy.asked, "it is asked")
        await asyncio.sleep(3)
        assert (await launched(gateway, "a"))["state"] == "ready"
        toy.set("go")
        assert (await slow).status == 200
        await becomes(gateway, "a", "stopped")
        assert (await ask(gateway, "a")).status == 200
        assert toy.starts == 2


async def test_engines_change_places_without_a_failure(tmp_path: Path) -> None:
    one, other = Toy(tmp_path, "a"), Toy(tmp_path, "b")
    section = "start: on_demand, group: one"
    text = 'server: {listen: "127.0.0.1:0"}\nbackends:\n' + one.section(section) + other.section(section)
    async with two(tmp_path, text) as gateway:
        answers = await asyncio.gather(*(ask(gateway, "ab"[number % 2]) for number in range(20)))
        assert [answer.status for answer in answers] == [200] * 20
        assert one.starts == other.starts == 1


async def test_a_failed_start_is_told_to_those_who_wait_in_both(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("broken", "no space")
    text = 'server: {listen: "127.0.0.1:0"}\nbackends:\n' + toy.section()
    async with two(tmp_path, text) as gateway:
        answers = await asyncio.gather(*(ask(gateway, "a") for _ in range(8)))
        assert {answer.status for answer in answers} == {503}
        assert all("no space" in answer.error["message"] for answer in answers)


async def test_a_worker_that_dies_waits_no_longer(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a")
    toy.set("hold")
    text = 'server: {listen: "127.0.0.1:0"}\nbackends:\n' + toy.section()
    async with two(tmp_path, text) as gateway:
        asked = ask(gateway, "a")
        await until(lambda: toy.starts == 1, "it starts")
        for worker in gateway.workers():
            os.kill(worker, signal.SIGKILL)
        await asyncio.gather(asked, return_exceptions=True)
        await becomes(gateway, "a", "stopped")


async def test_the_master_keeps_what_an_engine_took_where_there_is_a_store(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a", mib=200)
    folder = tmp_path / "data"
    text = f'server: {{listen: "127.0.0.1:0", data: {folder}}}\nbackends:\n{toy.section()}'

    async def known(gateway: Two) -> None:
        async with asyncio.timeout(30):
            while True:
                page = (await gateway.ask("GET", "/metrics")).body.decode()
                needs = re.findall(r'gateway_engine_memory_need_bytes{backend="a",device="ram"} (\S+)', page)
                if any(float(amount) > 200 << 20 for amount in needs):
                    return
                await asyncio.sleep(0.1)

    async with two(tmp_path, text) as gateway:
        assert (await ask(gateway, "a")).status == 200
        await known(gateway)
    async with two(tmp_path, text) as gateway:
        await known(gateway)
        assert toy.starts == 1


async def test_what_a_client_of_either_worker_says_of_how_long_an_engine_stays_is_heard(
    tmp_path: Path,
) -> None:
    toy = Toy(tmp_path, "a")
    text = 'server: {listen: "127.0.0.1:0"}\nbackends:\n' + toy.section("start: on_demand, idle: 1h")
    async with two(tmp_path, text) as gateway:
        for _ in range(4):
            asked = {"model": "a", "prompt": "hi", "stream": False, "keep_alive": "1s"}
            assert (await gateway.ask("POST", "/api/generate", asked)).status == 200
        await becomes(gateway, "a", "stopped")
        starts = toy.starts
        assert (await gateway.ask("POST", "/api/generate", {"model": "a", "keep_alive": -1})).status == 200
        await becomes(gateway, "a", "ready")
        assert (await gateway.ask("POST", "/api/generate", {"model": "a", "keep_alive": 0})).status == 200
        await becomes(gateway, "a", "stopped")
        assert toy.starts == starts + 1
