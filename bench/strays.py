"""`make strays`: an engine that writes one answer too many now and then, and clients that look whose answer they get.

Rules:
- The gateway is a real process. Every answer quotes its request's nonce; a stray quotes the nonce before it, as if it
  were its predecessor's private answer.
- `caught` has the gateway's distrust turned off, so that each stray meets only the rule by which a connection is used
  again. The strays come with the answer or in a segment of their own right behind it.
- `found out` is the gateway as it is, with strays that come up to two milliseconds late. HTTP/1.1 gives no means
  against one that comes when the next request is under way, so what counts is how soon no connection is used again.
- Exit 1 if a client got another's answer in the first run, or after the engine was found out in the second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import uvloop

from bench import probe
from gateway.config import file as config
from gateway.serve import build, listen

ROOT = Path(__file__).resolve().parent.parent
MODEL = "m"
KINDS = ("same write", "next write")
"""When a stray comes that is not late."""
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_NONCE = re.compile(rb"nonce-(\d+)-end")


def answer(nonce: bytes) -> bytes:
    """Return a complete answer that quotes a nonce."""
    body = json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": f"nonce-{nonce.decode()}-end"},
                    "finish_reason": "stop",
                }
            ],
        }
    ).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


class Engine:
    """What the connections of the engine share."""

    def __init__(self, share: float, late: float = 0.0, seed: int = 1) -> None:
        """Write a stray after this share of the answers; `late` seconds after it at most, or as `KINDS` say."""
        self.share = share
        self.late = late
        self.random = random.Random(seed)
        self.strays: Counter[str] = Counter()
        self.requests = self.connections = 0

    def connection(self) -> EngineConnection:
        return EngineConnection(self)


class EngineConnection(asyncio.Protocol):
    """One connection to the engine."""

    transport: asyncio.Transport

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._data = b""
        self._before = b"0"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._engine.connections += 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self._data, 0, head)
        end = head + 4 + (int(length[1]) if length else 0)
        if len(self._data) < end:
            return
        request, self._data = self._data[:end], self._data[end:]
        nonce = _NONCE.search(request)
        if nonce is None:
            body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return
        self._engine.requests += 1
        self._answer(nonce[1])

    def _answer(self, nonce: bytes) -> None:
        engine, write = self._engine, self.transport.write
        whole, stray = answer(nonce), answer(self._before)
        self._before = nonce
        if engine.random.random() >= engine.share:
            write(whole)
        elif engine.late:
            engine.strays["late"] += 1
            write(whole)
            asyncio.get_running_loop().call_later(engine.late * engine.random.random(), write, stray)
        else:
            kind = engine.random.choice(KINDS)
            engine.strays[kind] += 1
            if kind == "same write":
                write(whole + stray)
            else:
                # Not by the transport, which would put the two together.
                socket = self.transport.get_extra_info("socket").fileno()
                os.write(socket, whole)
                os.write(socket, stray)


class Clients:
    """Connections to the gateway, each with one request after the other, and what came of them."""

    def __init__(self, port: int, requests: int) -> None:
        self.port = port
        self.left = requests
        self.sent = 0
        self.results: Counter[str] = Counter()
        self.last_wrong = 0
        """The number of the last request that got another's answer; 0 for none."""

    async def run(self, connections: int) -> None:
        """Send all requests on so many connections."""
        await asyncio.gather(*(self._one() for _ in range(connections)))

    async def _one(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while self.left:
                self.left -= 1
                self.sent += 1
                nonce = b"%d" % self.sent
                body = b'{"model":"m","messages":[{"role":"user","content":"nonce-%b-end"}]}' % nonce
                writer.write(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(body), body)
                )
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                assert length is not None, head
                got = await reader.readexactly(int(length[1]))
                self._judge(int(nonce), head, _NONCE.findall(got))
        finally:
            writer.close()

    def _judge(self, number: int, head: bytes, found: list[bytes]) -> None:
        if found == [b"%d" % number]:
            self.results["right"] += 1
        elif found:
            self.results["another's"] += 1
            self.last_wrong = max(self.last_wrong, number)
        else:
            self.results[f"error {head[9:12].decode()}"] += 1


def gateway_config(port: int, engine: int) -> str:
    """Return the config of a gateway before the engine."""
    return (
        f'server: {{listen: "127.0.0.1:{port}", log: {{level: error}}}}\n'
        f"backends: {{engine: {{engine: openai, url: 'http://127.0.0.1:{engine}', models: [{MODEL}]}}}}\n"
    )


async def serve(file: Path, distrust: float | None) -> None:
    """Run a gateway whose pools distrust an engine that strayed for so many seconds; None: as ever."""
    loaded = config.load(file, {})
    listener = listen(loaded.server.listen)
    assert listener is not None
    server, gateway = build(loaded)
    running = asyncio.create_task(server.run_until_signal(listener))
    await gateway.ready()
    for backend in gateway.pool.backends.values():
        if distrust is not None and backend.upstream is not None:
            backend.upstream.pool.distrust = distrust
    await running


async def play(engine: Engine, requests: int, clients: int, distrust: float | None) -> Clients:
    """Play one run against a gateway in a process of its own."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(engine.connection, "127.0.0.1", 0, backlog=4096)
    port = probe.free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.yaml"
        file.write_text(gateway_config(port, server.sockets[0].getsockname()[1]))
        told = [] if distrust is None else ["--distrust", str(distrust)]
        process = _start(file, *told)
        try:
            await asyncio.wait_for(_until_ready(port), 60)
            asking = Clients(port, requests)
            await asking.run(clients)
            return asking
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)
            server.close()


def _start(file: Path, *told: str) -> subprocess.Popen[bytes]:
    """Start a gateway with this config."""
    return subprocess.Popen([sys.executable, "-m", "bench.strays", "--serve", str(file), *told], cwd=ROOT)


async def _until_ready(port: int) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            if b" 200 " in await reader.read():
                return
            writer.close()
        except OSError:
            pass
        await asyncio.sleep(0.1)


def report(name: str, engine: Engine, asked: Clients, seconds: float) -> None:
    """Print what one run found."""
    per = engine.requests / max(1, engine.connections)
    strays = ", ".join(f"{count} {kind}" for kind, count in sorted(engine.strays.items()))
    results = ", ".join(f"{count} {kind}" for kind, count in sorted(asked.results.items()))
    print(
        f"{name}: {asked.sent} requests in {seconds:.0f} s, {results}; "
        f"{sum(engine.strays.values())} strays ({strays}); "
        f"{engine.connections} connections, {per:.1f} requests on each",
        flush=True,
    )


async def main(requests: int, clients: int, share: float) -> int:
    """Play both runs and return the exit status."""
    began = time.monotonic()
    engine = Engine(share)
    caught = await play(engine, requests, clients, 0.0)
    report("caught", engine, caught, time.monotonic() - began)
    began = time.monotonic()
    engine = Engine(share, late=0.002)
    late = await play(engine, requests // 10, clients, None)
    report("found out", engine, late, time.monotonic() - began)
    print(f"found out: the last answer that reached another was that of request {late.last_wrong}")
    sound = caught.results == {"right": requests} and late.last_wrong < requests // 20
    return 0 if sound else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make strays")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.05, help="of the answers, after which a stray comes")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--distrust", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        uvloop.run(serve(given.serve, given.distrust))
    else:
        sys.exit(uvloop.run(main(given.requests, given.clients, given.share)))
