"""The gateway as its users run it: the installed command, a process of its own, its terminal watched.

Rules:
- The system picks the port; it is read from the first line the gateway prints.
- Waiting is for a line, an exit or a state. A deadline only turns a hang into a failure, so it may be generous.
- A gateway that is let go must exit with 0 and leave nothing: every process it had started is looked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = Path(sys.executable).with_name("gateway")
MODEL = "models/demo.gguf"
DEMO = 'server: {listen: "127.0.0.1:0"}\n' + (ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8")
"""The config of `make run`, on a port of the system's choice."""
PATIENCE = 45.0
"""Seconds until something that should happen at once counts as not happening."""
CLEAN_STOP = 15.0
"""Seconds a gateway without running requests may take to stop."""


class Process(NamedTuple):
    """One process; a later one with the same number has another start time."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        return _processes().get(self.pid, (0, -1))[1] == self.started


def _processes() -> dict[int, tuple[int, int]]:
    """Parent and start time of every process that has not ended, by number."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The command stands in parentheses and may hold anything, so what counts follows the last one.
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X"):
                found[int(entry.name)] = int(fields[1]), int(fields[19])
    return found


def family(pid: int) -> set[Process]:
    """Every process below this one."""
    table = _processes()
    found, generation = set(), {pid}
    while generation:
        generation = {child for child, (parent, _) in table.items() if parent in generation}
        found |= {Process(child, table[child][1]) for child in generation}
    return found


def wait_until(holds: Callable[[], bool], what: str, every: float = 0.02) -> None:
    """Look `every` so many seconds until `holds()`. Fails the test when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"still not so after {PATIENCE:g} s: {what}"
        time.sleep(every)


class Output:
    """What a process writes to one stream, line by line, as it comes."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: list[str] = []
        self._stream = stream
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Return the `count`-th line in which `pattern` is found."""
        with self._news:
            self._news.wait_for(lambda: self._ended or len(self._all(pattern)) >= count, PATIENCE)
            found = self._all(pattern)
        assert len(found) >= count, f"no line matches {pattern!r}:\n{self.text}"
        return found[count - 1]

    def close(self) -> None:
        """Read to the end, which comes when every process that holds the stream has ended."""
        self._reader.join(PATIENCE)
        assert self._ended, "somebody still holds the gateway's terminal"
        self._stream.close()

    def _all(self, pattern: str) -> list[re.Match[str]]:
        return [match for line in self.lines if (match := re.search(pattern, line))]

    def _read(self) -> None:
        for line in self._stream:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])


class Running:
    """A gateway process."""

    def __init__(self, config: Path, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [GATEWAY, "serve", config],
            cwd=ROOT,
            env=os.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As in a terminal: one job, one process group, which Ctrl-C reaches as a whole.
            start_new_session=True,
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        self.out, self.log = Output(self._process.stdout), Output(self._process.stderr)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def url(self) -> str:
        """Where the gateway says it listens."""
        return self.out.wait_for(r"listens on (\S+)")[1]

    @property
    def address(self) -> str:
        """The host and port of `url`."""
        return self.url.removeprefix("http://")

    def engine(self, start: int = 1) -> tuple[str, int]:
        """URL and process id of the engine after its first, second, ... start."""
        found = self.log.wait_for(r"' started: (\S+), process (\d+)", start)
        return found[1], int(found[2])

    def engine_key(self) -> str:
        """Return the key the gateway gave the engine, as its environment holds it."""
        environ = Path(f"/proc/{self.engine()[1]}/environ").read_bytes().split(b"\0")
        [key] = [line.partition(b"=")[2].decode() for line in environ if line.startswith(b"LLAMA_API_KEY=")]
        return key

    def wait_ready(self) -> None:
        """Wait until the gateway shows what to type next."""
        self.out.wait_for(r"^docs +http")

    def get(self, path: str, body: Any = None, key: str | None = None) -> Reply:
        """One request; a POST if there is a body."""
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return Reply(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.read())

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.split("{")[0] == name and all(part in sample for part in wanted):
                total += float(value)
        return total

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the gateway alone."""
        self._process.send_signal(number)

    def ctrl_c(self) -> None:
        """Press Ctrl-C in the gateway's terminal."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self, patience: float = PATIENCE) -> int:
        """Return the exit status, once the gateway has ended."""
        return self._process.wait(patience)

    def stop(self) -> None:
        """Ctrl-C, and everything must end properly."""
        below = family(self.pid)
        self.ctrl_c()
        assert self.wait(CLEAN_STOP) == 0
        assert [process for process in below if process.alive] == []

    def close(self) -> None:
        """Stop the gateway unless it has ended; then read what it still had to say."""
        try:
            if self.alive:
                self.stop()
        finally:
            if self.alive:
                self._process.kill()
                self._process.wait()
            for output in (self.out, self.log):
                output.close()
            print(self.out.text, self.log.text, sep="\n")  # noqa: T201 (pytest shows it when a test fails)


@contextlib.contextmanager
def running(folder: Path, config: str = DEMO, environ: Mapping[str, str] | None = None) -> Iterator[Running]:
    """`gateway serve` with this config, until the block ends. `folder` takes the file."""
    file = folder / "gateway.yaml"
    file.write_text(config, encoding="utf-8")
    gateway = Running(file, environ or {})
    with contextlib.closing(gateway):
        yield gateway
