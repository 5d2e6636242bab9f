"""A gateway that reloads its config, for tests: the real server and the real reloader, in the test's own event loop.

Rules:
- Only the pauses between looks at the files are shorter than in the product.
- Afterwards nothing is in flight, no lease is held, and no task or connection is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from gateway.adopt import Process
from gateway.config.disk import Disk
from gateway.config.file import read
from gateway.fake.engine import FakeEngine
from gateway.fleet.peers import Alone
from gateway.reload import Reloader
from gateway.serve import build, listen
from tests.faults.clients import until
from tests.faults.support import question
from tests.serving import Answer, Served, idle

PAUSES = (0.02, 0.01)
SERVER = 'server: {listen: "127.0.0.1:0", auth: none}\n'


def text(*engines: FakeEngine, server: str = SERVER, more: str = "") -> str:
    """Return a config of backends `a`, `b`, ... that all serve `m`."""
    lines = [
        f'  {name}: {{engine: openai, url: "{engine.url}", models: [m]}}'
        for name, engine in zip("abc", engines, strict=False)
    ]
    return "\n".join([server, "backends:", *lines, more])


class Watched:
    """The gateway, and the file that it watches."""

    def __init__(self, served: Served, file: Path, reloader: Reloader) -> None:
        self.served = served
        self.gateway = served.gateway
        self.file = file
        self.reloader = reloader

    def count(self, result: str) -> float:
        return self.served.metric("gateway_config_reloads_total", result=result)

    async def write(self, content: str, result: str = "applied") -> None:
        """Replace the file as editors do, and wait until that has come to this result."""
        await self.after(lambda: self.put(content), result)

    def put(self, content: str) -> None:
        new = self.file.with_name(".new")
        new.write_text(content)
        new.rename(self.file)

    async def after(self, change: Callable[[], object], result: str) -> None:
        before = self.count(result)
        change()
        await until(lambda: self.count(result) > before, f"the config is {result}", 20)

    async def ask(self, **headers: str) -> Answer:
        return await self.served.post("/v1/chat/completions", question("m"), **headers)


@contextlib.asynccontextmanager
async def watched(folder: Path, content: str) -> AsyncIterator[Watched]:
    """Serve a config on a free port and watch its file."""
    file = folder / "gateway.yaml"
    file.write_text(content)
    disk = Disk()
    loaded = read(file, os.environ, disk)
    listener = listen(loaded.config.server.listen)
    assert listener is not None
    before = asyncio.all_tasks()
    peers = Alone()
    server, gateway = build(loaded.config, peers)
    process = Process(gateway, server)
    process.begin(loaded)
    reloader = Reloader(file, loaded, disk, process, gateway.metrics, PAUSES)
    peers.on_reload = reloader.ask
    running = asyncio.create_task(server.run_on(listener))
    watching = asyncio.create_task(reloader.run())
    try:
        await asyncio.wait_for(gateway.ready(), 30)
        yield Watched(Served(gateway, server, listener.getsockname()[1]), file, reloader)
        await idle(gateway)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        server.stop()
        server.on_signal()
        await asyncio.wait_for(running, 30)
    assert not asyncio.all_tasks() - before - {asyncio.current_task()}
