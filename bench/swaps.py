"""What a run of more engines than fit has shown, and what of it does not hold (`bench.residency`).

Rules:
- A request that was under way when the process that it needed was killed, or came within a second after, is lost: it
  may fail. Any other may not.
- A wait is the time from a request to the end of its answer, which takes milliseconds itself.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench import accounting, report
from bench.load import quantile
from gateway.residency.decide import SHORTEST_STAY

MIB, GIB = 1 << 20, 1 << 30
CLIENTS = 32
MAX_WAIT = 30.0
"""Seconds that a request may wait for its engine (`launch.max_wait`)."""
NOTICED = 1.0
"""Seconds after its engine was killed in which a request may have been sent to it: until the gateway has been told."""
OK = "ok"
_SETTLED = 20
"""Looks at a process after which its command line will not change any more: it has forked and not yet executed."""


@dataclass(frozen=True)
class Rules:
    """What a run is, and what must hold in it."""

    title: str
    words: str
    """What runs, in which memory."""
    memory: str
    """What is measured of the memory."""
    unit: str
    scale: int
    """Bytes of the unit."""
    budget: int
    """Bytes that may be taken."""
    fit: int
    """How many engines that holds at most."""

    def shown(self, amount: float) -> str:
        """Return bytes in the unit."""
        return f"{amount / self.scale:.1f}"


IN_RAM = Rules(
    "In RAM",
    "5 copies of the demo model, embedded llama.cpp, in a budget that holds 2",
    "memory of all engines",
    "MiB",
    MIB,
    120 * MIB,  # one takes 45 to 50
    2,
)
GPUS = Rules(
    "On GPUs",
    "6 models of 5 to 20 GiB, programs that play llama.cpp, on 2 GPUs of 24 GiB that NVML's stand-in tells of",
    "memory in use of the fuller GPU",
    "GiB",
    GIB,
    24 * GIB * 95 // 100,
    4,
)


@dataclass(frozen=True)
class Asked:
    """One request: the model, when it was sent and when it ended on the loop's clock, and how, in words."""

    model: str
    began: float
    ended: float
    end: str


@dataclass
class Counted:
    """What the gateway has counted, over all its lives. What it counted in the second before a kill is lost."""

    loads: Counter[str] = field(default_factory=Counter)
    """Starts of engines, by result."""
    stops: Counter[str] = field(default_factory=Counter)
    """Engines stopped, by reason."""
    seconds: float = 0.0
    """What the starts that ended well took together."""

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.loads + other.loads, self.stops + other.stops, self.seconds + other.seconds)


@dataclass
class Run:
    """What happened."""

    rules: Rules = IN_RAM
    seconds: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    engine_kills: list[tuple[float, str]] = field(default_factory=list)
    """When, and which model's."""
    down: tuple[float, float] | None = None
    """When the gateway was killed, and when it answered again."""
    memory: list[int] = field(default_factory=list)
    """Bytes of all engines, at each look."""
    most: int = 0
    """The most engines seen at once."""
    counted: Counted = field(default_factory=Counted)
    left: int = 0
    """Engines that still ran when the gateway had stopped."""

    def lost(self, one: Asked) -> bool:
        """Tell whether a request was under way when the process that it needed was killed."""
        if self.down is not None and one.began <= self.down[1] and one.ended >= self.down[0]:
            return True
        return any(
            model == one.model and one.began <= when + NOTICED and one.ended >= when
            for when, model in self.engine_kills
        )

    def failures(self) -> Counter[str]:
        """Return how requests failed that had no reason to."""
        return Counter(one.end for one in self.asked if one.end != OK and not self.lost(one))

    def waits(self) -> list[float]:
        """Return the seconds from each request that was answered to the end of its answer."""
        return [one.ended - one.began for one in self.asked if one.end == OK]

    def bound(self) -> float:
        """Return how many engines can have been stopped for another's sake.

        Each of them has first been loaded, and has then stayed for as long again, and for `SHORTEST_STAY` at least.
        """
        ready = self.counted.loads["ready"]
        load = self.counted.seconds / ready if ready else 0.0
        return self.rules.fit * self.seconds / (load + max(load, SHORTEST_STAY))

    def broken(self) -> list[str]:
        """Return in words what does not hold."""
        slow = quantile(self.waits(), 0.99)
        found = [f"failed: {count} × {end}" for end, count in self.failures().items()]
        rules, most = self.rules, max(self.memory)
        if most > rules.budget:
            took, budget = rules.shown(most), rules.shown(rules.budget)
            found.append(f"the engines took {took} {rules.unit}, the budget is {budget}")
        if slow is None or slow > MAX_WAIT:
            found.append(f"99 of 100 answers took {_seconds(slow)} s, `max_wait` is {MAX_WAIT:.0f}")
        if self.counted.stops["room"] > self.bound():
            found.append(f"{self.counted.stops['room']} engines made room, the bound is {self.bound():.0f}")
        if self.left:
            found.append(f"{self.left} engines were left when the gateway had stopped")
        return found


