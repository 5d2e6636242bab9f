"""The launcher: its pure parts by example, and its life with real processes.

Rules:
- Engines are a few lines of Python. Tests wait for states and lines, never for a time.
- Where the time between restarts would matter, the schedule is shortened, not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from random import Random

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Launch, LaunchError
from gateway.fleet import launcher
from gateway.fleet.launcher import Process, ProcessState, restart_delay
from gateway.fleet.output import LINE_LIMIT, Lines
from gateway.fleet.spawning import child_environment, exit_words, from_here
from gateway.fleet.start import STAYS

SERVE = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello")
    def log_message(self, *_): pass
server = http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
print("listening", flush=True)
server.serve_forever()
"""
WAIT = "import signal\nprint('here', flush=True)\nsignal.pause()"
STUBBORN = "import signal\nsignal.signal(15, signal.SIG_IGN)\n" + WAIT


class Least(Random):
    """Chance that always falls on the low side."""

    def random(self) -> float:
        return 0.0


def engine(code: str, **more: object) -> Callable[[str, int], Launch]:
    """Return a command for a few lines of Python."""
    return lambda host, port: Launch((sys.executable, "-c", code, host, str(port)), **more)  # type: ignore[arg-type]


class Watched(Process):
    """A process whose states and lines a test can wait for."""

    def __init__(
        self,
        command: Callable[[str, int], Launch],
        crash_reason: Callable[[Sequence[str]], str | None] = lambda log: None,
    ) -> None:
        self.states: asyncio.Queue[ProcessState] = asyncio.Queue()
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        super().__init__("toy", command, self.states.put_nowait, crash_reason, Random(1), self._level)

    def _level(self, line: str) -> int:
        self.lines.put_nowait(line)
        return logging.INFO

    async def until(self, state: ProcessState) -> None:
        while await self.states.get() is not state:
            pass


