"""`gateway status`, `gateway requests` and `gateway top` against a real gateway; `top` also on a terminal.

Rules:
- The gateway runs in the test's own loop, the commands in threads; on a terminal `top` is a process of its own.
- Waiting is for what the terminal shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.process import ROOT
from tests.console.commands import command
from tests.fleet.test_orders import ask, config, two
from tests.serving import serving

Capsys = pytest.CaptureFixture[str]
PATIENCE = 40.0
"""Seconds until something that should be shown counts as missing."""


async def test_the_status_of_a_gateway_and_its_exit_status(tmp_path: Path, capsys: Capsys) -> None:
    async with two(tmp_path) as (served, _, _):
        said = await command(capsys, served, "status")
        assert said.status == 0 and said.err == ""
        first, up, requests, empty, head, a, b = said.out.splitlines()
        assert re.fullmatch(rf"gateway \S+ at {served.url}: ready", first)
        assert up.startswith("up ") and up.endswith(", 1 process, config -") and empty == ""
        assert requests == "requests: 0 now; no data yet"
        assert head.split()[0] == "BACKEND"
        assert a.split() == ["a", "openai", "ready", "0", "-", "closed", "no", "-"] and b.split()[0] == "b"
        for name in "ab":
            await command(capsys, served, "drain", name)
        await ask(served)
        said = await command(capsys, served, "status")
        assert said.status == 1
        assert "not ready: no backend is ready yet (drained by an operator: a, b)" in said.out
        assert "requests: 0 now; 1 finished, 100.0 % of them failed" in said.out
        said = await command(capsys, served, "status", "--json")
        shown = json.loads(said.out)
        assert (said.status, shown["ready"], len(shown["backends"])) == (1, False, 2)
    said = await command(capsys, served, "status")
    assert (said.status, said.out) == (1, "") and "cannot reach the gateway" in said.err


async def test_requests_are_shown_and_one_is_cancelled(tmp_path: Path, capsys: Capsys) -> None:
    async with two(tmp_path) as (served, a, b):
        said = await command(capsys, served, "requests")
        assert said == (0, "no request runs\n", "")
        for engine in (a, b):
            engine.set(rules=[{"endless": True, "gap": 0.02, "text": "count"}])
        streams = [ask(served, stream=True) for _ in range(2)]
        await a.until(lambda: any(each.events for each in a.requests))
        await b.until(lambda: any(each.events for each in b.requests))
        said = await command(capsys, served, "requests")
        head, *rows = said.out.splitlines()
        assert head.split() == "ID KEY MODEL BACKEND OPERATION PHASE AGE ATTEMPTS TOKENS".split()
        assert {row.split()[3] for row in rows} == {"a", "b"} and "stream" in rows[0]
        said = await command(capsys, served, "requests", "--limit", "1")
        assert len(said.out.splitlines()) == 2
        assert said.err == "... and 1 more; --limit shows more of them\n"
        said = await command(capsys, served, "requests", "--backend", "b", "--json")
        [row] = json.loads(said.out)["requests"]
        said = await command(capsys, served, "requests", "--cancel", row["id"])
        assert said == (0, f"{row['id']}: cancelled\n", "")
        said = await command(capsys, served, "requests", "--cancel", row["id"])
        assert (said.status, said.err) == (1, f"gateway: no request with the id '{row['id']}' runs\n")
        [left] = served.gateway.core.register.running
        await command(capsys, served, "requests", "--cancel", left.name)
        for answer in await asyncio.gather(*streams):
            assert answer.events[-1]["error"]["code"] == "cancelled_by_operator"


async def test_one_frame_of_what_happens(tmp_path: Path, capsys: Capsys) -> None:
    async with two(tmp_path) as (served, a, b):
        said = await command(capsys, served, "top", "--once", "--interval", "0.1")
        assert said.status == 0 and "no data, nothing was asked" in said.out and "\x1b" not in said.out
        for engine in (a, b):
            engine.set(rules=[{"endless": True, "gap": 0.01, "text": "count"}])
        streams = [ask(served, stream=True) for _ in range(2)]
        await a.until(lambda: any(each.events for each in a.requests))
        await b.until(lambda: any(each.events for each in b.requests))
        said = await command(capsys, served, "top", "--once", "--interval", "0.5", "--by", "model")
        # Nothing has ended: the tokens are those of answers that still run.
        found = re.search(r"tokens/s: (\d+) out", said.out)
        assert found is not None and int(found[1]) > 10
        assert "requests now: 2, of them in the queue: 0" in said.out
        head, row = said.out.splitlines()[-2:]
        assert head.split()[0] == "MODEL" and row.split()[0] == "m"
        for exchange in list(served.gateway.core.register.running):
            await command(capsys, served, "requests", "--cancel", exchange.name)
        await asyncio.gather(*streams)
    said = await command(capsys, served, "top", "--once")
    assert (said.status, said.out) == (1, "") and "cannot reach the gateway" in said.err


_TOP = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from gateway.__main__ import main
sys.exit(main(["top", *sys.argv[1:]]))
"""
"""`gateway top` with the terminal at its input as the one it belongs to, as a shell sees to it."""


