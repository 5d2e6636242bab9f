"""What launched engines print, as operators read it: over HTTP and by `gateway logs`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import Health
from gateway.api import logs
from gateway.fleet.ring import LINES
from tests.config.files import config as read
from tests.console.commands import command
from tests.faults.clients import until
from tests.serving import Answer, Served, serving
from tests.test_workers_operated import Two, both_serve

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "demo.gguf"
ENGINE = """#!{python}
import http.server, os, pathlib, sys, threading, time
say = pathlib.Path({say!r})
print("my key is", os.environ["LLAMA_API_KEY"], flush=True)
def listen():
    while True:
        for file in sorted(say.glob("*.txt")):
            text = file.read_text()
            if text == "die":
                file.unlink()
                os._exit(3)
            print(text, flush=True)
            file.unlink()
        time.sleep(0.01)
threading.Thread(target=listen, daemon=True).start()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{{"data": [{{"id": "demo"}}], "status": "ok"}}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Scene:
    """A gateway with one launched engine, which prints what a test says."""

    def __init__(self, folder: Path, served: Served) -> None:
        self.served = served
        self._folder = folder
        self._count = 0

    async def say(self, text: str) -> None:
        """Have the engine print a text, and wait until it has."""
        self._count += 1
        file = self._folder / f"{self._count:04}.txt"
        file.with_suffix(".new").write_text(text)
        file.with_suffix(".new").rename(file)
        await until(lambda: not file.exists(), "the engine has printed it")

    async def logs(self, query: str = "") -> list[dict[str, Any]]:
        answer = await self.served.get(f"/gateway/backends/a/logs{query}")
        assert (answer.status, answer.whole) == (200, True), answer
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.body.splitlines()]

    async def printed(self, text: str) -> None:
        """Wait until the gateway has read a line."""
        for _ in range(500):
            if any(text in line["text"] for line in await self.logs()):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{text!r} should have come")


def config(folder: Path, more: str = "") -> str:
    program = folder / "llama-server"
    program.write_text(ENGINE.format(python=sys.executable, say=str(folder / "say")))
    program.chmod(0o700)
    (folder / "say").mkdir(exist_ok=True)
    launch = f"{{model: {MODEL}, runtime: {program}{more}}}"
    return f'server: {{listen: "127.0.0.1:0"}}\nbackends:\n  a: {{engine: llamacpp, launch: {launch}}}\n'


@contextlib.asynccontextmanager
async def scene(folder: Path, more: str = "") -> AsyncIterator[Scene]:
    async with serving(folder, config(folder, more)) as served:
        backend = served.gateway.pool.backends["a"]
        await until(lambda: backend.health is Health.READY, "the engine is ready")
        yield Scene(folder / "say", served)


