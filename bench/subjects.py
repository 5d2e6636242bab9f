"""The programs that are measured: the upstream itself, two C proxies, this gateway. How each is configured and started.

Rules:
- Every subject stands before the same upstream and answers the same question; only port, model and key differ.
- Each runs as its makers would run it for this purpose: one worker or thread if it has such, no access log.
- Only the one that is measured runs; the others are paused meanwhile (SIGSTOP).
- A subject that is not installed is not an error: `absent` says how to install it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bench import probe, upstream
from bench.dialects import Dialect, question
from bench.load import Question
from gateway.keys import hash_key

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-bench-0123456789abcdef"
START_SECONDS = 120.0


class StartError(Exception):
    """A subject did not come up; the message holds the end of what it printed."""


@dataclass
class Subject:
    """One program between the client and the upstream."""

    name: str
    version: str = ""
    absent: str = ""
    """Why it cannot be measured here, and how that may be changed; "" if it can."""
    model: str = upstream.MODEL
    key: str = KEY
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def command(self, folder: Path, upstream_port: int) -> Sequence[str]:
        """Write the config into `folder`; return the command line that serves on `self.port`."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the variables it needs in addition to the usual ones."""
        return {}

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def question(
        self, *, stream: bool = False, tokens: int = 50, gap_ms: int = 0, size: int = 200
    ) -> Question:
        return Question.chat(
            self.port, self.model, self.key, stream=stream, tokens=tokens, gap_ms=gap_ms, size=size
        )

    async def start(self, folder: Path, upstream_port: int) -> None:
        """Start it, and wait until it answers a question. Raises StartError."""
        self.port = probe.free_port()
        log = folder / "output.txt"
        process = self.process = self._spawn(folder, upstream_port, log)
        loop = asyncio.get_running_loop()
        late = loop.time() + START_SECONDS
        while await probe.answers(self.question()) != 200:
            if process.poll() is not None or loop.time() > late:
                self.stop()
                raise StartError(f"{self.name} did not start:\n{_end_of(log)}")
            await asyncio.sleep(0.1)

    def rest(self) -> None:
        """Pause it until it is `awake`."""
        self._signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run until the block ends."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.rest()

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def _spawn(self, folder: Path, upstream_port: int, log: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(parents=True, exist_ok=True)
        command = self.command(folder, upstream_port)
        with log.open("wb") as out:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=os.environ | self.environment(),
                start_new_session=True,
            )

    def stop(self) -> None:
        """End it and every process it started."""
        if self.process is None:
            return
        self._signal(signal.SIGCONT)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.process = None


class Direct(Subject):
    """No program at all: the client talks to the upstream."""

    def __init__(self) -> None:
        super().__init__("direct")

    async def start(self, folder: Path, upstream_port: int) -> None:
        self.port = upstream_port


class HAProxy(Subject):
    """The first of two floors: a proxy in C, one thread, nothing done to the bytes.

    Without `http-no-delay` it holds the pieces of a stream back for up to 200 ms.
    """

    def __init__(self) -> None:
        super().__init__("HAProxy")
        self.version, self.absent = _installed("haproxy", "-v", "apt install haproxy")

    def command(self, folder: Path, upstream_port: int) -> Sequence[str]:
        file = folder / "haproxy.cfg"
        file.write_text(
            "global\n  nbthread 1\n  maxconn 9000\n"
            "defaults\n  mode http\n  option http-keep-alive\n  option http-no-delay\n  http-reuse always\n"
            "  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n"
            f"listen bench\n  bind 127.0.0.1:{self.port}\n  server upstream 127.0.0.1:{upstream_port}\n"
        )
        return [_program("haproxy") or "haproxy", "-db", "-f", str(file)]


