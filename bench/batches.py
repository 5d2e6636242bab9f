"""How fast a batch is worked on, and what it takes: 50,000 lines through a fake engine, by a gateway of its own.

    python -m bench.batches [--lines N] [--concurrency N]

It prints the lines per second, the CPU of the gateway for each line, and its memory: before the upload, after it, while
the batch runs and at its end. Before and after the batch the same requests go to the same engine directly, as many at
once, by a small client of this program; the share of their mean rate that the batch has is printed too. Nothing else
should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_GATEWAY: Final = Path(sys.executable).with_name("gateway")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_BOUNDARY: Final = "bench-boundary"
_ENDS: Final = ("completed", "failed", "cancelled", "expired")


class Process:
    """One process that serves on a port of its own choice."""

    def __init__(self, *words: str) -> None:
        """Start it, and wait until it says where it listens."""
        self.started = subprocess.Popen([_GATEWAY, *words], stdout=subprocess.PIPE, text=True)
        assert self.started.stdout is not None
        for line in self.started.stdout:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found is not None:
                self.port = int(found[1])
                return
        raise SystemExit(f"{' '.join(words)} has ended")

    @property
    def memory(self) -> float:
        """MiB that it has in memory now."""
        return self._status("VmRSS")

    @property
    def most(self) -> float:
        """MiB that it had at most."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        text = Path(f"/proc/{self.started.pid}/status").read_text()
        found = re.search(rf"{name}:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) / 1024

    @property
    def cpu(self) -> float:
        """Seconds that it has computed."""
        fields = Path(f"/proc/{self.started.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def end(self) -> None:
        """End it."""
        self.started.terminate()
        self.started.communicate()


def _ask(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {data.decode(errors='replace')}")
        return json.loads(data)


def _form(file: Path) -> Iterator[bytes]:
    """Yield an upload piece by piece."""
    part = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; "
    yield f'{part}name="purpose"\r\n\r\nbatch\r\n{part}name="file"; filename="in.jsonl"\r\n\r\n'.encode()
    with file.open("rb") as data:
        while piece := data.read(1 << 18):
            yield piece
    yield f"\r\n--{_BOUNDARY}--\r\n".encode()


def _written(file: Path, lines: int) -> None:
    with file.open("w") as out:
        for number in range(lines):
            body = {
                "model": "m",
                "messages": [{"role": "user", "content": f"Say something about {number}. " + "x" * 400}],
                "max_tokens": 16,
            }
            line = {"custom_id": f"n{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            out.write(json.dumps(line) + "\n")


async def _straight(port: int, file: Path, concurrency: int) -> float:
    """Send the requests of a file to the engine itself. Return how many it answered in a second."""
    requests = iter(_requests(file))
    count = 0

    async def sends() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in requests:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = _LENGTH(head)
            if not head.startswith(b"HTTP/1.1 200 ") or found is None:
                raise SystemExit(f"the engine answered {head!r}")
            await reader.readexactly(int(found[1]))
            count += 1
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*(sends() for _ in range(concurrency)))
    return count / (time.monotonic() - began)


_LENGTH: Final = re.compile(rb"(?i)content-length: (\d+)").search


def _requests(file: Path) -> Iterator[bytes]:
    """Yield the requests of a file as the engine gets them."""
    with file.open("rb") as lines:
        for line in lines:
            body = json.dumps(json.loads(line)["body"]).encode()
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
            yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def measured(folder: Path, lines: int, concurrency: int) -> dict[str, Any]:
    """Have a batch of so many lines be worked on. Return what that took."""
    file = folder / "in.jsonl"
    _written(file, lines)
    engine = Process("fake-engine", "--port", "0", "--model", "up", "--first-token", "0ms", "--tokens", "16")
    config = folder / "gateway.yaml"
    config.write_text(
        f"""
server: {{listen: "127.0.0.1:0", data: "{folder / "data"}", batches: {{concurrency: {concurrency}}}}}
backends: {{e: {{engine: openai, url: "http://127.0.0.1:{engine.port}", models: [up]}}}}
models: {{m: {{targets: {{e: up}}}}}}
"""
    )
    straight = asyncio.run(_straight(engine.port, file, concurrency))
    gateway = Process("serve", str(config))
    try:
        port, start = gateway.port, gateway.memory
        began = time.monotonic()
        kind = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
        uploaded = _ask(port, "POST", "/v1/files", _form(file), kind)
        upload = time.monotonic() - began
        after = gateway.memory
        wanted = {
            "input_file_id": uploaded["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        cpu, began = gateway.cpu, time.monotonic()
        batch = _ask(port, "POST", "/v1/batches", json.dumps(wanted), {"content-type": "application/json"})
        memory = []
        while batch["status"] not in _ENDS:
            time.sleep(0.25)
            memory.append(gateway.memory)
            batch = _ask(port, "GET", f"/v1/batches/{batch['id']}")
        seconds = time.monotonic() - began
        cpu = gateway.cpu - cpu
        straight = (straight + asyncio.run(_straight(engine.port, file, concurrency))) / 2
        return {
            "status": batch["status"],
            "counts": batch["request_counts"],
            "upload MB/s": round(uploaded["bytes"] / 1e6 / upload, 1),
            "requests/s of the engine alone": round(straight),
            "lines/s": round(lines / seconds),
            "share of the engine's rate": f"{lines / seconds / straight:.0%}",
            "CPU µs per line": round(cpu / lines * 1e6),
            "MiB at the start": round(start, 1),
            "MiB after the upload": round(after, 1),
            "MiB in the first tenth": round(max(memory[: max(1, len(memory) // 10)]), 1),
            "MiB in the last tenth": round(max(memory[-max(1, len(memory) // 10) :]), 1),
            "MiB at most": round(gateway.most, 1),
        }
    finally:
        gateway.end()
        engine.end()


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.batches", description=__doc__)
    parser.add_argument("--lines", type=int, default=50_000, help="lines of the batch (default: 50000)")
    parser.add_argument("--concurrency", type=int, default=32, help="lines at once (default: 32)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, value in measured(Path(folder), options.lines, options.concurrency).items():
            print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
