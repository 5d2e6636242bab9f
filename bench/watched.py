"""`python -m bench.watched`: what the access log and traces cost in CPU per request, beside a gateway without them.

Rules:
- The gateways take turns, window by window, with the others paused, as in `make bench`. Figures are ratios to the one
  with neither; the spread between two that are alike says what a ratio is worth.
- The collector takes everything and costs the gateway nothing but sending.
- Everything listens on loopback, the load is bounded, and what was started is always stopped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench import load, probe, scenarios
from bench.subjects import Gateway, start_upstream

CONNECTIONS = 32
PIECES = 50

LOGS = {
    "access log, json": {"access": "/dev/null"},
    "access log, text": {"access": "/dev/null", "access_format": "text"},
}
SAMPLES = {"traces, none recorded": "0%", "traces, 1 % recorded": "1%", "traces, all recorded": "100%"}


class Watched(Gateway):
    """A gateway that is watched in some way."""

    def __init__(self, name: str, server: dict[str, Any]) -> None:
        super().__init__(name)
        self._server = server

    def config(self, upstream_port: int) -> dict[str, Any]:
        found = super().config(upstream_port)
        found["server"] = found["server"] | self._server
        return found


class Collector:
    """A collector that takes everything, in threads of this process."""

    def __init__(self) -> None:
        collector = self
        self.received = 0
        """Bytes so far."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector.received += len(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Print nothing: a gateway that stops resets its connection."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


async def measure(rounds: int, seconds: float, stream: bool) -> dict[str, list[float]]:
    """Return the microseconds of CPU per request in each window of each gateway."""
    collector, upstream = Collector(), probe.free_port()
    plain: dict[str, Any] = {"log": {"level": "error"}}
    # No line is left out: what is measured is the cost of each.
    logs = {name: {"log": {"level": "error", "access_rate": 1_000_000} | more} for name, more in LOGS.items()}
    traces = {
        name: plain | {"tracing": {"endpoint": collector.url, "sample": sample}}
        for name, sample in SAMPLES.items()
    }
    settings = {"neither": plain, "neither, again": plain, **logs, **traces}
    subjects = [Watched(name, server) for name, server in settings.items()]
    process = start_upstream(upstream)
    found: dict[str, list[float]] = {name: [] for name in settings}
    with tempfile.TemporaryDirectory(prefix="gateway-watched-") as folder:
        try:
            await probe.until_up(upstream)
            for number, subject in enumerate(subjects):
                await subject.start(Path(folder) / str(number), upstream)
                subject.rest()
            for turn in range(rounds):
                for subject in subjects if turn % 2 else reversed(subjects):
                    with subject.awake():
                        question = subject.question(stream=stream, tokens=PIECES)
                        tally = await load.closed_loop(
                            question, CONNECTIONS, seconds=seconds, warm=0.3, pid=subject.pid
                        )
                        await scenarios.quiet(upstream)
                    if tally.errors:
                        raise SystemExit(f"{subject.name}: {dict(tally.errors)}")
                    found[subject.name].append(tally.cpu / tally.requests * 1e6)
                    print(f"{turn} {subject.name}: {found[subject.name][-1]:.0f} µs", file=sys.stderr)
        finally:
            for subject in subjects:
                subject.stop()
            process.terminate()
            process.wait()
    if not collector.received:
        raise SystemExit("the collector got nothing")
    return found


def table(found: dict[str, list[float]]) -> str:
    """Return the medians, each with its ratio to the gateway that is not watched, taken round by round."""
    base = found["neither"]
    lines = ["| gateway with | CPU per request, µs | ratio | more, µs |", "|---|---|---|---|"]
    for name, values in found.items():
        ratio = median(value / other for value, other in zip(values, base, strict=True))
        more = median(value - other for value, other in zip(values, base, strict=True))
        lines.append(f"| {name} | {median(values):.0f} | {ratio:.2f} | {more:+.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.watched", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each window")
    options = parser.parse_args()
    for stream, what in ((False, "JSON"), (True, f"streams of {PIECES} pieces")):
        found = uvloop.run(measure(options.rounds, options.seconds, stream))
        print(f"\n{what}, {CONNECTIONS} connections\n\n{table(found)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