class Nginx(Subject):
    """The second floor: one worker, no buffering, connections to the upstream are kept."""

    def __init__(self) -> None:
        super().__init__("nginx")
        self.version, self.absent = _installed("nginx", "-v", "apt install nginx")

    def command(self, folder: Path, upstream_port: int) -> Sequence[str]:
        folders = "".join(
            f"  {kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file = folder / "nginx.conf"
        file.write_text(
            f"daemon off;\nworker_processes 1;\npid {folder}/pid;\n"
            f"error_log {folder}/error.log;\nevents {{ worker_connections 10000; }}\n"
            f"http {{\n{folders}  access_log off;\n  keepalive_requests 1000000000;\n"
            f"  upstream bench {{ server 127.0.0.1:{upstream_port}; keepalive 1024; keepalive_requests 1000000000; }}\n"
            f"  server {{\n    listen 127.0.0.1:{self.port} backlog=4096;\n    client_body_buffer_size 64k;\n"
            "    location / {\n      proxy_pass http://bench;\n      proxy_http_version 1.1;\n"
            '      proxy_set_header Connection "";\n      proxy_buffering off;\n    }\n  }\n}\n'
        )
        return [_program("nginx") or "nginx", "-e", f"{folder}/error.log", "-c", str(file)]


class Gateway(Subject):
    """This gateway as people run it: keys, metrics, timeouts and retries on, and the model renamed."""

    def __init__(self, name: str = "gateway", *, models: int = 1, keys: int = 1, workers: int = 1) -> None:
        super().__init__(name, model=f"bench-{models}", key=f"{KEY}-{keys}")
        self.models, self.keys, self.workers = models, keys, workers
        self.version = _first_line([sys.executable, "-m", "gateway", "version"])

    def command(self, folder: Path, upstream_port: int) -> Sequence[str]:
        file = folder / "gateway.yaml"
        file.write_text(yaml.dump(self.config(upstream_port), Dumper=yaml.CSafeDumper, sort_keys=False))
        workers = ["--workers", str(self.workers)] if self.workers > 1 else []
        return [sys.executable, "-m", "gateway", "serve", str(file), *workers]

    def config(self, upstream_port: int) -> dict[str, object]:
        """Return the config. The question asks for the last model with the last key."""
        names = range(1, self.models + 1)
        return {
            "server": {"listen": f"127.0.0.1:{self.port}", "log": {"level": "error"}},
            "defaults": {
                "timeouts": {
                    "queue": "30s",
                    "connect": "2s",
                    "first_token": "60s",
                    "idle": "60s",
                    "total": "30m",
                },
                "retry": {"attempts": 2},
            },
            "backends": {"upstream": {"engine": "openai", "url": f"http://127.0.0.1:{upstream_port}"}},
            "models": {f"bench-{name}": {"targets": {"upstream": upstream.MODEL}} for name in names},
            "keys": {
                f"team-{number}": {"hash": hash_key(f"{KEY}-{number}"), "models": ["bench-*"]}
                for number in range(1, self.keys + 1)
            },
        }


class Spoken(Gateway):
    """The gateway asked in one client dialect, before an engine that speaks OpenAI's chat alone."""

    def __init__(self, name: str, dialect: Dialect) -> None:
        super().__init__(name)
        self.dialect = dialect

    def spoken(self, *, tokens: int, gap_ms: int) -> Question:
        """Return the question for a stream in the dialect."""
        return question(self.dialect, self.port, self.model, self.key, tokens=tokens, gap_ms=gap_ms)

    def config(self, upstream_port: int) -> dict[str, object]:
        native = dict.fromkeys(("messages", "responses"), False)
        url = f"http://127.0.0.1:{upstream_port}"
        return super().config(upstream_port) | {
            "backends": {"upstream": {"engine": "openai", "url": url, "native": native}}
        }


@dataclass(frozen=True)
class Counts:
    """A gateway's own counts since it started."""

    requests: float
    objects: float
    """Unreachable objects that the garbage collector found."""


class Collected(Gateway):
    """The gateway with a collector that runs after every hundred new objects, so that its counts are exact.

    `gateway serve` sets thresholds of its own, which are far too high to count what a few seconds of load leave.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def command(self, folder: Path, upstream_port: int) -> Sequence[str]:
        python, _, _, *arguments = super().command(folder, upstream_port)
        start = (
            "import gc, sys; set_threshold = gc.set_threshold; gc.set_threshold = lambda *_: set_threshold(100, 1, 1); "
            "from gateway.__main__ import main; sys.exit(main())"
        )
        return [python, "-c", start, *arguments]

    async def counted(self) -> Counts:
        """Read the counters from the metrics page."""
        page = (await probe.get(self.port, "/metrics")).decode()
        return Counts(
            probe.total(page, "gateway_requests_total"),
            probe.total(page, "python_gc_objects_collected_total"),
        )


def start_upstream(port: int, *options: str) -> subprocess.Popen[bytes]:
    """Start the upstream as a process of its own; `probe.until_up` waits for it."""
    return subprocess.Popen([sys.executable, "-m", "bench.upstream", str(port), *options], cwd=ROOT)


def _program(name: str) -> str | None:
    """Find a program, also in the folders for servers, which Debian keeps out of a user's PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _installed(name: str, option: str, remedy: str) -> tuple[str, str]:
    path = _program(name)
    if path is None:
        return "", f"not installed: {remedy}"
    return _first_line([path, option]), ""


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _first_line(command: Sequence[str]) -> str:
    """Return the first version number that a command prints."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    number = re.search(r"\d+(?:\.\d+)+", answer.stdout + answer.stderr)
    return number[0] if number else "?"