@contextlib.asynccontextmanager
async def running(process: Watched) -> AsyncIterator[asyncio.Task[None]]:
    """Run the process for the length of a block."""
    task = asyncio.create_task(process.run())
    try:
        yield task
    finally:
        await process.stop()
        await asyncio.gather(task, return_exceptions=True)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def is_there(path: Path) -> bool:
    return path.exists()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between restarts to almost nothing."""
    monkeypatch.setattr(launcher, "FIRST_DELAY", 0.0001)


def test_delays_double_up_to_a_limit() -> None:
    longest = [restart_delay(failures, Random(0)) for failures in range(1, 200)]
    assert all(delay <= 30 for delay in longest) and longest[-1] >= 22.5
    least = [restart_delay(failures, Least()) for failures in range(1, 9)]
    assert least == [0.375, 0.75, 1.5, 3.0, 6.0, 12.0, 22.5, 22.5]


def test_an_engine_sees_no_secrets() -> None:
    own = {
        "PATH": "/bin",
        "HOME": "/root",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "1",
        "HF_HOME": "/hf",
        "OMP_NUM_THREADS": "2",
        "TEAM_KEY": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "MY_PATH": "secret",
        "PATH_TO": "secret",
    }
    seen = child_environment(own, {"TEAM": "a", "PATH": "/opt"})
    assert seen == {
        "PYTHONUNBUFFERED": "1",
        "PATH": "/opt",
        "HOME": "/root",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "1",
        "HF_HOME": "/hf",
        "OMP_NUM_THREADS": "2",
        "TEAM": "a",
    }


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit status 0"),
        (1, "exit status 1"),
        (127, "exit status 127"),
        (134, "killed by SIGABRT"),
        (137, "killed by SIGKILL"),
        (-9, "killed by SIGKILL"),
        (255, "exit status 255"),
    ],
)
def test_exit_statuses_in_words(status: int, words: str) -> None:
    assert exit_words(status) == words


def test_lines_are_fit_for_a_log() -> None:
    lines = Lines()
    assert lines.feed(b"one\r\n\n  \ntw") == ["one"]
    assert lines.feed(b"o\x1b[31m red\x1b[0m \x07\tbell \xff\xe2\x82\xac\n10%\r20%\r") == [
        "two red \\x07    bell \ufffd€",
        "10%",
        "20%",
    ]
    assert lines.feed(b"rest") == [] and lines.feed(b"\n") == ["rest"] and lines.feed(b"\n") == []


def test_an_endless_line_costs_little() -> None:
    lines = Lines()
    for _ in range(100):
        assert lines.feed(b"x" * 65536) == []
    (line,) = lines.feed(b"end\nnext")
    assert len(line) == LINE_LIMIT and line.endswith("x…") and lines.feed(b"\n") == ["next"]


@given(st.lists(st.binary(max_size=30)))
def test_lines_do_not_depend_on_how_the_bytes_come(pieces: list[bytes]) -> None:
    one, many = Lines(), Lines()
    whole = one.feed(b"".join(pieces)) + one.feed(b"\n")
    assert [line for piece in pieces for line in many.feed(piece)] + many.feed(b"\n") == whole


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_life_under_both_event_loops(
    loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def life() -> None:
        process = Watched(engine(SERVE))
        async with running(process):
            await process.until(ProcessState.RUNNING)
            assert process.start_deadline is not None
            assert process.start_deadline > asyncio.get_running_loop().time() + 200
            assert await process.lines.get() == "listening"
            answer = await asyncio.to_thread(lambda: urllib.request.urlopen(process.url).read())
            assert answer == b"hello"
            pid = process.pid
            assert pid is not None and not is_gone(pid)
            await process.stop()
            assert is_gone(pid)
        assert (process.state, process.restarts, process.last_error) == (ProcessState.STOPPED, 0, None)
        assert [process.pid, process.port] == [None, None]
        with pytest.raises(RuntimeError):
            assert process.url

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(life())
    assert ("gateway.backend.toy", logging.INFO, "listening") in caplog.record_tuples


async def test_an_engine_that_dies_is_started_again(at_once: None, caplog: pytest.LogCaptureFixture) -> None:
    process = Watched(engine("print('oh no'); raise SystemExit(3)"), lambda log: f"it said {log[-1]!r}")
    async with running(process):
        for restarts in range(3):
            await process.until(ProcessState.RUNNING)
            assert process.restarts == restarts
            await process.until(ProcessState.FAILED)
            assert process.last_error == "it said 'oh no' (exit status 3)"
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert (
        errors[:3]
        == [
            "backend 'toy' stopped: it said 'oh no' (exit status 3); next start in 0.0 s",
        ]
        * 3
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('a'); print('b')", f"its last words were: b; {STAYS} (exit status 0)"),
        (
            "print('b'); print('  warnings.warn(resource_tracker: There appear to be %d)')",
            f"its last words were: b; {STAYS} (exit status 0)",
        ),
        ("raise SystemExit(2)", "it gave no reason (exit status 2)"),
        ("import os; os.abort()", "it gave no reason (killed by SIGABRT)"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "something killed it, as the system does when memory runs out (killed by SIGKILL)",
        ),
    ],
)
async def test_reasons_when_the_engine_gives_none(code: str, reason: str) -> None:
    process = Watched(engine(code))
    async with running(process):
        await process.until(ProcessState.FAILED)
        assert process.last_error == reason


async def test_what_cannot_start_is_told_once_and_tried_again(
    at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter(["no file", "no file", "no file", "no program", "no program"])

    def command(host: str, port: int) -> Launch:
        for reason in answers:
            raise LaunchError(reason)
        return engine(WAIT)(host, port)

    process = Watched(command)
    async with running(process):
        await process.until(ProcessState.RUNNING)
        assert process.restarts == 0
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told == [
        f"backend 'toy' cannot start: {reason}; next start in 0.0 s" for reason in ("no file", "no program")
    ]


TELL_KEY = "import os, signal\nprint('the key is', os.environ.get('TOY_KEY'), flush=True)\nsignal.pause()"


async def test_an_engine_gets_a_new_key_with_each_start_and_nobody_reads_it(
    at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    process = Watched(engine(TELL_KEY, key_env="TOY_KEY"))
    keys = []
    async with running(process):
        for _ in range(2):
            await process.until(ProcessState.RUNNING)
            assert await process.lines.get() == "the key is [key]"
            assert process.key is not None and process.pid is not None
            keys.append(process.key)
            assert process.key not in command_line(process.pid)
            process.kill("enough")
            await process.until(ProcessState.FAILED)
            assert process.key is None
    assert len(set(keys)) == 2 and min(map(len, keys)) >= 43
    assert not any(key in caplog.text for key in keys)


async def test_the_operator_s_own_key_stands_and_nobody_reads_it_either() -> None:
    tell = TELL_KEY.replace(
        "signal.pause()", "print(os.environ['TOY_KEY'][::-1], flush=True)\nsignal.pause()"
    )
    process = Watched(engine(tell, key_env="TOY_KEY", env={"TOY_KEY": "mine"}))
    async with running(process):
        await process.until(ProcessState.RUNNING)
        assert await process.lines.get() == "the key is [key]"
        assert await process.lines.get() == "enim"
        assert process.key is None


async def test_an_engine_that_takes_no_key_gets_none() -> None:
    process = Watched(engine(TELL_KEY))
    async with running(process):
        await process.until(ProcessState.RUNNING)
        assert await process.lines.get() == "the key is None"


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    process = Watched(lambda host, port: Launch((missing,)))
    async with running(process):
        await process.until(ProcessState.FAILED)
        assert process.last_error is not None
        assert f"cannot run {missing}: No such file or directory" in process.last_error
        assert process.restarts == 0


async def test_delays_grow_and_start_over_after_a_steady_run(
    monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    asked: list[int] = []

    def delay(failures: int, rng: Random) -> float:
        asked.append(failures)
        if len(asked) == 3:
            monkeypatch.setattr(launcher, "STEADY", 0.0)
        return 0.0

    monkeypatch.setattr(launcher, "restart_delay", delay)
    process = Watched(engine("raise SystemExit(1)"))
    async with running(process):
        for _ in range(5):
            await process.until(ProcessState.FAILED)
    assert asked[:5] == [1, 2, 3, 1, 1]


async def test_kill_says_why_and_starts_again(at_once: None) -> None:
    process = Watched(engine(WAIT))
    async with running(process):
        await process.until(ProcessState.RUNNING)
        first = process.pid
        process.kill("it was not ready after 5 s")
        process.kill("a second reason that comes too late")
        await process.until(ProcessState.FAILED)
        assert process.last_error == "it was not ready after 5 s (killed by SIGTERM)"
        await process.until(ProcessState.RUNNING)
        assert first is not None and is_gone(first) and process.restarts == 1
    process.kill("nothing runs any more")
    assert process.last_error == "it was not ready after 5 s (killed by SIGTERM)"


async def test_an_engine_deaf_to_sigterm_is_stopped() -> None:
    process = Watched(engine(STUBBORN, stop_timeout=0.05))
    async with running(process):
        await process.lines.get()
        pid = process.pid
        await process.stop()
        assert pid is not None and is_gone(pid)


async def test_a_cancelled_run_leaves_nothing() -> None:
    process = Watched(engine(STUBBORN, stop_timeout=0.05))
    async with running(process) as task:
        await process.lines.get()
        pid = process.pid
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pid is not None and is_gone(pid)
        assert process.state is ProcessState.STOPPED


async def test_stop_ends_a_wait_for_the_next_start() -> None:
    process = Watched(engine("raise SystemExit(1)"))
    async with running(process):
        await process.until(ProcessState.FAILED)
        await process.stop()
        assert process.state is ProcessState.STOPPED


async def test_stop_without_run() -> None:
    process = Watched(engine(WAIT))
    await process.stop()
    await process.run()
    assert process.states.empty() and process.state is ProcessState.STOPPED


async def test_the_engine_sees_only_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "secret")
    code = "import os\nprint(os.environ.get('TEAM_KEY'), os.environ['MODE'])\n" + WAIT
    process = Watched(engine(code, env={"MODE": "fast"}))
    async with running(process):
        assert await process.lines.get() == "None fast"


GATEWAY = """
import asyncio, sys
from random import Random
import uvloop
from backends.base import Launch
from gateway.fleet.launcher import Process, ProcessState