class Reader:
    """A client that follows."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.seen = b""

    @classmethod
    async def at(cls, port: int, query: str = "?follow=1", limit: int = 1 << 16) -> Reader:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
        head = (
            f"GET /gateway/backends/{{}}/logs{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.format("a").encode())
        return cls(reader, writer)

    async def until(self, text: str, begin: int = 0) -> None:
        """Read until a text has come, behind the first `begin` bytes."""
        async with asyncio.timeout(20):
            while text.encode() not in self.seen[begin:]:
                piece = await self._reader.read(65536)
                assert piece, self.seen[-500:]
                self.seen += piece

    async def rest(self) -> list[dict[str, Any]]:
        """Read to the end of the answer, which must be whole. Return all of its lines."""
        async with asyncio.timeout(20):
            self.seen += await self._reader.read()
        answer = Answer.read(self.seen)
        assert (answer.status, answer.whole) == (200, True), answer
        return [json.loads(line) for line in answer.body.splitlines() if line]

    def close(self) -> None:
        self._writer.close()


async def test_the_last_lines_of_an_engine(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.say("one\ntwo\n\x1b[31mthree\x1b[0m")
        await at.printed("three")
        start, *lines = await at.logs()
        assert start["kind"] == "start"
        assert start["text"].startswith("the engine was started: process ")
        assert [(line["kind"], line["text"]) for line in lines] == [
            ("line", "my key is [key]"),
            ("line", "one"),
            ("line", "two"),
            ("line", "three"),
        ]
        assert [line["text"] for line in await at.logs("?lines=2")] == ["two", "three"]
        assert await at.logs("?lines=0") == []


async def test_a_key_of_the_operators_own_is_in_no_line(tmp_path: Path) -> None:
    async with scene(tmp_path, ", env: {LLAMA_API_KEY: sk-very-secret}") as at:
        await at.printed("my key is [key]")
        assert "sk-very-secret" not in str(await at.logs())


async def test_several_readers_follow_and_see_a_restart(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        readers = [await Reader.at(at.served.port) for _ in range(3)]
        try:
            for reader in readers:
                await reader.until("my key is [key]")
            await at.say("hello")
            for reader in readers:
                await reader.until('"text":"hello"')
            await at.say("die")
            for reader in readers:
                await reader.until('"kind":"end"')
                await reader.until('"kind":"start"', reader.seen.index(b'"kind":"end"'))
                assert b"exit status 3" in reader.seen
        finally:
            for reader in readers:
                reader.close()


async def test_a_reader_that_is_too_slow_is_told_what_it_has_lost_and_the_engine_does_not_wait(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path) as at:
        slow = await Reader.at(at.served.port, "?follow=1&lines=0", limit=1)
        try:
            await slow.until("200 OK")
            for part in range(30):
                lines = range(part * 1000, part * 1000 + 1000)
                await at.say("\n".join(f"{number} {'x' * 200}" for number in lines))
            await at.say("the last one")
            await at.printed("the last one")
            await slow.until("the last one")
            await at.say("again")
            await slow.until('"text":"again"')
            answer = Answer.read(slow.seen).body.splitlines()
            told = [json.loads(line) for line in answer if line]
            lost = [line for line in told if line["kind"] == "lost"]
            assert lost
            assert all(line["text"] == f"{line['count']} lines were lost" for line in lost)
            numbers = [int(line["text"].split()[0]) for line in told if "xxx" in line["text"]]
            assert len(numbers) + sum(line["count"] for line in lost) == 30_000
            assert numbers == sorted(set(numbers))
        finally:
            slow.close()


async def test_a_stream_ends_whole_when_its_backend_leaves(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        reader = await Reader.at(at.served.port)
        await reader.until("my key is")
        other = 'server: {listen: "127.0.0.1:0"}\nbackends: {b: {engine: openai, url: "http://127.0.0.1:9"}}'
        at.served.gateway.apply(read(tmp_path, other))
        assert (await reader.rest())[-1] == {"kind": "gone", "text": "the backend has left the config"}
        reader.close()


async def test_a_stream_ends_whole_when_the_gateway_stops(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        reader = await Reader.at(at.served.port)
        await reader.until("my key is")
        at.served.gateway.drain()
        assert (await reader.rest())[-1] == {"kind": "stop", "text": "the gateway stops"}
        reader.close()


async def test_silence_is_broken_by_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BEAT", 0.1)
    monkeypatch.setattr(logs, "WAIT", 0.1)
    async with scene(tmp_path) as at:
        reader = await Reader.at(at.served.port)
        await reader.until("1\r\n\n\r\n")
        reader.close()


async def test_who_may_not_and_what_is_not_there(tmp_path: Path) -> None:
    text = config(tmp_path).replace(
        "backends:\n", 'backends:\n  far: {engine: openai, url: "http://127.0.0.1:9"}\n'
    )
    keys = "keys:\n  op: {value: '${env.OP}', admin: true}\n  user: {value: '${env.USER}'}\n"
    async with serving(tmp_path, text + keys, {"OP": "sk-op", "USER": "sk-user"}) as served:

        async def ask(path: str, key: str = "sk-op") -> tuple[int, str]:
            found = await served.get(f"/gateway/backends/{path}", authorization=key and f"Bearer {key}")
            return found.status, found.error["code"]

        assert await ask("a/logs", "") == (401, "missing_api_key")
        assert await ask("a/logs", "sk-user") == (403, "admin_required")
        assert await ask("nobody/logs") == (404, "backend_not_found")
        assert await ask("far/logs?follow=1") == (400, "not_supported")
        assert (await ask(f"a/logs?lines={LINES + 1}"))[0] == 422


async def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with scene(tmp_path) as at:
        await at.say("hello\nyou")
        await at.printed("you")
        said = await command(capsys, at.served, "logs", "a")
        first, *lines = said.out.splitlines()
        assert (said.status, said.err) == (0, "")
        assert first.startswith("-- the engine was started: process ")
        assert first.endswith(" --")
        assert lines == ["my key is [key]", "hello", "you"]
        said = await command(capsys, at.served, "logs", "a", "-n", "1", "--json")
        assert json.loads(said.out)["text"] == "you"
        said = await command(capsys, at.served, "logs", "b")
        assert said == (1, "", "gateway: there is no backend 'b'\n")
        follower = asyncio.create_task(command(capsys, at.served, "logs", "a", "-f", "-n", "1"))
        supervisor = at.served.gateway.fleet._members["a"].supervisor
        assert supervisor is not None
        await until(lambda: bool(supervisor.process.printed._waiting), "the command follows")
        at.served.gateway.drain()
        said = await follower
        assert said == (0, "you\n", "gateway: the gateway stops\n")


@pytest.mark.slow
@pytest.mark.timeout(150)  # several programs start, one after the other
async def test_ctrl_c_ends_the_command_and_workers_ask_the_master(tmp_path: Path) -> None:
    """The real embedded engine, behind two workers."""
    file = tmp_path / "gateway.yaml"
    file.write_text(
        f'server: {{listen: "127.0.0.1:0"}}\n'
        f"backends: {{local: {{engine: llamacpp, launch: {{model: {MODEL}, threads: 1}}}}}}\n"
    )
    gateway = [sys.executable, "-m", "gateway"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *gateway, "serve", str(file), "--workers", "2", stdout=pipe, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        told = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        port = int(re.findall(r":(\d+)", told)[-1])
        await both_serve(Two(process, port))
        command = [*gateway, "logs", "local", "-f", "--url", f"http://127.0.0.1:{port}"]
        follower = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, cwd=ROOT)
        assert follower.stdout is not None and follower.stderr is not None
        async with asyncio.timeout(60):
            first = await follower.stdout.readline()
            assert first.startswith(b"-- the engine was started: process ")
            os.kill(int(first.split(b"process ")[1].split(b",")[0]), signal.SIGKILL)
            assert b"the engine stopped: something killed it" in await follower.stdout.readline()
            assert b"the engine was started: process " in await follower.stdout.readline()
            follower.send_signal(signal.SIGINT)
            assert await follower.wait() == 130
            assert await follower.stderr.read() == b""
        last = [*command, "-n", "1"]
        second = await asyncio.create_subprocess_exec(*last, stdout=pipe, stderr=pipe, cwd=ROOT)
        assert second.stdout is not None and second.stderr is not None
        async with asyncio.timeout(60):
            assert await second.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert await second.stderr.read() == b"gateway: the gateway stops\n"
            assert await second.wait() == 0
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
        await asyncio.wait_for(process.wait(), 30)
