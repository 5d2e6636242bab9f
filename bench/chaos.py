"""`make chaos`: thousands of streams between clients and engines that misbehave, and a judge of what each client got.

Rules:
- The gateway is a real process, `python -m gateway serve`, before two fake engines that fail as each request's text
  says; everything is on loopback. The seed is fixed, every wait has a limit, and the number of requests is too.
- Clients read, read slowly, stop reading, pipeline, and leave at random moments: while sending, while waiting, in the
  middle of an answer, with further requests pipelined. Each checks every byte it gets (`bench.answers`).
- Afterwards nothing may be left: no request in flight or queued, no connection, no task; and each request must have
  been counted exactly once. At the end the gateway is told to stop while streams run.
- Exit 1 if anything of that does not hold; every violation is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench import accounting, probe, report
from bench.answers import OK, Answer
from bench.clients import FIN, MODELS, PIPELINED, READ, RST, Clients, Connection, Ledger
from bench.subjects import KEY, Gateway, Subject

EARLY: dict[str, dict[str, Any]] = {
    "refuses": {"reply": {"status": 500}},
    "resets early": {"faults": [{"at": "request", "do": "reset"}]},
    "closes early": {"faults": [{"at": "request", "do": "close"}]},
    "hangs early": {"faults": [{"at": "request", "do": "hang"}]},
    "speaks no HTTP": {"faults": [{"at": "request", "do": "garbage"}]},
    "cuts its head": {"faults": [{"at": "byte 30", "do": "close"}]},
    "fails first": {"faults": [{"at": "event 0", "do": "error"}]},
    "sends no token": {"faults": [{"at": "headers", "do": "hang"}]},
}
"""Ways to fail before the first token; only the first engine does so, and the other takes over."""
LATE: dict[str, dict[str, Any]] = {
    "resets": {"faults": [{"at": "event 4", "do": "reset"}]},
    "closes": {"faults": [{"at": "event 4", "do": "close"}]},
    "stalls": {"faults": [{"at": "event 4", "do": "hang"}]},
    "garbles": {"faults": [{"at": "event 4", "do": "garbage"}]},
    "sends no JSON": {"faults": [{"at": "event 4", "do": "event", "data": "{no json"}]},
    "sends an error": {"faults": [{"at": "event 4", "do": "error"}]},
    "ends too early": {"faults": [{"at": "event 4", "do": "end"}]},
    "cuts an event": {"faults": [{"at": "body byte 900", "do": "close"}]},
}
"""Ways to fail in the middle of a stream: the client must be told, whichever engine it was."""
ODD: dict[str, dict[str, Any]] = {
    "forgets the end": {"sse": {"done": "never"}},
    "sends crumbs": {"http": {"split": 11}},
    "sends lumps": {"sse": {"coalesce": 5}},
    "comments": {"sse": {"comment_every": 2, "newline": "crlf"}},
}
"""Ways to behave that are unusual and complete."""
SLOW = "walks"
"""The fault of the streams that run while the gateway is told to stop."""

DRAIN = 1.0
"""Seconds that running streams have when the gateway is told to stop."""
LAST_STREAMS = 60
HEALTHY = 0.98
"""Share of the healthy requests that must be answered in full; the rest may be told to come back."""

_TASK_COUNTER = """
import asyncio, gc, os, socket, threading

def answer():
    while True:
        asking, _ = listener.accept()
        tasks = [one for one in gc.get_objects() if isinstance(one, asyncio.Task) and not one.done()]
        asking.sendall(b"%d" % len(tasks))
        asking.close()

