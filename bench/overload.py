"""Ten times more requests than a fleet can serve, with and without a queue of the gateway's own, in virtual time.

Rules:
- The queue, its order and who is refused are the product's own code (`gateway.admission`), in an event loop whose time
  is virtual.
- A request counts as good if its first token comes before its deadline. Clients do not come again.
- One key of ten sends half of all requests.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from random import Random

from bench.simulated import SLOTS, Engine, Job, Session, VirtualLoop, World, quantile
from gateway.admission.gate import Gate, Place
from gateway.admission.tickets import Claim
from gateway.admission.waiting import Patience, enter
from gateway.balance.basic import LeastLoaded
from gateway.errors import GatewayError
from gateway.fleet.lease import pick
from gateway.telemetry.metrics import Metrics

DEADLINE = 10.0
"""Seconds until a first token is of no use any more."""
QUEUE = 125
"""Requests that may wait, for each engine."""
ENOUGH = 25.0
"""Requests a second for each engine that are more than it can serve."""
KEYS = 10
HOG = 0.5
"""The part of all requests that one key sends."""
AT_ONCE = 0.05
"""Seconds within which a refusal counts as one at once."""


@dataclass(frozen=True)
class Outcome:
    """What became of the requests."""

    load: float
    """Requests a second, against what the fleet can serve."""
    admission: bool
    good: float
    """Requests a second whose first token came in time."""
    p99: float
    """Seconds to the first token, of those that were served."""
    refused: float
    """The part of all requests that was refused."""
    at_once: float
    """The part of the refusals that came within 50 ms."""
    fairness: float
    """Jain's index of what the keys got of their fair shares."""


class Overload:
    """So many requests a second, for so many seconds."""

    def __init__(self, engines: int, rate: float, seconds: float, admission: bool, seed: int) -> None:
        """`admission`: requests wait in a queue of the gateway's own, which has as many slots as all engines."""
        self._loop = VirtualLoop()
        asyncio.set_event_loop(self._loop)
        metrics = Metrics("")
        self._engines = {
            name: Engine(name, self._loop, metrics)
            for name in (f"engine-{number}" for number in range(engines))
        }
        self._targets = [engine.target for engine in self._engines.values()]
        self._balancer = LeastLoaded(Random(seed))
        self._gate = Gate(SLOTS * engines, QUEUE * engines, clock=self._loop.time) if admission else None
        self._world, self._rng, self._seed = World(seed, keys=KEYS), Random(seed + 1), seed
        self._rate, self._until = rate, seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._places: dict[Job, Place] = {}
        self.asked, self.good = Counter[str](), Counter[str]()
        self.first_tokens: list[float] = []
        self.refusals: list[float] = []

    def run(self) -> None:
        """Send everything, and wait until all of it has an answer."""
        self._loop.run_until_complete(self._send())
        self._loop.close()
        asyncio.set_event_loop(None)

    async def _send(self) -> None:
        number = 0
        while self._loop.time() < self._until:
            await asyncio.sleep(self._rng.expovariate(self._rate))
            number += 1
            job = Session(number, self._seed, self._world).turn(self._loop.time())
            hog = self._rng.random() < HOG
            job.key = "key-0" if hog else f"key-{self._rng.randrange(1, KEYS)}"
            job.done = self._answered
            self.asked[job.key] += 1
            task = self._loop.create_task(self._serve(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        # Virtual time: nobody is kept from anything.
        while self._tasks or any(target.in_flight for target in self._targets):  # noqa: ASYNC110
            await asyncio.sleep(1.0)

    async def _serve(self, job: Job) -> None:
        if self._gate is not None:
            claim = Claim(job.key)
            claim.prompt, claim.most = float(job.prompt), 350.0
            try:
                place = await enter((self._gate,), claim, Patience(job.arrived + DEADLINE), self._rng)
            except GatewayError:
                self.refusals.append(self._loop.time() - job.arrived)
                return
            self._places[job] = place
        job.lease = pick(self._targets, self._balancer, self._loop.time())
        assert job.lease is not None
        self._engines[job.lease.target.name].send(job)

    def _answered(self, job: Job) -> None:
        place = self._places.pop(job, None)
        if place is not None:
            place.settle(float(job.prompt + job.answer))
            place.gate.leave()
        seconds = job.first - job.arrived
        self.first_tokens.append(seconds)
        if seconds <= DEADLINE:
            self.good[job.key] += 1


def measure(
    engines: int, load: float, capacity: float, admission: bool, options: tuple[float, int]
) -> Outcome:
    """Return what becomes of `load` times as many requests as the fleet can serve, which is `capacity` a second.

    `options` are the seconds for which they come, and the seed.
    """
    seconds, seed = options
    overload = Overload(engines, load * capacity, seconds, admission, seed)
    overload.run()
    refused, good = overload.refusals, sum(overload.good.values())
    fair = max_min(overload.asked, good)
    return Outcome(
        load,
        admission,
        good / seconds,
        quantile(sorted(overload.first_tokens), 0.99),
        len(refused) / sum(overload.asked.values()),
        sum(after <= AT_ONCE for after in refused) / max(1, len(refused)),
        jain([overload.good[key] / share for key, share in fair.items() if share]),
    )


def capacity(engines: int, seconds: float, seed: int) -> float:
    """Return how many requests a second the fleet serves in time where enough of them wait."""
    overload = Overload(engines, ENOUGH * engines, seconds, True, seed)
    overload.run()
    return sum(overload.good.values()) / seconds


def max_min(asked: Counter[str], total: float) -> dict[str, float]:
    """Return each key's fair share of `total`: what it asks for, or as much as the others that want more."""
    shares: dict[str, float] = {}
    left = total
    for number, (key, wanted) in enumerate(sorted(asked.items(), key=lambda item: item[1])):
        shares[key] = min(float(wanted), left / (len(asked) - number))
        left -= shares[key]
    return shares


def jain(shares: list[float]) -> float:
    """Return Jain's index of fairness: 1 where all have the same, 1/n where one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def table(outcomes: list[Outcome]) -> list[str]:
    """Return the outcomes as lines of Markdown."""
    lines = [
        "| load | queue and deadlines | in time | first token p99 | refused | at once | fairness |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines.extend(
        f"| {each.load:.1f} x | {'yes' if each.admission else 'no'} | {each.good:.1f}/s | {each.p99:,.1f} s | "
        f"{each.refused:.0%} | {each.at_once:.0%} | {each.fairness:.2f} |"
        for each in outcomes
    )
    return lines
