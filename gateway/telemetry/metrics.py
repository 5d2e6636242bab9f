"""Every metric of the gateway, and the only importer of prometheus_client.

Rules:
- A request updates plain numbers in cells that were looked up once: updating one of Prometheus' own objects costs about
  a microsecond, twenty times as much, and a stream makes many updates. Those serve for the process' own numbers only.
- Label values come from the config and from closed sets, never from a client's input.
- A published metric keeps its name. docs/metrics.md lists all of them, and is made from them.
- A topic is a module of its own (`of_requests`, `of_backends`, ...) and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_TYPE
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics

from gateway.telemetry.cells import NONE, TargetMetrics
from gateway.telemetry.families import AnyFamily, Dump
from gateway.telemetry.merging import in_parts
from gateway.telemetry.of_adapters import AdapterMetrics
from gateway.telemetry.of_backends import BackendMetrics
from gateway.telemetry.of_batches import BatchMetrics
from gateway.telemetry.of_engines import EngineMetrics
from gateway.telemetry.of_gen_ai import GenAiMetrics
from gateway.telemetry.of_lives import LifeMetrics
from gateway.telemetry.of_machine import MachineMetrics
from gateway.telemetry.of_program import ProgramMetrics
from gateway.telemetry.of_requests import KeyMetrics, QueueMetrics, RequestMetrics
from gateway.telemetry.of_routes import RouteMetrics
from gateway.telemetry.page import CELLS, pieces_of
from gateway.telemetry.registry import Across, Families

CONTENT_TYPES = {False: CONTENT_TYPE_LATEST, True: OPENMETRICS_TYPE}
"""The content type of a page: in Prometheus' text format, and as OpenMetrics."""
_OPENMETRICS = "application/openmetrics-text"


class Metrics:
    """All metric families, by topic, and the text that exports them."""

    def __init__(self, version: str) -> None:
        """Make the families; an empty `version` tells of no program."""
        made = Families()
        self.requests = RequestMetrics(made)
        self.keys = KeyMetrics(made)
        self.queues = QueueMetrics(made)
        self.routes = RouteMetrics(made)
        self.batches = BatchMetrics(made)
        self.backends = BackendMetrics(made)
        self.engines = EngineMetrics(made)
        self.lives = LifeMetrics(made)
        self.adapters = AdapterMetrics(made)
        self.machine = MachineMetrics(made)
        self.program = ProgramMetrics(made, version)
        self.gen_ai = GenAiMetrics(made)
        self.families: list[AnyFamily] = [*made.all.values()]
        self.topics: dict[str, list[AnyFamily]] = made.topics
        self.across: dict[str, Across] = made.across
        self._looks: list[Callable[[], None]] = []
        self._process = CollectorRegistry(auto_describe=False)
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=self._process)

    def target(self, model: str, backend: str, engine: str = NONE) -> TargetMetrics:
        """Return the cells of one model at one backend of this kind, creating them on the first call."""
        return self.requests.target(model, backend, engine)

    def forget_backend(self, name: str) -> None:
        """Stop exporting everything about a backend that was removed from the config and serves no request any more."""
        for family in self.families:
            family.forget_all("backend", name)
        self.requests.forget_backend(name)

    def before_scrape(self, look: Callable[[], None]) -> None:
        """Call `look` before each scrape, to set gauges that are not updated at every change."""
        self._looks.append(look)

    def dump(self) -> Dump:
        """Return the cells of all families as plain values, for another process."""
        return [entry for part in self.dump_parts() for entry in part]

    def dump_parts(self) -> Iterator[Dump]:
        """Yield the same in parts that take little time each."""
        for look in self._looks:
            look()
        yield from in_parts(entry for family in self.families for entry in family.dump())

    def pieces(self, openmetrics: bool = False) -> Iterator[str]:
        """Yield the metrics page in Prometheus' text format, or as OpenMetrics, in pieces."""
        for look in self._looks:
            look()
        for family in self.families:
            yield from pieces_of(family, openmetrics)
        yield (as_openmetrics if openmetrics else generate_latest)(self._process).decode()

    def pieces_of(self, dump: Dump, openmetrics: bool = False) -> Iterator[str]:
        """Yield the metrics page with the numbers of a dump, and without those of this process, in pieces."""
        others = Metrics("")
        families = {family.name: family for family in others.families}
        for number, (kind, name, labels, value) in enumerate(dump, 1):
            families[name].take(kind, tuple(labels), value)
            if not number % CELLS:
                yield ""
        for family in others.families:
            yield from pieces_of(family, openmetrics)
        if openmetrics:
            yield "# EOF\n"


def wants_openmetrics(accept: str) -> bool:
    """Return whether a reader of the page prefers OpenMetrics, by its `Accept`; the heavier of equals comes first."""
    weights: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weights.setdefault(kind, _weight(parameters))
    plain = max(weights.get("text/plain", 0.0), weights.get("text/*", 0.0))
    return weights.get(_OPENMETRICS, 0.0) > plain or (
        _OPENMETRICS in weights and 0.0 < weights[_OPENMETRICS] == plain and accept.find(_OPENMETRICS) == 0
    )


def _weight(parameters: list[str]) -> float:
    """Return the weight among the parameters of a media type, 1 where there is none."""
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
