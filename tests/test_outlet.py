"""What the gateway says about itself holds nobody up, read or not."""

import asyncio
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from gateway.fake.engine import FakeEngine
from gateway.logs import Json
from gateway.outlet import Outlet, OutletHandler, dropped


def test_nobody_waits_for_a_reader_and_what_was_dropped_is_told() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "w") as stream:
        outlet = Outlet(stream, room=10_000)
        for number in range(5000):
            outlet.put(f"line {number:05} " + "x" * 80)
        outlet.flush(0)
        with open(os.dup(writing), "w") as other:
            # A pipe holds less than all this, so the thread waits for the reader now.
            assert outlet._thread is not None and outlet._thread.is_alive() and other.writable()
        lines: list[str] = []
        told = 0
        while len(lines) + told < 5000:
            line = reader.readline().decode().rstrip("\n")
            if found := re.fullmatch(r"(\d+) lines were dropped here: nobody read them in time", line):
                told += int(found[1])
            else:
                lines.append(line)
        assert told > 1000 and lines == sorted(lines)
        outlet.put("again")
        assert reader.readline() == b"again\n"
        outlet.flush()


def test_several_processes_append_whole_lines_to_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[bytes] = []

    def write(_: int, data: bytes) -> int:
        pieces.append(data)
        return len(data)

    monkeypatch.setattr("gateway.outlet.os.write", write)
    sizes = [10, 3000, 2000, 4095, 4096, 9000, 1, 700, 700]
    written = b"".join(b"x" * size + b"\n" for size in sizes)
    with (tmp_path / "log").open("a") as stream:
        Outlet(stream)._write(written)
    assert b"".join(pieces) == written
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= 4096 or piece.count(b"\n") == 1 for piece in pieces)


def test_lines_that_are_gathered_are_written_together_and_at_the_latest_when_asked_for(
    tmp_path: Path,
) -> None:
    looks: list[int] = []
    file = tmp_path / "log"
    outlet = Outlet(file.open("a"), before=looks.append, gather=30.0)
    for number in range(50):
        outlet.put(f"line {number}")
    began = time.monotonic()
    outlet.leave_out()
    outlet.flush(10)
    assert time.monotonic() - began < 5
    assert file.read_text().splitlines() == [*(f"line {number}" for number in range(50)), dropped(1)]
    assert len(looks) == 1
    outlet.put("the last line")
    outlet.close()
    assert outlet._thread is not None
    outlet._thread.join(5)
    assert file.read_text().endswith("\nthe last line\n")


def test_a_closed_outlet_has_written_everything_and_its_file_is_closed(tmp_path: Path) -> None:
    for lines in (["one", "two"], []):
        stream = (tmp_path / "log").open("w")
        outlet = Outlet(stream)
        for line in lines:
            outlet.put(line)
        thread = outlet._thread
        outlet.close()
        if thread is not None:
            thread.join(10)
            assert not thread.is_alive()
        assert stream.closed
        assert (tmp_path / "log").read_text().splitlines() == lines


class Picky(Json):
    """A formatter with a bug."""

    def format(self, record: logging.LogRecord) -> str:
        if record.args == (1,):
            raise TypeError
        return super().format(record)


def test_lines_of_a_log_are_formatted_whatever_they_hold() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "w", encoding="ascii") as stream:
        handler = OutletHandler(stream, Picky())
        for message, arguments in (("a %s", ("\u901a",)), ("one %d of %d", (1,))):
            handler.emit(
                logging.LogRecord("gateway.test", logging.WARNING, __file__, 1, message, arguments, None)
            )
        handler.flush()
        assert json.loads(reader.readline())["message"] == "a \u901a"
        assert reader.readline() == b"a message of gateway.test cannot be formatted: TypeError\n"
        assert json.loads(handler._notice(3))["message"] == dropped(3)


CONFIG = """
server: {{listen: "127.0.0.1:0", log: {{level: debug}}}}
backends: {{a: {{engine: openai, url: "{url}", models: [m]}}}}
"""
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def all_of(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


async def test_a_gateway_whose_stderr_nobody_reads_still_answers(tmp_path: Path) -> None:
    """Each request is a line of the log; a pipe holds about a thousand of them, and then a write would block."""
    file = tmp_path / "gateway.yaml"
    async with FakeEngine(models=["m"], rules=[{"say": "one"}]) as engine:
        file.write_text(CONFIG.format(url=engine.url))
        reading, writing = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", str(file)),
            stdout=asyncio.subprocess.PIPE,
            stderr=writing,
        )
        os.close(writing)
        assert process.stdout is not None
        first = (await process.stdout.readline()).decode()
        port = int(re.findall(r":(\d+)", first)[0])
        await process.stdout.readuntil(b"m")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        long = b"X-Request-Id: " + b"i" * 120 + b"\r\n"
        for _ in range(800):
            writer.write(POST + long + b"Content-Length: %d\r\n\r\n" % len(CHAT) + CHAT)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.findall(rb"content-length: (\d+)", head)[0])
            assert head.startswith(b"HTTP/1.1 200") and await reader.readexactly(length)
        writer.close()
        process.send_signal(signal.SIGTERM)
        read = await asyncio.to_thread(all_of, reading)
        assert await process.wait() == 0
        assert len(read) > 65_536