listener = socket.socket(socket.AF_UNIX)
listener.bind(os.environ["CHAOS_TASK_COUNTER"])
listener.listen()
threading.Thread(target=answer, daemon=True).start()
"""
"""A `sitecustomize` that tells, on a socket, how many asyncio tasks live in the process that loads it."""


class Engine(Subject):
    """A fake engine as a process."""

    def __init__(self, name: str, faults: dict[str, dict[str, Any]]) -> None:
        super().__init__(name)
        self.faults = faults

    def command(self, folder: Path, upstream_port: int) -> Sequence[str]:
        """Write the script: one rule for each fault, found by the name in the request."""
        rules: list[dict[str, Any]] = [
            {"match": {"contains": f"fault={name};"}, **rule} for name, rule in self.faults.items()
        ]
        rules.append({"match": {"contains": f"fault={SLOW};"}, "gap": "60ms"})
        script = {"models": [READ], "defaults": {"text": "echo", "gap": "1ms", "jitter": 0.9}, "rules": rules}
        file = folder / "script.json"
        file.write_text(json.dumps(script))
        return [
            *(sys.executable, "-m", "gateway", "fake-engine"),
            *("--port", str(self.port), "--script", str(file)),
        ]


class ChaosGateway(Gateway):
    """The gateway with two engines, a model for each way a client behaves, and little patience."""

    def __init__(self, engines: Sequence[Engine], folder: Path) -> None:
        super().__init__()
        self.engines = engines
        self.model = READ
        self.modules = folder / "modules"
        self.task_socket = folder / "tasks"
        self.output = folder / "gateway" / "output.txt"

    def config(self, upstream_port: int) -> dict[str, Any]:
        """Return the config; faults come to their end quickly."""
        config = dict(super().config(upstream_port))
        names = [engine.name for engine in self.engines]
        config["server"] = {
            "listen": f"127.0.0.1:{self.port}",
            "log": {"level": "error"},
            "drain": f"{DRAIN:g}s",
            "timeouts": {"body": "2s", "write": "1s"},
        }
        config["defaults"] = {
            "timeouts": {
                "queue": "5s",
                "connect": "2s",
                "send": "5s",
                "first_byte": "1500ms",
                "first_token": "1500ms",
                "idle": "700ms",
                "total": "30s",
            },
            "retry": {"attempts": 2},
            "retry_budget": "100%",
            "breaker": {"failures": 1000},
        }
        config["backends"] = {
            engine.name: {"engine": "openai", "url": f"http://127.0.0.1:{engine.port}"}
            for engine in self.engines
        }
        config["models"] = {model: {"targets": dict.fromkeys(names, READ)} for model in MODELS}
        config["keys"] = {"clients": {"hash": config["keys"]["team-1"]["hash"]}}
        return config

    def environment(self) -> dict[str, str]:
        """Return what loads the counter of tasks into the process."""
        self.modules.mkdir(exist_ok=True)
        (self.modules / "sitecustomize.py").write_text(_TASK_COUNTER)
        path = [str(self.modules), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(path), "CHAOS_TASK_COUNTER": str(self.task_socket)}

    async def tasks(self) -> int:
        """Ask how many tasks live inside."""
        reader, writer = await asyncio.open_unix_connection(self.task_socket)
        try:
            return int(await reader.read())
        finally:
            writer.close()

    async def page(self) -> str:
        """Return the metrics page."""
        return (await probe.get(self.port, "/metrics")).decode()


class Run:
    """One chaos run."""

    def __init__(self, streams: int, clients: int, seed: int, folder: Path) -> None:
        self.streams, self.clients, self.seed, self.folder = streams, clients, seed, folder
        self.engines = [Engine("engine-0", EARLY | LATE | ODD), Engine("engine-1", LATE | ODD)]
        self.gateway = ChaosGateway(self.engines, folder)
        self.violations: list[str] = []
        self.ledger = Ledger()
        self.last: Counter[str] = Counter()
        self.facts: dict[str, str] = {}

    async def run(self) -> None:
        """Start everything, load it, check what is left, and stop it while streams run."""
        try:
            await asyncio.gather(*(engine.start(self.folder / engine.name, 0) for engine in self.engines))
            await self.gateway.start(self.folder / "gateway", 0)
            await self._load()
            await self._drain()
        except OSError as error:
            self.violations.append(f"the gateway cannot be reached any more: {error}")
        finally:
            for subject in (self.gateway, *self.engines):
                subject.stop()

    async def _load(self) -> None:
        gateway = self.gateway
        await self._until(self._both_up, "both engines are up")
        before = await self._state()
        counted = probe.by_label(await gateway.page(), "gateway_requests_total", "model")
        clients = Clients(gateway.port, f"{KEY}-1", self.seed, faults=[*EARLY, *LATE, *ODD], broken=LATE)
        self.ledger = clients.ledger
        began = time.monotonic()
        await clients.ask(self.streams, self.clients)
        self.facts["seconds"] = f"{time.monotonic() - began:.0f}"
        await self._until(self._at_rest, "nothing is in flight, queued or open")
        after = await self._state()
        for what, value in after.items():
            self.facts[f"{what} before, afterwards"] = f"{before[what]}, {value}"
        await self._until(lambda: self._no_more_than(before), f"no more than {before} is left")
        page = await gateway.page()
        self._check_counts(
            {
                model: int(count - counted.get(model, 0))
                for model, count in probe.by_label(page, "gateway_requests_total", "model").items()
            }
        )
        self._check_health()
        self.violations += clients.ledger.wrong

    async def _both_up(self) -> bool:
        return probe.total(await self.gateway.page(), "gateway_backend_up") == len(self.engines)

    async def _at_rest(self) -> bool:
        page = await self.gateway.page()
        busy = probe.by_label(page, "gateway_upstream_connections", "state").get("busy", 0)
        held = ("gateway_requests_in_flight", "gateway_requests_queued")
        return not busy and not any(probe.total(page, name) for name in held)

    async def _state(self) -> dict[str, int]:
        """Count what the gateway holds: tasks, and descriptors without those of idle connections to engines."""
        open_ = probe.total(await self.gateway.page(), "gateway_upstream_connections")
        return {
            "tasks": await self.gateway.tasks(),
            "descriptors": accounting.descriptors(self.gateway.pid) - int(open_),
        }

    async def _no_more_than(self, before: dict[str, int]) -> bool:
        after = await self._state()
        return all(after[what] <= count for what, count in before.items())

    def _check_counts(self, counted: dict[str, int]) -> None:
        """Compare the gateway's count of requests with the clients', model by model.

        Whoever stays, or leaves with FIN after a whole request, is counted for certain. A RST may overtake its own
        request, and what is pipelined behind an answer that is not read may never begin; those have two bounds.
        """
        ledger = self.ledger
        sent, answered, unsent = ledger.sent, ledger.answered, ledger.unsent
        bounds = {
            READ: (sent[READ], sent[READ]),
            FIN: (sent[FIN], sent[FIN]),
            RST: (answered[RST], sent[RST]),
            PIPELINED: (answered[PIPELINED], sent[PIPELINED]),
            # The model of a request whose body never came is unknown, and counted as such.
            "-": (unsent[FIN], unsent[FIN] + unsent[RST]),
        }
        for model, (least, most) in bounds.items():
            count = counted.get(model, 0)
            self.facts[f"counted by the gateway, {model}"] = f"{count} ({least} to {most} sent)"
            if not least <= count <= most:
                self.violations.append(f"{model}: {count} requests counted, {least} to {most} sent")

    def _check_health(self) -> None:
        healthy = self.ledger.healthy
        share = healthy[OK] / max(1, healthy.total())
        self.facts["healthy requests answered in full"] = f"{share:.2%} of {healthy.total()}"
        if share < HEALTHY:
            self.violations.append(f"only {share:.1%} of the healthy requests were answered: {dict(healthy)}")

    async def _drain(self) -> None:
        """Tell the gateway to stop while streams run, some of them longer than it waits."""
        last = Clients(self.gateway.port, f"{KEY}-1", self.seed + 1)
        connections = [await Connection.open(self.gateway.port) for _ in range(LAST_STREAMS)]
        idle = [await Connection.open(self.gateway.port) for _ in range(10)]
        asked = [last.slow(number, SLOW) for number in range(LAST_STREAMS)]
        answers = [Answer() for _ in asked]
        for connection, one in zip(connections, asked, strict=True):
            await last.send(connection, one)
        for connection, answer in zip(connections, answers, strict=True):
            while not answer.begun and await connection.read(answer):
                pass
        process = self.gateway.process
        assert process is not None
        process.send_signal(signal.SIGTERM)

        async def to_the_end(number: int) -> None:
            while await connections[number].read(answers[number]):
                pass
            last.judge(asked[number], answers[number])

        await asyncio.gather(*map(to_the_end, range(LAST_STREAMS)))
        try:
            status = await asyncio.to_thread(process.wait, DRAIN + 10)
        except subprocess.TimeoutExpired:
            self.violations.append("the gateway does not end")
        else:
            if status:
                self.violations.append(f"the gateway ended with {status}")
        for connection in idle:
            connection.leave()
        self.last = last.ledger.ends
        self.violations += [f"while draining: {wrong}" for wrong in last.ledger.wrong]
        log = self.gateway.output.read_text(errors="replace")
        if "Traceback" in log or "never retrieved" in log or "destroyed but" in log:
            self.violations.append(f"the log holds a traceback: {log[-2000:]}")
        await self._until(self._engines_are_left, "the engines have no connection and no request any more")

    async def _engines_are_left(self) -> bool:
        for engine in self.engines:
            request = (
                f"DELETE /_fake/stats HTTP/1.1\r\nhost: 127.0.0.1:{engine.port}\r\nconnection: close\r\n\r\n"
            )
            await probe.ask(engine.port, request.encode())
            totals = json.loads(await probe.get(engine.port, "/_fake/stats"))
            # One connection is open: the one that asks.
            if totals["open"] > 1 or totals["running"] or totals["queued"]:
                return False
        return True

    async def _until(self, holds: Callable[[], Any], what: str, patience: float = 15.0) -> None:
        """Wait until something holds; note a violation if it never does."""
        late = time.monotonic() + patience
        while not await holds():
            if time.monotonic() > late:
                self.violations.append(f"still not so after {patience:g} s: {what}")
                return
            await asyncio.sleep(0.05)


def page(run: Run) -> str:
    """Return the result as Markdown."""
    it, ledger = report.machine(), run.ledger
    rows = [
        ("requests", str(ledger.sent.total() + ledger.unsent.total())),
        *run.facts.items(),
        *((f"ended: {kind}", str(count)) for kind, count in ledger.ends.most_common()),
        ("left while sending the body", str(ledger.unsent.total())),
        *((f"while draining: {kind}", str(count)) for kind, count in run.last.most_common()),
        ("violations", str(len(run.violations))),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    found = "\n".join(f"- {violation}" for violation in run.violations[:50])
    return (
        f"# Chaos\n\n{it['cpu']}, {it['cores']} cores, Linux {it['kernel']}, {it['python']} · {run.clients} clients, "
        f"seed {run.seed}\n\n| | |\n|---|---:|\n{table}\n" + (f"\n{found}\n" if found else "")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chaos; return the exit status."""
    parser = argparse.ArgumentParser(prog="make chaos", description="Clients and engines at their worst.")
    parser.add_argument("--streams", type=int, default=20_000, help="requests in all (default: 20000)")
    parser.add_argument("--clients", type=int, default=100, help="clients at once (default: 100)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gateway-chaos-") as folder:
        run = Run(options.streams, options.clients, options.seed, Path(folder))
        uvloop.run(asyncio.wait_for(run.run(), 120 + options.streams / 20))
    print(page(run))
    return 1 if run.violations else 0


if __name__ == "__main__":
    sys.exit(main())
