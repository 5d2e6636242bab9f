"""What each way to balance does for a large fleet, in virtual time: `make simulate`.

Rules:
- Balancers, the queue and its deadlines are the product's own objects (`gateway.balance`, `gateway.admission`).
- Everything is drawn from one seed, which the report names; the same command gives the same table.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import get_args

from backends.base import Operation, Request
from bench import overload
from bench.simulated import CACHE, PREFILL, SLOTS, Engine, Job, Session, VirtualLoop, World, quantile
from gateway.asked import Asked
from gateway.auth import Caller
from gateway.balance import policies
from gateway.balance.loaded import Balancer, Outcomes
from gateway.config.balance import Balance, Policy
from gateway.fleet.lease import pick
from gateway.telemetry.cells import Value
from gateway.telemetry.metrics import Metrics

REPORT = Path(__file__).parent / "SIMULATION.md"
RATE = 2.5
"""Requests a second for each engine: what they could just do without their caches."""


@dataclass(frozen=True)
class Result:
    """What became of the requests under one policy."""

    policy: str
    p50: float
    p99: float
    hits: float
    """The part of the prompts' tokens that was found in a cache."""
    spread: float
    """Requests of the busiest engine, against the mean."""
    microseconds: float
    """Of real time for each choice."""


class Fleet:
    """So many engines, one balancer, and sessions that come and go until enough requests were served."""

    def __init__(self, policy: str, engines: int, requests: int, seed: int) -> None:
        self._loop = VirtualLoop()
        metrics = Metrics("")
        self.engines = {
            name: Engine(name, self._loop, metrics)
            for name in (f"engine-{number}" for number in range(engines))
        }
        self._targets = [engine.target for engine in self.engines.values()]
        self._balancer: Balancer = policies.balancer(
            Balance.model_validate({"policy": policy}), Outcomes(Value(), Value(), Value()), Random(seed)
        )
        self._reads = policy == "prefix"
        self._world, self._seed, self._left = World(seed), seed, requests
        self._arrivals, self._sessions = Random(seed + 1), 0
        self._gap = 1 / (RATE * engines * 0.15)
        self.first_tokens: list[float] = []
        self.seconds = 0.0
        """Real time that choices took."""

    def run(self) -> None:
        """Serve all requests."""
        self._loop.call_soon(self._new_session)
        self._loop.run_forever()
        self._loop.close()

    def _new_session(self) -> None:
        if self._left > 0:
            self._sessions += 1
            self._ask(Session(self._sessions, self._seed, self._world))
            self._loop.call_later(self._arrivals.expovariate(1 / self._gap), self._new_session)

    def _ask(self, session: Session) -> None:
        if self._left <= 0:
            self._loop.stop()
            return
        self._left -= 1
        job = session.turn(self._loop.time())
        job.done = self._answered
        asked = self._asked(session)
        began = time.perf_counter()
        job.lease = pick(self._targets, self._balancer, self._loop.time(), asked=asked)
        self.seconds += time.perf_counter() - began
        assert job.lease is not None
        self.engines[job.lease.target.name].send(job)

    def _answered(self, job: Job) -> None:
        self.first_tokens.append(job.first - job.arrived)
        pause = job.session.answered(job)
        if pause is not None:
            self._loop.call_later(pause, self._ask, job.session)

    def _asked(self, session: Session) -> Asked:
        """Return the request as the balancer sees it; its body only for the one that reads it."""
        body = session.body() if self._reads else b"{}"
        headers = {b"x-session-id": b"%d" % session.number}
        return Asked(Request(Operation.CHAT, body, "m", True), headers, Caller(session.key))


