"""A gateway for tests: the real server, protocol and application, in the test's own event loop.

Rules:
- Everything is real but the process: sockets on loopback, the config file's own reader, the product's server class.
- After each use the invariants are checked: no request in flight, no lease held, no task or connection left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import Health
from gateway.app import Gateway
from gateway.asked import Asked
from gateway.config import file as config
from gateway.request import Exchange
from gateway.routing.decision import Decision
from gateway.routing.router import Router
from gateway.serve import Server, build, listen
from gateway.store.opening import opened


@dataclass
class Served:
    """A running gateway and the small HTTP client of the tests."""

    gateway: Gateway
    server: Server
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def raw(self, data: bytes, timeout: float = 30) -> bytes:
        """Send bytes on a new connection and read until the gateway closes it."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            async with asyncio.timeout(timeout):
                return await reader.read()
        finally:
            writer.close()

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, None, headers)

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        """`body` is JSON unless it is bytes; in header names an underscore stands for a hyphen."""
        return await self.ask("POST", path, body, {"content_type": "application/json", **headers})

    async def ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value]
        if body is not None:
            lines.append(f"Content-Length: {len(data)}")
        return Answer.read(await self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + data))

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the metrics page's samples with this name and these labels; 0 where there is none."""
        wanted = {f"{label}={json.dumps(value, ensure_ascii=False)}" for label, value in labels.items()}
        total = 0.0
        for line in "".join(self.gateway.metrics.pieces()).splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.startswith(name + "{") and wanted <= set(sample[len(name) + 1 : -1].split(",")):
                total += float(value)
        return total


@dataclass
class Answer:
    """One HTTP answer, read from raw bytes."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool
    """The transfer coding came to its proper end."""

    @classmethod
    def read(cls, data: bytes) -> Answer:
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        whole = True
        if headers.get("transfer-encoding") == "chunked":
            rest, whole = _unchunked(rest)
        elif "content-length" in headers:
            whole = len(rest) == int(headers["content-length"])
        return cls(int(first.split()[1]), headers, rest, whole)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The OpenAI error; fails the test where the body is not one."""
        assert self.headers["content-type"] == "application/json"
        body = self.json()
        if body.get("type") == "error":  # as Anthropic's API has it, with the request's id
            del body["type"]
            assert body.pop("request_id") == self.headers["request-id"]
        assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["message"]
        return dict(body["error"])

    @property
    def events(self) -> list[Any]:
        """The payloads of an SSE body, decoded; `[DONE]` as it is."""
        payloads = [event.removeprefix(b"data: ") for event in self.body.split(b"\n\n") if event]
        return [payload.decode() if payload == b"[DONE]" else json.loads(payload) for payload in payloads]


def _unchunked(data: bytes) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    start = 0
    while (end := data.find(b"\r\n", start)) > start:
        count = int(data[start:end], 16)
        if count == 0:
            return b"".join(parts), data[end:] == b"\r\n\r\n"
        parts.append(data[end + 2 : end + 2 + count])
        start = end + 2 + count + 2
    return b"".join(parts), False


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    text: str,
    environ: Mapping[str, str] | None = None,
    *,
    patient: bool = True,
    alone: bool = True,
) -> AsyncIterator[Served]:
    """Serve a config text on a free port; `folder` takes the file.

    `patient`: wait out what is loading. `alone`: nothing else starts tasks in this loop, so none may be left.
    """
    file = folder / "gateway.yaml"
    if "server:" not in text:
        text = 'server: {listen: "127.0.0.1:0"}\n' + text
    file.write_text(text)
    loaded = config.load(file, environ or {})
    listener = listen(loaded.server.listen)
    assert listener is not None
    before = asyncio.all_tasks()
    server, gateway = build(loaded, store=opened(loaded))
    running = asyncio.create_task(server.run_on(listener))
    served = Served(gateway, server, listener.getsockname()[1])
    passed = False
    try:
        await asyncio.wait_for(_settled(gateway, patient), 30)
        yield served
        await idle(gateway)
        passed = True
    finally:
        server.stop()
        if not passed:
            # A client that a failed test left behind reads nothing more: it would be waited for.
            server.on_signal()
        await asyncio.wait_for(running, 30)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not (alone and left), left


async def _settled(gateway: Gateway, patient: bool) -> None:
    """Wait until every backend has been found up or down, or loading for those who are not patient."""
    unsettled = (None, Health.LOADING) if patient else (None,)
    while any(backend.health in unsettled for backend in gateway.pool.backends.values()):
        await gateway.pool.change()


def on_decision(gateway: Gateway, act: Callable[[Exchange, Decision], None]) -> None:
    """Call `act` with each request when it has been decided where it goes, before it is dispatched.

    Another snapshot, after a reload for example, does so no more.
    """

    class Telling(Router):
        def decide(self, asked: Asked, now: float) -> Decision:
            decision = router.decide(asked, now)
            running = gateway.core.register.running
            act(next(each for each in running if getattr(each, "asked", None) is asked), decision)
            return decision

    router = gateway.core.snapshot.router
    telling = Telling(router.catalog, router.rules, router._state)
    gateway.core.snapshot = dataclasses.replace(gateway.core.snapshot, router=telling)


async def idle(gateway: Gateway) -> None:
    """Wait until nothing is in flight, and hold the gateway to it.

    Raises:
        AssertionError: After five seconds a lease is still open, or a connection is neither idle nor closed.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            # A lease that closes tells nobody, and a health probe may be under way: this looks again and again.
            while _busy(gateway):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert not (left := _busy(gateway)), left


def _busy(gateway: Gateway) -> list[str]:
    """Return what is still in use: leases, and connections that are neither idle nor closed."""
    busy: list[str] = []
    for backend in gateway.pool.backends.values():
        if backend.in_flight:
            busy.append(f"{backend.name}: {backend.in_flight} in flight")
        upstream = backend.upstream
        if upstream is not None and upstream.open != upstream.idle:
            busy.append(f"{backend.name}: {upstream.open} connections open, {upstream.idle} idle")
    return busy