async def main():
    up = asyncio.Queue()
    processes = [
        Process(name, lambda host, port: Launch((sys.executable, "-c", sys.argv[1]), stop_timeout=0.05),
                lambda state: up.put_nowait(state), lambda log: None, Random(1))
        for name in "ab"
    ]
    tasks = [asyncio.create_task(process.run()) for process in processes]
    while not all(process.pid for process in processes):
        await up.get()
    print(*(process.pid for process in processes), flush=True)
    await asyncio.gather(*tasks)

uvloop.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open")
def test_a_killed_gateway_leaves_none_of_several_engines() -> None:
    gateway = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, STUBBORN], stdout=subprocess.PIPE, env=_with_path()
    )
    assert gateway.stdout is not None
    engines = [os.pidfd_open(int(pid)) for pid in gateway.stdout.readline().split()]
    gateway.send_signal(signal.SIGKILL)
    gateway.wait()
    gateway.stdout.close()
    for handle in engines:
        select.select([handle], [], [])
        os.close(handle)
    assert len(engines) == 2


def _with_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(launcher.__file__).parents[2])}


HERE = "import os, pathlib\npathlib.Path('made').write_text('')\nprint(os.getcwd(), flush=True)\n" + WAIT


async def test_an_engine_has_a_temporary_folder_of_its_own() -> None:
    process = Watched(engine(HERE))
    async with running(process):
        folder = Path(await process.lines.get())
        assert folder.name.startswith("gateway-toy-") and is_there(folder / "made")
    assert not is_there(folder)