def measure(policy: str, engines: int, requests: int, seed: int) -> Result:
    """Return what becomes of so many requests under one policy."""
    fleet = Fleet(policy, engines, requests, seed)
    fleet.run()
    # The first tenth fills the caches.
    times = sorted(fleet.first_tokens[len(fleet.first_tokens) // 10 :])
    engines_now = fleet.engines.values()
    counts = [engine.served for engine in engines_now]
    return Result(
        policy,
        quantile(times, 0.5),
        quantile(times, 0.99),
        sum(engine.cached_tokens for engine in engines_now)
        / max(1, sum(engine.prompt_tokens for engine in engines_now)),
        max(counts) * len(counts) / sum(counts),
        fleet.seconds / requests * 1e6,
    )


def table(results: Sequence[Result]) -> list[str]:
    """Return the results as lines of Markdown."""
    lines = [
        "| policy | first token p50 | p99 | found in prefix caches | busiest engine / mean | one choice |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines.extend(
        f"| `{each.policy}` | {each.p50 * 1000:,.0f} ms | {each.p99 * 1000:,.0f} ms | {each.hits:.0%} | "
        f"{each.spread:.2f} | {each.microseconds:.0f} µs |"
        for each in results
    )
    return lines


def report(options: argparse.Namespace) -> list[str]:
    """Return what stands above the table in the report."""
    command = f"--engines {options.engines} --requests {options.requests} --seed {options.seed}"
    words = (
        f"Conversations come at random, {RATE:g} requests a second for each engine: what the engines could just do if "
        "they remembered nothing. They belong to 200 applications, each with a system prompt of 200 to 2,000 tokens, a "
        "few of which have most of the requests (Zipf). An answer is followed by another question in 85 of 100 cases, "
        "after 20 seconds in the mean. An engine computes prompts one after the other, "
        f"{PREFILL:,.0f} tokens a second, and {SLOTS} answers at once; its prefix cache holds {CACHE:,} tokens and "
        "forgets what was not used for longest. Choosing and counting are the product's own code; "
        "`bench/simulated.py` is the rest. The first tenth of the requests is left out of the times. What one choice "
        "took is real time, on a machine that did other things too."
    )
    return [
        "# Ways to balance, simulated",
        "",
        f"{options.engines} engines, and {options.requests:,} requests for each policy, in virtual time:",
        "",
        "```bash",
        f'make simulate ARGS="{command}"',
        "```",
        "",
        *textwrap.wrap(words, 120),
        "",
    ]


def overloaded(seconds: float, seed: int) -> list[str]:
    """Return what becomes of more requests than a small fleet can serve, with the words for the report."""
    engines = 8
    most = overload.capacity(engines, seconds, seed)
    outcomes = [
        overload.measure(engines, load, most, admission, (seconds, seed))
        for load in (1.0, 2.0, 10.0)
        for admission in (False, True)
    ]
    words = (
        f"More than {engines} engines can serve, for {seconds:g} s: with the gateway's own queue they serve {most:.0f} "
        f"requests a second whose first token comes within {overload.DEADLINE:g} s, which is the load 1. One key of "
        f"{overload.KEYS} sends {overload.HOG:.0%} of all requests. Fairness is Jain's index of what each key got of "
        "its max-min fair share. Requests that were refused do not come again; `at once` is the part of the refusals "
        f"that came within {overload.AT_ONCE * 1000:.0f} ms, the others waited until their deadline."
    )
    return ["## Overload", "", *textwrap.wrap(words, 120), "", *overload.table(outcomes)]


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="bench.simulation", description=__doc__)
    parser.add_argument("--engines", type=int, default=200)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", nargs="*", default=list(get_args(Policy)))
    parser.add_argument("--overload", type=float, default=60.0, help="seconds of it; 0 for none")
    parser.add_argument("--write", action="store_true", help=f"keep the tables in {REPORT.name}")
    options = parser.parse_args(arguments)
    results = []
    for policy in options.policies:
        began = time.perf_counter()
        results.append(measure(policy, options.engines, options.requests, options.seed))
        print(f"{policy}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    lines = table(results)
    if options.overload:
        lines += ["", *overloaded(options.overload, options.seed)]
    print("\n".join(lines))
    if options.write:
        REPORT.write_text("\n".join([*report(options), *lines, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
