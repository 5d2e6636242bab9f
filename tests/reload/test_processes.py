"""`gateway serve` as a process, alone and with workers, while its config changes: signals, files, the whole of it.

Rules:
- Everything is real but the engine. Nothing waits for a time: each test waits for what it wants to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.faults.support import question
from tests.processes import alive, children
from tests.reload.test_reload import BAD
from tests.reload.watched import text
from tests.serving import Answer, Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
PATIENCE = 60


class Running:
    """The process, its port, and its log so far."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path, port: int) -> None:
        self.process = process
        self.file = file
        self.port = port
        self.log: list[str] = []
        self.changed = asyncio.Event()

    async def read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log.append(line.decode())
            self.changed.set()

    async def says(self, words: str, times: int = 1) -> str:
        """Wait until the log has said something so many times."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = [line for line in self.log if words in line]
                if len(found) >= times:
                    return found[-1]
                self.changed.clear()
                await self.changed.wait()

    def put(self, content: str) -> None:
        new = self.file.with_name(".new")
        new.write_text(content)
        new.rename(self.file)

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        headers = {} if body is None else {"content_type": "application/json"}
        served = Served(None, None, self.port)  # type: ignore[arg-type]  # only its small client is used
        return await served.ask(method, path, body, headers)

    async def chat(self) -> Answer:
        return await self.ask("POST", "/v1/chat/completions", question("m"))

    async def serve(self, count: int) -> None:
        """Wait until so many workers serve: one that still starts gets the config in force as soon as it is up."""

        async def there() -> bool:
            return bool((await self.ask("GET", "/gateway/status")).json()["processes"] == count)

        await self.until(there)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Look until it holds."""
        async with asyncio.timeout(PATIENCE):
            while not await holds():  # noqa: ASYNC110 (another process tells nobody)
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(folder: Path, content: str, *options: str) -> AsyncIterator[Running]:
    file = folder / "gateway.yaml"
    file.write_text(content)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", str(file), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    first = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
    gateway = Running(process, file, int(first.split(b"http://")[1].split()[0].rpartition(b":")[2]))
    reading = asyncio.create_task(gateway.read())
    everything: list[int] = []
    try:
        while b"stop: Ctrl-C" not in await asyncio.wait_for(process.stdout.readline(), PATIENCE):
            assert process.returncode is None
        yield gateway
        everything = [pid for pid, _ in children(process.pid)]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    finally:
        if process.returncode is None:
            for pid, _ in children(process.pid):
                os.kill(
                    pid, signal.SIGKILL
                )  # also one that a test has stopped, which would hold the log open
            process.kill()
        await process.wait()
        await reading
    assert not [line for line in gateway.log if "Traceback" in line]
    assert not any(map(alive, everything))


def workers(gateway: Running) -> list[int]:
    return [pid for pid, command in children(gateway.process.pid) if " worker " in command]


async def test_a_changed_file_and_a_signal_reload(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["m"]) as a,
        FakeEngine(models=["m"]) as b,
        running(tmp_path, text(a)) as gateway,
    ):
        assert (await gateway.chat()).headers["x-gateway-backend"] == "a"
        gateway.put(text(b).replace("  a:", "  b:"))
        assert "backend 'a' is removed; backend 'b' is added (openai)" in await gateway.says("is reloaded")
        assert (await gateway.chat()).headers["x-gateway-backend"] == "b"
        gateway.process.send_signal(signal.SIGHUP)
        await gateway.says("the config is unchanged, version")
        gateway.put(BAD)
        line = await gateway.says("the config stays as it is")
        assert f"{gateway.file}:2:47: unknown key 'tiemouts'" in line
        gateway.process.send_signal(signal.SIGHUP)
        await gateway.says("the config stays as it is", times=2)
        assert (await gateway.chat()).status == 200


@pytest.mark.parametrize("number", [signal.SIGHUP])
async def test_a_process_that_ignores_hanging_up_goes_on_doing_so(number: int, tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as a:
        before = signal.signal(number, signal.SIG_IGN)
        try:
            async with running(tmp_path, text(a)) as gateway:
                gateway.process.send_signal(number)
                gateway.put("# other\n" + text(a))
                await gateway.says("is reloaded")
                assert not [line for line in gateway.log if "SIGHUP" in line]
        finally:
            signal.signal(number, before)


async def test_all_workers_change_or_none(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["m"]) as a,
        FakeEngine(models=["m"]) as b,
        running(tmp_path, text(a), "--workers", "3") as gateway,
    ):

        async def all_serve() -> bool:
            return len(workers(gateway)) == 3 and len(await versions(gateway)) == 1

        await gateway.until(all_serve)
        over = False

        async def client() -> int:
            count = 0
            while not over:
                answer = await gateway.chat()
                assert answer.status == 200 and answer.whole, answer.body
                count += 1
            return count

        clients = [asyncio.create_task(client()) for _ in range(3)]
        for number in range(1, 11):
            gateway.put(f"# {number}\n" + (text(b) if number % 2 else text(a, b)))
            answer = await gateway.ask("POST", "/gateway/reload", {})
            assert answer.status == 200, answer.body
            assert await versions(gateway) == {answer.json()["version"]}
            gateway.put(BAD)
            refused = await gateway.ask("POST", "/gateway/reload", {})
            assert (refused.status, refused.error["code"]) == (400, "invalid_config")
            assert await versions(gateway) == {answer.json()["version"]}
        over = True
        assert min(await asyncio.gather(*clients)) > 5
        page = (await gateway.ask("GET", "/metrics")).body.decode()
        assert "gateway_config_last_reload_success{} 0.0" in page
        assert page.count("gateway_config_info{") == 1
        shown = (await gateway.ask("GET", "/gateway/config")).json()
        assert shown["last_reload"]["result"] == "refused"