async def test_an_engine_keeps_its_folder_below_the_data(tmp_path: Path) -> None:
    process = Watched(engine(HERE))
    process.arrivals.data = tmp_path / "data"
    async with running(process):
        assert Path(await process.lines.get()) == tmp_path / "data" / "engines" / "toy"
    assert is_there(tmp_path / "data" / "engines" / "toy" / "made")


async def test_a_killed_warden_leaves_no_folder() -> None:
    process = Watched(engine(HERE))
    async with running(process):
        folder = Path(await process.lines.get())
        assert process.pid is not None
        os.kill(parent(process.pid), signal.SIGKILL)
        await process.until(ProcessState.FAILED)
        assert not is_there(folder)


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, at_once: None) -> None:
    (tmp_path / "engines").write_text("a file")
    process = Watched(engine(WAIT))
    process.arrivals.data = tmp_path
    async with running(process):
        await process.until(ProcessState.FAILED)
        assert process.last_error is not None and str(tmp_path / "engines") in process.last_error


async def test_a_stranger_on_a_fixed_port_gets_no_requests() -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        process = Watched(engine(WAIT, port=port))
        async with running(process):
            await process.until(ProcessState.FAILED)
            assert process.last_error == f"another program listens on its port {port}"
            stranger.close()
            await process.until(ProcessState.RUNNING)
            assert process.url == f"http://127.0.0.1:{port}"


def test_relative_paths_start_where_the_gateway_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").write_text("")
    (tmp_path / "run.py").write_text("")
    (tmp_path / "serve").mkdir()
    words = [
        "serve",
        "run.py",
        "models/a.gguf",
        "--model=models/a.gguf",
        "--n=0.5",
        "org/model",
        "/bin/sh",
        "-x",
        "",
    ]
    assert [from_here(word) for word in words] == [
        "serve",
        f"{tmp_path}/run.py",
        f"{tmp_path}/models/a.gguf",
        f"--model={tmp_path}/models/a.gguf",
        "--n=0.5",
        "org/model",
        "/bin/sh",
        "-x",
        "",
    ]
    assert from_here("x/" * 5000) == "x/" * 5000
