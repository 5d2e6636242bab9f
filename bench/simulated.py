"""A fleet that is only computed: virtual time, engines as a few formulas, clients as sessions.

Rules:
- Nothing here decides where a request goes or whether it may: that is the product's own code, given virtual time.
- The same seed gives the same requests whatever decides about them: each session has chance of its own.
- An engine is simple and has what matters here: prompts are computed one after the other, but for what its prefix cache
  holds; answers are computed together, the slower the more there are; beyond its slots requests wait in order.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from backends.base import Health
from backends.engines.openai import OpenAI
from gateway.config.defaults import Timeouts
from gateway.fleet.backend import Backend
from gateway.fleet.breaker import Breaker
from gateway.fleet.lease import Lease, Target
from gateway.telemetry.metrics import Metrics
from gateway.wire.clocks import Clocks

PREFILL = 10_000.0
"""Tokens of prompts that an engine computes in a second."""
STEP, STEP_PER_ANSWER = 0.02, 0.0003
"""Seconds for one token of all answers under way, and how much more each of them costs."""
SLOTS = 64
"""Requests that an engine computes at once."""
CACHE = 300_000
"""Tokens in an engine's prefix cache."""
BYTES = 4
"""Bytes of a token."""


class _Nothing(selectors.SelectSelector):
    """Waits for nothing: the time that would pass has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes as fast as its work is done. It has no sockets."""

    def __init__(self) -> None:
        self._nothing = _Nothing()
        super().__init__(self._nothing)
        # A timer is due when it is no later than this, so nothing is called too early.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._nothing.now


class Job:
    """One request."""

    __slots__ = ("answer", "arrived", "done", "first", "key", "lease", "parts", "session")

    def __init__(self, session: Session, parts: list[tuple[int, int]], answer: int, arrived: float) -> None:
        """`parts` are the pieces of the prompt, each with its number and tokens."""
        self.session = session
        self.key = session.key
        self.parts = parts
        self.answer = answer
        self.arrived = arrived
        self.first = -1.0
        """When its first token came; -1 before."""
        self.lease: Lease | None = None
        self.done: Callable[[Job], None] | None = None

    @property
    def prompt(self) -> int:
        return sum(tokens for _, tokens in self.parts)


class Engine:
    """One engine as time passes there, and the product's own target for it."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self._loop = loop
        backend = Backend(name, OpenAI(), metrics, Breaker(Random(1)), ("m",))
        # Nobody ever connects to it.
        backend.locate("http://127.0.0.1:9")
        backend.note(Health.READY)
        self.target = Target(backend, "m", metrics.target("m", name), Clocks(Timeouts()))
        self.served = 0
        self.cached_tokens = self.prompt_tokens = 0
        self._running = 0
        self._waiting: deque[Job] = deque()
        self._prefill_until = 0.0
        self._cache: OrderedDict[int, int] = OrderedDict()
        self._cached = 0

    def send(self, job: Job) -> None:
        """Take a request that has a lease on this engine."""
        self.served += 1
        if self._running < SLOTS:
            self._start(job)
        else:
            self._waiting.append(job)

    def _start(self, job: Job) -> None:
        self._running += 1
        known = self._look_up(job.parts)
        prompt = job.prompt
        self.cached_tokens += known
        self.prompt_tokens += prompt
        now = self._loop.time()
        self._prefill_until = max(self._prefill_until, now) + (prompt - known) / PREFILL
        self._loop.call_at(self._prefill_until, self._first_token, job)

    def _first_token(self, job: Job) -> None:
        now = job.first = self._loop.time()
        assert job.lease is not None
        job.lease.heard(now)
        seconds = job.answer * (STEP + STEP_PER_ANSWER * self._running)
        self._loop.call_later(seconds, self._end, job)

    def _end(self, job: Job) -> None:
        assert job.lease is not None
        now = self._loop.time()
        job.lease.succeeded(now)
        job.lease.close(now)
        self._running -= 1
        if self._waiting:
            self._start(self._waiting.popleft())
        assert job.done is not None
        job.done(job)

    def _look_up(self, parts: list[tuple[int, int]]) -> int:
        """Return how many tokens of a prompt are in the cache, and put all of it there."""
        cache, known, missed = self._cache, 0, False
        for number, tokens in parts:
            if number in cache and not missed:
                known += tokens
            elif number not in cache:
                missed = True
                cache[number] = tokens
                self._cached += tokens
            else:
                missed = True
        for number, _ in reversed(parts):
            cache.move_to_end(number)
        while self._cached > CACHE:
            self._cached -= cache.popitem(last=False)[1]
        return known


class Session:
    """One conversation: turns with pauses between them, all with one application's system prompt."""

    __slots__ = ("_messages", "_rng", "key", "number", "parts", "system")

    def __init__(self, number: int, seed: int, world: World) -> None:
        self._rng = Random(seed * 1_000_003 + number)
        self.number = number
        self.key = world.keys[_drawn(world.key_sums, self._rng)]
        app = _drawn(world.app_sums, self._rng)
        self.system = app
        self.parts = [(-1 - app, world.system_tokens[app])]
        self._messages = [world.system_messages[app]]

    def turn(self, now: float) -> Job:
        """Return the next request: all that was said, and a new question."""
        rng, turn = self._rng, len(self.parts)
        tokens = rng.randint(50, 300)
        self.parts.append((self.number * 1000 + turn, tokens))
        self._messages.append(_message("user", f"{self.number} {turn} ", tokens))
        return Job(self, list(self.parts), rng.randint(50, 350), now)

    def answered(self, job: Job) -> float | None:
        """Take the answer; return the seconds until the next question, None if there is none."""
        self.parts.append((self.number * 1000 + len(self.parts), job.answer))
        self._messages.append(_message("assistant", f"{self.number} {len(self.parts)} ", job.answer))
        if self._rng.random() < 0.15 or len(self.parts) > 40:
            return None
        return self._rng.expovariate(1 / 20.0)

    def body(self) -> bytes:
        """Return the body of the last request."""
        return b'{"model":"m","stream":true,"messages":[' + b",".join(self._messages) + b"]}"


class World:
    """Who asks, and for what: keys and applications, few of them for most of the requests (Zipf)."""

    def __init__(self, seed: int, apps: int = 200, keys: int = 50, skew: float = 1.1) -> None:
        rng = Random(seed)
        self.keys = [f"key-{number}" for number in range(keys)]
        self.key_sums = _zipf(keys, skew)
        self.app_sums = _zipf(apps, skew)
        self.system_tokens = [rng.randint(200, 2000) for _ in range(apps)]
        self.system_messages = [
            _message("system", f"application {app} ", tokens) for app, tokens in enumerate(self.system_tokens)
        ]


def _message(role: str, start: str, tokens: int) -> bytes:
    content: Mapping[str, Any] = {"role": role, "content": start + "x" * (BYTES * tokens - len(start))}
    return json.dumps(content).encode()


def _zipf(count: int, skew: float) -> list[float]:
    sums, total = [], 0.0
    for number in range(1, count + 1):
        total += 1 / number**skew
        sums.append(total)
    return sums


def _drawn(sums: list[float], rng: Random) -> int:
    wanted, low, high = rng.random() * sums[-1], 0, len(sums) - 1
    while low < high:
        middle = (low + high) // 2
        if sums[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def quantile(ordered: Sequence[float], part: float) -> float:
    """Return the value below which this part of the ordered numbers lies."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0
