"""Where families are registered: one topic after the other, each by a module of its own.

Rules:
- A topic is a class that takes `Families` and keeps the families it makes; `gateway.telemetry.metrics` makes each once.
- A name is registered once. docs/metrics.md is made from what is registered here.
"""

from __future__ import annotations

from typing import Literal

from gateway.telemetry.cells import Histogram, Value
from gateway.telemetry.families import AnyFamily, Family

Across = Literal["sum", "largest", "master"]
"""What becomes of a gauge's values in several worker processes: their sum; the largest, where all tell of the same
thing; or what the master tells, which runs the engines and reads the config."""


class Families:
    """The families of all topics, in order."""

    def __init__(self) -> None:
        self.all: dict[str, AnyFamily] = {}
        """By name, as it is registered."""
        self.topics: dict[str, list[AnyFamily]] = {}
        """By the title of the topic."""
        self.across: dict[str, Across] = {}

    def topic(self, title: str) -> Topic:
        """Begin a topic; its title is a heading of the document."""
        self.topics.setdefault(title, [])
        return Topic(self, title)

    def add(self, title: str, family: AnyFamily, across: Across) -> None:
        """Register a family. Raises ValueError if its name is taken."""
        if family.name in self.all:
            raise ValueError(f"two metrics are called {family.name}")
        self.all[family.name] = family
        self.topics[title].append(family)
        self.across[family.name] = across


class Topic:
    """Makes families and registers them under one title.

    A name is given without `_total`, which every counter's name ends in on the page. `help` is one or two sentences of
    Markdown: the page and the document show the same.
    """

    def __init__(self, families: Families, title: str) -> None:
        self._families, self._title = families, title

    def counter(
        self, name: str, help: str, labels: tuple[str, ...] = (), sparse: bool = True
    ) -> Family[Value]:
        """Make a counter. With `sparse`, cells that never counted anything are not shown."""
        return self._values("counter", name, help, labels, sparse, across="sum")

    def gauge(
        self, name: str, help: str, labels: tuple[str, ...] = (), sparse: bool = False, across: Across = "sum"
    ) -> Family[Value]:
        """Make a gauge. With `sparse`, a cell is shown from its first export with another value than 0."""
        return self._values("gauge", name, help, labels, sparse, across)

    def histogram(
        self, name: str, help: str, labels: tuple[str, ...], bounds: tuple[float, ...]
    ) -> Family[Histogram]:
        """Make a histogram whose buckets have these upper bounds."""
        made: Family[Histogram] = Family(
            "histogram", name, help, labels, lambda: Histogram(bounds), sparse=True
        )
        self._families.add(self._title, made, "sum")
        return made

    def histogram_of_others(self, name: str, help: str, labels: tuple[str, ...]) -> Family[Histogram]:
        """Make a histogram of what others observe: whoever sets a cell brings its buckets."""
        made: Family[Histogram] = Family("histogram", name, help, labels, lambda: Histogram(()), own=True)
        self._families.add(self._title, made, "sum")
        return made

    def _values(
        self, kind: str, name: str, help: str, labels: tuple[str, ...], sparse: bool, across: Across
    ) -> Family[Value]:
        made: Family[Value] = Family(kind, name, help, labels, Value, sparse)
        self._families.add(self._title, made, across)
        return made