async def versions(gateway: Running) -> set[str]:
    """Return the versions that workers answer with; the kernel spreads connections over them."""
    answers = await asyncio.gather(*(gateway.ask("GET", "/gateway/config") for _ in range(24)))
    return {answer.json()["version"] for answer in answers}


async def test_a_worker_that_starts_while_the_file_is_wrong_has_the_config_in_force(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["m"]) as a,
        running(tmp_path, text(a), "--workers", "2") as gateway,
    ):
        version = (await gateway.ask("GET", "/gateway/config")).json()["version"]
        gateway.put("# changed\n" + text(a))
        await gateway.says("is reloaded")
        [changed] = await versions(gateway)
        assert changed != version
        gateway.put(BAD)
        await gateway.says("the config stays as it is")

        await gateway.serve(2)
        before = workers(gateway)
        os.kill(before[0], signal.SIGKILL)
        await gateway.says("starting another")

        async def replaced() -> bool:
            return len(workers(gateway)) == 2 and workers(gateway) != before

        await gateway.until(replaced)
        assert await versions(gateway) == {changed}
        assert (await gateway.chat()).status == 200


async def test_workers_move_to_another_address_together(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as a, running(tmp_path, text(a), "--workers", "2") as gateway:
        server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        moved = text(a).replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"')
        async with server:
            gateway.put(moved)
            await gateway.says(f"server.listen stays 127.0.0.1:0: cannot listen on 127.0.0.1:{port}")
            assert (await gateway.chat()).status == 200
        answer = await gateway.ask("POST", "/gateway/reload", {})
        assert answer.json()["changes"] == [f"server.listen: 127.0.0.1:0 -> 127.0.0.1:{port}"]
        gateway.port = port
        answers = await asyncio.gather(*(gateway.chat() for _ in range(12)))
        assert {answer.status for answer in answers} == {200}
        # A worker that starts now listens there too.
        os.kill(workers(gateway)[0], signal.SIGKILL)
        await gateway.says("starting another")

        await gateway.serve(2)
        assert json.loads((await gateway.chat()).body)["object"] == "chat.completion"


async def test_a_profile_is_that_of_all_workers_also_of_later_ones(tmp_path: Path) -> None:
    more = "models: {m: {targets: {a: m}}}\nprofiles: {night: {aliases: {other: m}}}\n"
    async with (
        FakeEngine(models=["m"]) as a,
        running(tmp_path, text(a, more=more), "--workers", "2") as gateway,
    ):

        async def statuses() -> set[int]:
            body = question("other")
            calls = (gateway.ask("POST", "/v1/chat/completions", body) for _ in range(16))
            return {answer.status for answer in await asyncio.gather(*calls)}

        async def profiles() -> set[str]:
            answers = await asyncio.gather(*(gateway.ask("GET", "/gateway/profile") for _ in range(16)))
            return {answer.json()["profile"] for answer in answers}

        await gateway.serve(2)
        assert await statuses() == {404}
        command = (
            sys.executable,
            "-m",
            "gateway",
            "profile",
            "night",
            "--url",
            f"http://127.0.0.1:{gateway.port}",
        )
        chosen = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert (await chosen.communicate())[0] == b"profile: night\n"
        assert await statuses() == {200}
        os.kill(workers(gateway)[0], signal.SIGKILL)
        await gateway.says("starting another")
        await gateway.serve(2)
        gateway.put("# other\n" + text(a, more=more))
        await gateway.says("is reloaded")
        assert (await profiles(), await statuses()) == ({"night"}, {200})


async def test_a_worker_that_does_not_answer_keeps_all_others_from_changing(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as a, running(tmp_path, text(a), "--workers", "2") as gateway:
        await gateway.serve(2)
        [before] = await versions(gateway)
        stuck = workers(gateway)[0]
        os.kill(stuck, signal.SIGSTOP)
        gateway.put("# other\n" + text(a))
        line = await gateway.says("the config stays as it is")
        assert "a worker did not answer in time; try again" in line
        os.kill(stuck, signal.SIGCONT)
        assert await versions(gateway) == {before}
        gateway.process.send_signal(signal.SIGHUP)
        await gateway.says("the config is reloaded")
        after = await versions(gateway)
        assert len(after) == 1 and after != {before}
        assert stuck in workers(gateway)
