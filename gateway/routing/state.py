"""What outlives a snapshot, by name: each new snapshot adopts it and may change its numbers.

Rules:
- A request that passed a gate leaves by the same gate, however often the snapshot was replaced meanwhile. So a model
  keeps its gate while anybody holds a slot of it or waits for one.
- A backend, with its connections, breaker, counters and gate, lives in the pool by its name; the cells of its metrics
  by model and backend. A target only refers to both, so a new one continues where the old one stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from random import Random

from backends.dialect.selection import Selection
from gateway.admission.gate import UNLIMITED, Gate
from gateway.balance import policies
from gateway.balance.hedging import Hedging
from gateway.balance.loaded import Balancer, Outcomes
from gateway.config.balance import Balance
from gateway.config.inherit import timeouts
from gateway.config.model import Model
from gateway.config.schema import Config
from gateway.fleet.adapters import Adapter
from gateway.fleet.gauges import show_slots
from gateway.fleet.lease import Target
from gateway.fleet.pool import Pool
from gateway.routing.canaries import Canaries
from gateway.routing.crowding import Crowding
from gateway.routing.decision import Decisions
from gateway.routing.slots import Following
from gateway.telemetry.cells import NONE
from gateway.telemetry.metrics import Metrics
from gateway.wire.clocks import Clocks
from gateway.wire.quota import Quota


class State:
    """The live things that snapshots refer to."""

    def __init__(self, pool: Pool, metrics: Metrics, rng: Random) -> None:
        """Start with the backends of `pool` and nothing for any model. `rng` breaks ties between targets."""
        self.pool = pool
        self.metrics = metrics
        self.rng = rng
        self.decisions = Decisions()
        self._balancers: dict[str, tuple[Balance, Balancer]] = {}
        """By model, with the settings that each was made for."""
        self._gates: dict[str, Gate] = {}
        self._hedging: dict[str, Hedging] = {}
        self.canaries = Canaries(metrics)
        self._crowding: dict[str, Crowding] = {}
        self._follows: dict[str, Following] = {}
        self.processes: int = 1
        """How many processes serve, each with gates of its own."""
        self.clock: Callable[[], float] = time.monotonic
        self.profile: str | None = None
        """The profile that is active; None for none."""
        metrics.before_scrape(self._show_slots)

    def _show_slots(self) -> None:
        for model, gate in self._gates.items():
            show_slots(self.metrics, (model, NONE), gate.slots, gate.held)

    def gate(self, model: str, settings: Model, targets: Collection[Target]) -> Gate | None:
        """Return the gate of a model with the numbers of its settings; None where they set no limit.

        `targets` are the model's own. Where the limit was lifted, those who wait enter at once.
        """
        gate, wanted = self._gates.get(model), settings.admission
        self._follows.pop(model, None)
        if wanted is None:
            if gate is not None:
                gate.resize(UNLIMITED, 0)
            return None
        if gate is None:
            gate = self._gates[model] = Gate(UNLIMITED, wanted.queue, wanted.ageing)
        if isinstance(wanted.concurrency, int):
            gate.resize(wanted.concurrency, wanted.queue, wanted.ageing)
        else:
            backends = tuple(dict.fromkeys(target.backend for target in targets))
            self._follows[model] = Following(gate, wanted, backends, self.processes)
            self._follows[model].follow(self.clock())
        return gate

    def follow(self) -> None:
        """Give the gates whose number of slots is `auto` as many as their engines have now."""
        now = self.clock()
        for following in self._follows.values():
            following.follow(now)

    def balancer(self, model: str, settings: Balance, targets: Sequence[Target]) -> Balancer | None:
        """Return the balancer of a model; None where there is nothing to choose.

        It is the one from before while the settings are the same, and remembers what concerns `targets`.
        """
        if len(targets) < 2:
            self._balancers.pop(model, None)
            return None
        before = self._balancers.get(model)
        if before is None or before[0] != settings:
            cell = self.metrics.routes.affinity.cell
            outcomes = Outcomes(cell(model, "hit"), cell(model, "miss"), cell(model, "moved"))
            before = settings, policies.balancer(settings, outcomes, self.rng)
            self._balancers[model] = before
        before[1].keep({target.name for target in targets})
        return before[1]

    def crowding(self, rule: str) -> Crowding:
        """Return what the overflow rule of this name remembers of how busy its models are."""
        return self._crowding.setdefault(rule, Crowding())

    def look_at_quotas(self, backends: Collection[str]) -> None:
        """Have these backends, and no others, keep how many requests they still take, as their answers tell."""
        for name, backend in self.pool.backends.items():
            if name not in backends:
                backend.quota = None
            elif backend.quota is None:
                backend.quota = Quota()

    def hedging(self, model: str, settings: Model) -> Hedging | None:
        """Return when requests of a model are hedged, with the numbers of its settings; None where they are not."""
        if settings.hedge is None:
            self._hedging.pop(model, None)
            return None
        hedging = self._hedging.setdefault(model, Hedging())
        hedging.change(settings.hedge.after, settings.hedge.budget)
        return hedging

    def target(self, config: Config, model: str, backend: str, upstream_name: str, weight: int = 1) -> Target:
        """Return the target for a model on a backend, which calls the model `upstream_name`."""
        live = self.pool.backends[backend]
        cells = self.metrics.target(model, backend, live.engine.name)
        return Target(live, upstream_name, cells, Clocks(timeouts(config, model, backend)), weight)

    def adapter(self, config: Config, model: str, name: str, target: Target) -> Adapter:
        """Return the adapter that a target needs, which `model` declares under this name."""
        own = config.models[model]
        shelf = self.pool.adapters.shelf(model, target.backend, own.lora_slots)
        shelf.keep(own.loras)
        return shelf.adapter(name, own.loras[name])

    def selection(self, target: Target, chooses: bool) -> Selection | None:
        """Return which adapters the requests choose at a target; None where its engine has none that they choose.

        `chooses`: the model has adapters, or is one.
        """
        if target.adapter is not None:
            return target.adapter.selection
        engine = target.backend.engine
        if not (chooses and engine.adapter_operations):
            return None
        return Selection(engine.adapter_operations, engine.choice(None, "", target.backend.launched))

    def keep(self, models: Collection[str]) -> None:
        """Forget every model that is not among `models`, but for gates that are still in use."""
        self.pool.adapters.keep(models)
        for model in self._balancers.keys() - set(models):
            del self._balancers[model]
        for model in self._follows.keys() - set(models):
            del self._follows[model]
        for model in self._hedging.keys() - set(models):
            del self._hedging[model]
        for model in [model for model in self._gates if model not in models and self._gates[model].idle]:
            del self._gates[model]
            show_slots(self.metrics, (model, NONE), UNLIMITED, 0)
