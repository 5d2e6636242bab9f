"""What outlives a snapshot, by name: each new snapshot adopts it and may change its numbers.

Rules:
- A request that passed a gate leaves by the same gate, however often the snapshot was replaced meanwhile. So a model
  keeps its gate while anybody holds a slot of it or waits for one.
- A backend, with its connections, breaker, counters and gate, lives in the pool by its name; the cells of its metrics
  by model and backend. A target only refers to both, so a new one continues where the old one stopped.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from gateway.admission.gate import UNLIMITED, Gate
from gateway.balance.basic import Balancer, LeastLoaded, RoundRobin
from gateway.config.inherit import timeouts
from gateway.config.model import Model
from gateway.config.schema import Config
from gateway.fleet.lease import Target
from gateway.fleet.pool import Pool
from gateway.routing.canaries import Canaries
from gateway.telemetry.metrics import Metrics
from gateway.wire.clocks import Clocks


class State:
    """The live things that snapshots refer to."""

    def __init__(self, pool: Pool, metrics: Metrics, rng: Random) -> None:
        """Start with the backends of `pool` and nothing for any model. `rng` breaks ties between targets."""
        self.pool = pool
        self.metrics = metrics
        self._least_loaded = LeastLoaded(rng)
        self._rotations: dict[str, RoundRobin] = {}
        self._gates: dict[str, Gate] = {}
        self.canaries = Canaries(metrics)

    def gate(self, model: str, settings: Model) -> Gate | None:
        """Return the gate of a model with the numbers of its settings; None where they set no limit.

        Where the limit was lifted, those who wait enter at once.
        """
        gate = self._gates.get(model)
        if settings.concurrency is None:
            if gate is not None:
                gate.resize(UNLIMITED, settings.queue_size)
            return None
        if gate is None:
            gate = self._gates[model] = Gate(settings.concurrency, settings.queue_size)
        else:
            gate.resize(settings.concurrency, settings.queue_size)
        return gate

    def balancer(self, model: str, balance: str, targets: Collection[Target]) -> Balancer:
        """Return the balancer of a model, named as in the config. It remembers what concerns `targets`."""
        if balance != "round_robin":
            self._rotations.pop(model, None)
            return self._least_loaded
        rotation = self._rotations.setdefault(model, RoundRobin())
        rotation.keep({target.name for target in targets})
        return rotation

    def target(self, config: Config, model: str, backend: str, upstream_name: str, weight: int = 1) -> Target:
        """Return the target for a model on a backend, which calls the model `upstream_name`."""
        live, cells = self.pool.backends[backend], self.metrics.target(model, backend)
        return Target(live, upstream_name, cells, Clocks(timeouts(config, model, backend)), weight)

    def keep(self, models: Collection[str]) -> None:
        """Forget every model that is not among `models`, but for gates that are still in use."""
        for model in self._rotations.keys() - set(models):
            del self._rotations[model]
        for model in [model for model in self._gates if model not in models and self._gates[model].idle]:
            del self._gates[model]
