"""A config applied while the gateway runs engines it has launched: which process stays, and when another one starts.

Rules:
- The engine is a program of a few lines that plays `llama-server`: it says which process answers, and its streams go on
  until a file appears, so that a test decides when they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from backends.base import Health
from gateway.fleet.member import Member
from tests.config.files import config as read
from tests.faults.clients import until
from tests.faults.support import question
from tests.processes import alive
from tests.serving import Answer, Served, serving

MODEL = Path(__file__).parents[2] / "models" / "demo.gguf"
SERVER = """#!{python}
import http.server, json, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer(json.dumps({{"data": [{{"id": "demo"}}], "status": "ok"}}).encode(), "application/json")
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.event(str(os.getpid()))
        while asked["messages"][0]["content"].endswith("slow") and not os.path.exists({go!r}):
            time.sleep(0.02)
        self.event(" end", "stop")
        self.chunk(b"data: [DONE]\\n\\n")
        self.wfile.write(b"0\\r\\n\\r\\n")
    def event(self, text, finish=None):
        choice = {{"index": 0, "delta": {{"content": text}}, "finish_reason": finish}}
        event = {{"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "demo", "choices": [choice]}}
        self.chunk(b"data: " + json.dumps(event).encode() + b"\\n\\n")
    def chunk(self, data):
        self.wfile.write(b"%x\\r\\n" % len(data) + data + b"\\r\\n")
        self.wfile.flush()
    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

SERVE = 'server: {listen: "127.0.0.1:0"}\n'
ANOTHER = SERVE + 'backends: {b: {engine: openai, url: "http://127.0.0.1:9", models: [m]}}'


class Scene:
    """A gateway with launched engines, whose config changes."""

    def __init__(self, folder: Path, served: Served) -> None:
        self.folder = folder
        self.served = served
        self.gateway = served.gateway

    def apply(self, config: str) -> None:
        self.gateway.apply(read(self.folder, config))

    def member(self, name: str = "a") -> Member:
        return self.gateway.fleet._members[name]

    def pid(self, name: str = "a") -> int:
        supervisor = self.member(name).supervisor
        assert supervisor is not None and supervisor.process.pid is not None
        return supervisor.process.pid

    async def ready(self, name: str = "a") -> int:
        """Wait until the backend is ready. Return its process."""
        await until(lambda: self.member(name).backend.health is Health.READY, f"{name} is ready")
        return self.pid(name)

    def ask(self, content: str = "quick") -> asyncio.Task[Answer]:
        body = question("demo", stream=True) | {"messages": [{"role": "user", "content": content}]}
        return asyncio.create_task(self.served.post("/v1/chat/completions", body))

    async def slow(self) -> asyncio.Task[Answer]:
        """Begin a stream that goes on until `let_go`."""
        body = json.dumps(question("demo", stream=True) | {"messages": [{"role": "user", "content": "slow"}]})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        reader, writer = await self.served.connect()
        writer.write((head + "Content-Type: application/json\r\nConnection: close\r\n\r\n" + body).encode())
        begun = await asyncio.wait_for(reader.readuntil(b"data: "), 10)

        async def rest() -> Answer:
            try:
                return Answer.read(begun + await asyncio.wait_for(reader.read(), 10))
            finally:
                writer.close()

        return asyncio.create_task(rest())

    def let_go(self) -> None:
        (self.folder / "go").touch()

    async def gone(self) -> None:
        await until(lambda: not self.gateway.fleet._leaving, "backends that have left have ended")


def answered_by(answer: Answer) -> int:
    """Return the process that wrote a stream that came whole."""
    assert (answer.status, answer.whole, answer.events[-1]) == (200, True, "[DONE]"), answer
    return int(json.dumps(answer.events[0]["choices"][0]["delta"]["content"]).strip('"'))


def command_line(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def config(folder: Path, threads: int = 1, drain: str = "30s", **more: Any) -> str:
    """Return a config with one launched engine; `more` is added to the backend."""
    program = folder / "llama-server"
    if not program.exists():
        program.write_text(SERVER.format(python=sys.executable, go=str(folder / "go")))
        program.chmod(0o700)
    launch = f"{{model: {MODEL}, runtime: {program}, threads: {threads}}}"
    added = "".join(f", {key}: {value}" for key, value in more.items())
    server = f'server: {{listen: "127.0.0.1:0", drain: {drain}}}'
    return f"{server}\nbackends:\n  a: {{engine: llamacpp, launch: {launch}{added}}}\n"


@contextlib.asynccontextmanager
async def scene(folder: Path, text: str) -> AsyncIterator[Scene]:
    async with serving(folder, text) as served:
        yield Scene(folder, served)


async def test_an_engine_lives_on_through_changes_that_do_not_concern_it(tmp_path: Path) -> None:
    async with scene(tmp_path, config(tmp_path)) as at:
        pid = await at.ready()
        for text in (
            config(tmp_path),
            config(tmp_path, labels="{gpu: none}", timeouts="{total: 9m}"),
            config(tmp_path, headers="{x-a: b}", models="[demo]"),
            config(tmp_path) + '  b: {engine: openai, url: "http://127.0.0.1:9", models: [m]}\n',
        ):
            at.apply(text)
            assert at.pid() == pid and at.member().backend.health is Health.READY
            assert answered_by(await at.ask()) == pid
        assert at.served.metric("gateway_backend_restarts_total") == 0


async def test_new_launch_options_wait_for_running_requests_and_new_requests_for_them(tmp_path: Path) -> None:
    async with scene(tmp_path, config(tmp_path)) as at:
        old = await at.ready()
        stream = await at.slow()
        at.apply(config(tmp_path, threads=2))
        later = at.ask()
        [view] = (await at.served.get("/gateway/backends")).json()
        assert (view["state"], view["reason"]) == ("loading", "its launch options have changed")
        assert alive(old) and not stream.done() and not later.done()
        at.let_go()
        assert answered_by(await stream) == old
        new = answered_by(await later)
        assert new != old and new == await at.ready()
        assert not alive(old)
        assert at.served.metric("gateway_backend_restarts_total") == 0, "nothing died"


async def test_requests_that_take_too_long_do_not_hold_up_new_launch_options(tmp_path: Path) -> None:
    async with scene(tmp_path, config(tmp_path)) as at:
        old = await at.ready()
        stream = await at.slow()
        at.apply(config(tmp_path, threads=2, drain="200ms"))
        assert answered_by(await at.ask()) != old
        assert not (await stream).whole
        assert not alive(old)


async def test_options_that_change_twice_are_the_last_ones(tmp_path: Path) -> None:
    async with scene(tmp_path, config(tmp_path)) as at:
        old = await at.ready()
        at.apply(config(tmp_path, threads=2))
        at.apply(config(tmp_path, threads=3))
        await until(lambda: not alive(old), "the old one has ended")
        pid = await at.ready()
        command = command_line(pid)
        assert command[command.index(b"-t") + 1] == b"3"


async def test_an_engine_that_cannot_start_is_corrected_at_once(tmp_path: Path) -> None:
    text = config(tmp_path)
    missing = text.replace(f"runtime: {tmp_path}/llama-server", f"runtime: {tmp_path}/no-such-program")
    async with scene(tmp_path, missing) as at:
        supervisor = at.member().supervisor
        assert supervisor is not None and supervisor.process.last_error is not None
        at.apply(text)
        assert answered_by(await at.ask()) == await at.ready()


async def test_an_engine_that_leaves_ends_when_its_stream_has(tmp_path: Path) -> None:
    async with scene(tmp_path, config(tmp_path)) as at:
        pid = await at.ready()
        stream = await at.slow()
        at.apply(ANOTHER)
        assert (await at.ask()).status == 404
        assert alive(pid) and not stream.done()
        at.let_go()
        assert answered_by(await stream) == pid
        await at.gone()
        assert not alive(pid)
        assert 'backend="a"' not in (await at.served.get("/metrics")).body.decode()


async def test_an_engine_that_dies_while_it_leaves_is_not_started_again(tmp_path: Path) -> None:
    async with scene(tmp_path, config(tmp_path)) as at:
        pid = await at.ready()
        stream = await at.slow()
        at.apply(ANOTHER)
        os.kill(pid, signal.SIGKILL)
        assert not (await stream).whole
        await at.gone()


async def test_attached_instead_of_launched_and_back(tmp_path: Path) -> None:
    async with scene(tmp_path, config(tmp_path)) as at:
        pid = await at.ready()
        stream = await at.slow()
        upstream = at.member().backend.upstream
        assert upstream is not None
        at.apply(SERVE + f'backends: {{a: {{engine: llamacpp, url: "{upstream.url}", models: [demo]}}}}')
        assert answered_by(await at.ask()) == pid, "nobody has told it to end yet"
        at.apply(config(tmp_path, drain="200ms"))
        at.let_go()
        await stream
        await at.gone()
        assert answered_by(await at.ask()) == await at.ready() != pid
        assert not alive(pid)
