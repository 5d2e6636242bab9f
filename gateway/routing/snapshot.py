"""From a config and the live backends to what a request reads: keys and catalog, built whole and then only read.

Rules:
- A snapshot never changes. When a backend tells its models a new one is built and takes its place.
- A request reads the current snapshot once.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gateway.admission.gate import Gate
from gateway.auth import Keys
from gateway.balance.basic import Balancer, LeastLoaded, RoundRobin
from gateway.config.file import Config, retry, timeouts
from gateway.fleet.pool import Pool, Target
from gateway.routing.catalog import Catalog, Group, Listed, Plan
from gateway.telemetry.metrics import Metrics
from gateway.wire.clocks import Clocks


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one moment's requests are decided by."""

    config: Config
    keys: Keys
    catalog: Catalog


def build(config: Config, pool: Pool, metrics: Metrics, rng: Random, gates: dict[str, Gate]) -> Snapshot:
    """The snapshot of this config with the backends as they are now. `gates` holds the gates of earlier snapshots, by
    model: requests that passed one must leave by the same."""
    groups = (
        _configured(config, pool, metrics, rng) if config.models else _offered(config, pool, metrics, rng)
    )
    names = {name: group for group in groups for name in group.names}
    plans = {}
    for group in groups:
        plan = _plan(config, group, names, gates)
        plans.update(dict.fromkeys(group.names, plan))
    listed = [Listed(name, _context(group), group) for group in groups for name in group.names]
    return Snapshot(config, Keys(config), Catalog(plans, listed))


def _configured(config: Config, pool: Pool, metrics: Metrics, rng: Random) -> list[Group]:
    groups = []
    for name, model in config.models.items():
        targets = tuple(
            _target(config, pool, metrics, name, backend, target.model, target.weight)
            for backend, target in model.targets.items()
        )
        balancer: Balancer = RoundRobin() if model.balance == "round_robin" else LeastLoaded(rng)
        groups.append(Group(name, (name, *model.aliases), targets, balancer))
    return groups


def _offered(config: Config, pool: Pool, metrics: Metrics, rng: Random) -> list[Group]:
    """Without `models` in the config: what the backends say they serve, under their own names."""
    backends_of: dict[str, list[str]] = {}
    for backend in pool.backends.values():
        for card in backend.models or ():
            backends_of.setdefault(card.id, []).append(backend.name)
    return [
        Group(
            name,
            (name,),
            tuple(_target(config, pool, metrics, name, backend, name, 1) for backend in backends),
            LeastLoaded(rng),
        )
        for name, backends in sorted(backends_of.items())
    ]


def _target(
    config: Config, pool: Pool, metrics: Metrics, model: str, backend: str, upstream_name: str, weight: int
) -> Target:
    live = pool.backends[backend]
    clocks = timeouts(config, model, backend)
    return Target(live, upstream_name, metrics.target(model, backend), Clocks(clocks), weight)


def _plan(config: Config, group: Group, names: dict[str, Group], gates: dict[str, Gate]) -> Plan:
    """A model's own targets, then its fallbacks' and theirs, each model once."""
    order: list[Group] = []
    waiting = [group]
    while waiting:
        found = waiting.pop(0)
        if found not in order:
            order.append(found)
            model = config.models.get(found.model)
            waiting += [names[name] for name in model.fallback] if model else []
    first = timeouts(config, group.model, group.targets[0].backend.name)
    attempts = retry(config, group.model).attempts
    own = config.models.get(group.model)
    if own is None:
        return Plan(tuple(order), attempts, first.queue, first.total)
    if own.concurrency is not None and group.model not in gates:
        gates[group.model] = Gate(own.concurrency, own.queue_size)
    gate = gates.get(group.model)
    return Plan(tuple(order), attempts, first.queue, first.total, gate, own.heartbeat)


def _context(group: Group) -> int | None:
    """The shortest context among the targets that told theirs."""
    told = [
        card.context
        for target in group.targets
        for card in target.backend.models or ()
        if card.id == target.model and card.context
    ]
    return min(told, default=None)