class Terminal:
    """A terminal with `gateway top` in it."""

    def __init__(self, url: str, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        self._theirs = theirs
        self.resize(100, 30)
        self.modes = termios.tcgetattr(theirs)
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TOP, "--url", url, "--interval", "0.2", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
            start_new_session=True,
            cwd=ROOT,
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, key: str) -> None:
        os.write(self._ours, key.encode())

    def wait_for(self, words: str) -> str:
        """Read until these words are shown; forget what was shown up to them."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.shown:
            assert time.monotonic() < deadline, f"no {words!r} in {self.shown[-3000:]!r}"
            self._read()
        before, _, self.shown = self.shown.partition(words)
        return before

    def ended(self) -> int:
        """Read until the command has ended. Return its exit status."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still runs: {self.shown[-3000:]!r}"
            self._read()
        self._read()
        return self.process.returncode

    def restored(self, stopped: bool = False) -> bool:
        """Tell whether the terminal is as it was, after the last thing that was written; that was read if `stopped`."""
        written = stopped or self.shown.endswith("\x1b[?25h\x1b[?1049l")
        return written and termios.tcgetattr(self._theirs) == self.modes

    def _read(self) -> None:
        ready, _, _ = select.select([self._ours], [], [], 0.1)
        if ready:
            self.shown += os.read(self._ours, 65536).decode(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextlib.contextmanager
def terminal(url: str, *words: str) -> Iterator[Terminal]:
    with contextlib.closing(Terminal(url, *words)) as found:
        yield found


@pytest.mark.slow
async def test_top_on_a_terminal(tmp_path: Path) -> None:
    async with two(tmp_path) as (served, _, _):
        with terminal(served.url) as top:

            def look() -> None:
                assert top.wait_for("gateway ").startswith("\x1b[?1049h\x1b[?25l")
                top.wait_for("BACKEND")
                top.wait_for("b: by backend   m: by model   q: quit")
                top.press("m")
                top.wait_for("MODEL")
                top.press("b")
                top.wait_for("BACKEND")
                top.resize(40, 6)
                top.wait_for("more lines")
                top.press("q")
                assert top.ended() == 0 and top.restored()

            await asyncio.to_thread(look)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)]
)
async def test_top_gives_the_terminal_back(tmp_path: Path, number: int, status: int) -> None:
    async with two(tmp_path) as (served, _, _):
        with terminal(served.url) as top:

            def leave() -> None:
                top.wait_for("q: quit")
                if number == signal.SIGINT:
                    top.press("\x03")
                else:
                    top.process.send_signal(number)
                assert top.ended() == status and top.restored()

            await asyncio.to_thread(leave)


@pytest.mark.slow
async def test_top_gives_the_terminal_back_while_it_is_stopped(tmp_path: Path) -> None:
    async with two(tmp_path) as (served, _, _):
        with terminal(served.url) as top:

            def stop() -> None:
                top.wait_for("q: quit")
                top.process.send_signal(signal.SIGTSTP)
                top.wait_for("\x1b[?25h\x1b[?1049l")
                os.waitid(os.P_PID, top.process.pid, os.WSTOPPED)
                assert top.restored(stopped=True)
                top.process.send_signal(signal.SIGCONT)
                top.wait_for("\x1b[?1049h\x1b[?25l")
                top.wait_for("q: quit")
                top.press("q")
                assert top.ended() == 0 and top.restored()

            await asyncio.to_thread(stop)


@pytest.mark.slow
async def test_top_writes_plain_frames_where_there_is_no_terminal(tmp_path: Path) -> None:
    async with two(tmp_path) as (served, _, _):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "top", "--url", served.url, "--interval", "0.1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stdout is not None
        shown = b""
        async with asyncio.timeout(PATIENCE):
            while shown.count(b"BACKEND") < 3:
                shown += await process.stdout.read(4096)
        process.terminate()
        await process.wait()
        assert b"\x1b" not in shown and b"quit" not in shown
        assert shown.startswith(b"gateway ") and b"\n\ngateway " in shown


@pytest.mark.slow
async def test_top_says_that_the_gateway_is_gone_and_finds_it_again(tmp_path: Path) -> None:
    async with two(tmp_path) as (served, a, b):
        url, text = served.url, config(a, b)
        with terminal(url) as top:
            await asyncio.to_thread(top.wait_for, "q: quit")
            served.server.stop()
            await asyncio.to_thread(top.wait_for, "no answer, what is shown is old; trying again")
            again = text.replace("127.0.0.1:0", f"127.0.0.1:{served.port}")
            folder = tmp_path / "again"
            folder.mkdir()
            async with serving(folder, again, alone=False):
                # Counters have gone down or are all zero: either way the next frame has no line of trouble.
                await asyncio.to_thread(_quiet, top)
                top.press("q")
                assert await asyncio.to_thread(top.ended) == 0 and top.restored()


def _quiet(top: Terminal) -> None:
    """Read until a whole frame is shown without a line of trouble."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        top.wait_for("q: quit")
        if "no answer" not in top.wait_for("q: quit"):
            return
    raise AssertionError("the gateway should be found again")