class Engines:
    """The engines' processes, found by the copies in their command lines."""

    def __init__(self, folder: Path) -> None:
        self._mark = str(folder / "model")
        self._strangers: Counter[int] = Counter()
        self._names: dict[int, str] = {}

    def look(self) -> dict[int, str]:
        """Return the model of each engine that runs, by process id."""
        there = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        for known in (self._names, self._strangers):
            for pid in known.keys() - there:
                del known[pid]
        for pid in there - self._names.keys():
            if self._strangers[pid] < _SETTLED:
                if (name := self._model(pid)) is None:
                    self._strangers[pid] += 1
                else:
                    self._names[pid] = name
        return dict(self._names)

    def _model(self, pid: int) -> str | None:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return None
        if any("warden.py" in word for word in words):
            return None
        found = [path for word in words if (path := word.removeprefix("--model=")).startswith(self._mark)]
        return Path(found[0]).stem if found else None

    def alive(self) -> list[int]:
        """Return the engines that run and have memory."""
        return [pid for pid in self.look() if accounting.resident(pid)]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def page(run: Run) -> str:
    """Return the result as Markdown."""
    it = report.machine()
    waits, memory = run.waits(), run.memory
    lost = sum(one.end != OK and run.lost(one) for one in run.asked)
    down = "–" if run.down is None else f"{run.down[1] - run.down[0]:.1f}"
    counted, rules = run.counted, run.rules
    rows = [
        ("minutes", f"{run.seconds / 60:.1f}"),
        ("requests", str(len(run.asked))),
        ("failed", str(sum(run.failures().values()))),
        ("lost with a process that was killed", str(lost)),
        ("engines killed; seconds without a gateway", f"{len(run.engine_kills)}; {down}"),
        (
            f"{rules.memory}, mean, most, budget, {rules.unit}",
            ", ".join(map(rules.shown, (sum(memory) / len(memory), max(memory), rules.budget))),
        ),
        ("looks at it; most engines at once", f"{len(memory)}; {run.most}"),
        (
            "seconds until the answer's end, p50, p90, p99, most; `max_wait`",
            ", ".join(_seconds(quantile(waits, share)) for share in (0.5, 0.9, 0.99, 1.0))
            + f"; {MAX_WAIT:.0f}",
        ),
        (
            "engines loaded; seconds of a load",
            f"{counted.loads['ready']}; {_seconds(counted.seconds / max(1, counted.loads['ready']))}",
        ),
        ("engines stopped for another's room; bound", f"{counted.stops['room']}; {run.bound():.0f}"),
        *((f"starts that ended as: {result}", str(n)) for result, n in sorted(counted.loads.items())),
        ("engines left when the gateway had stopped", str(run.left)),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    return (
        f"## {rules.title}\n\n{it['cpu']}, {it['cores']} cores, load {it['load']}, Linux {it['kernel']}, "
        f"{it['python']} · {CLIENTS} clients ask at random for {rules.words}; engines are killed at random, and the "
        f"gateway in the middle.\n\n| | |\n|---|---:|\n{table}\n"
    )


def kept(text: str, section: str) -> str:
    """Return a page of results with this section in the place of the one of its title, or at the end."""
    head, *sections = text.split("\n## ")
    new = section.removeprefix("## ").rstrip("\n")
    title = new.partition("\n")[0]
    titles = [each.partition("\n")[0] for each in sections]
    if title in titles:
        sections[titles.index(title)] = new
    else:
        sections.append(new)
    return "\n\n## ".join(each.strip("\n") for each in (head, *sections)) + "\n"
