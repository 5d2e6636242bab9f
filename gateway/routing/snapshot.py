"""From a config and the live state to what a request reads: keys and catalog, built whole and then only read.

Rules:
- A snapshot never changes. When the config changes, or a backend tells other models, a new one takes its place.
- A request reads the current snapshot once.
- What must outlive a snapshot is in `State`, by name; building a snapshot gives it the numbers of the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.admission.gate import Gate
from gateway.auth import Keys
from gateway.config.balance import Balance
from gateway.config.inherit import in_profile, owners, retry, succession, timeouts
from gateway.config.model import Capabilities, Model
from gateway.config.parameters import settled
from gateway.config.persona import adapter_of, declares_adapters, gate_of
from gateway.config.schema import Config
from gateway.globs import natural
from gateway.routing import rules
from gateway.routing.catalog import Catalog, Group, Listed, Names, Plan
from gateway.routing.direct import Direct, offered
from gateway.routing.router import Router
from gateway.routing.state import State
from gateway.routing.traits import Traits
from gateway.wire.cors import Origins
from gateway.wire.sizes import Sizes

_OFFERED = Model(targets={})
"""The settings of a model that the config does not name."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one moment's requests are decided by."""

    config: Config
    keys: Keys
    catalog: Catalog
    router: Router
    origins: Origins


def build(config: Config, state: State) -> Snapshot:
    """Build the snapshot of a config with the backends as they are now. `state` is what earlier snapshots left."""
    given, config = config, in_profile(config, state.profile)
    groups = _configured(config, state) if config.models else _offered(config, state)
    by_name = {name: group for group in groups for name in group.names}
    owner = owners(config)
    for group in groups:
        _know(group)
        own = config.models.get(group.model)
        if own is not None and (own.context or own.capabilities != Capabilities()):
            group.context = own.context or group.context
            able = own.capabilities
            group.traits = Traits(own.context, able.tools, able.vision, able.embeddings, able.reasoning)
    plans = {group.model: _plan(config, group, by_name, owner, state) for group in groups}
    state.keep(plans.keys())
    untold = None if config.models else state.pool.untold
    direct = Direct(config, state, lambda group: _direct(config, group, state))
    catalog = Catalog(_names(config, plans, direct), untold)
    known = rules.Models({name: plans[group.model] for name, group in by_name.items()}, catalog.fitting)
    ruled = rules.build(config, known, state)
    catalog.name_also(ruled.led_to(), [name for name, shown in ruled.virtual.items() if shown])
    router = Router(catalog, ruled, state)
    return Snapshot(given, Keys(config), catalog, router, Origins(config))


def _names(config: Config, plans: Mapping[str, Plan], direct: Direct) -> Names:
    """Return the names of the models with these plans, as far as the config shows them."""
    public: dict[str, Plan] = {}
    patterns: dict[str, Plan] = {}
    listed: list[Listed] = []
    for model, plan in plans.items():
        own, group = config.models.get(model, _OFFERED), plan.groups[0]
        if own.internal:
            continue
        public.update(dict.fromkeys(group.names, plan))
        patterns.update(dict.fromkeys(own.globs, plan))
        hidden = {alias.name for alias in own.aliases if alias.unlisted}
        shown = [] if own.unlisted else [name for name in group.names if name not in hidden]
        listed += [Listed(name, group) for name in shown]
    return Names(public, listed, patterns, plans, direct)


def _direct(config: Config, group: Group, state: State) -> Plan:
    """Return the plan of a group that is a single backend with one model."""
    _know(group)
    return _plan(config, group, {group.model: group}, {}, state)


def _configured(config: Config, state: State) -> list[Group]:
    """Return the models of the config with their targets."""
    groups = []
    for name, model in config.models.items():
        targets = tuple(
            state.target(config, name, backend, target.model, target.weight)
            for backend, target in model.targets.items()
        )
        common = settled(model.settled)
        adapter, chooses = adapter_of(config, name), declares_adapters(config, name)
        for target in targets:
            if adapter is not None:
                target.adapter = state.adapter(config, adapter[1], adapter[0], target)
            selection = state.selection(target, chooses)
            target.parameters = common if selection is None else settled(model.settled, selection)
        balancer = state.balancer(name, model.balance, targets)
        group = Group(name, (name, *model.names), targets, balancer)
        group.parent = model.parent or ""
        groups.append(group)
    return groups


def _offered(config: Config, state: State) -> list[Group]:
    """Return what the backends say they serve, under their own names: the config has no `models`."""
    backends_of: dict[str, list[str]] = {}
    for backend in state.pool.backends.values():
        for card in offered(config.backends[backend.name], backend.models):
            backends_of.setdefault(card.id, []).append(backend.name)
    groups = []
    for name, backends in sorted(backends_of.items(), key=lambda item: natural(item[0])):
        targets = tuple(state.target(config, name, backend, name) for backend in backends)
        groups.append(Group(name, (name,), targets, state.balancer(name, Balance(), targets)))
    return groups


def _plan(config: Config, group: Group, names: dict[str, Group], owner: dict[str, str], state: State) -> Plan:
    """Return the plan for a model: its own targets, then its fallbacks' and theirs, each model once."""
    order = [names[name] for name in succession(config, group.model, owner)]
    limits = timeouts(config, group.model, group.targets[0].backend.name)
    attempts = retry(config, group.model).attempts
    own = config.models.get(group.model)
    sizes = Sizes(config.server.limits.reply, config.server.limits.event)
    gate = None if own is None else _gate(config, group, names, state)
    heartbeat = None if own is None else own.heartbeat
    hedging = None if own is None else state.hedging(group.model, own)
    plan = Plan(tuple(order), attempts, limits.queue, limits.total, gate, heartbeat, sizes, hedging)
    plan.show_loading = own is not None and own.show_loading
    return plan


def _gate(config: Config, group: Group, names: Mapping[str, Group], state: State) -> Gate | None:
    """Return the gate of a model of the config: its own, or that of the model it is made from."""
    name = gate_of(config, group.model)
    return state.gate(name, config.models[name], names[name].targets)


def _know(group: Group) -> None:
    """Note what the engines tell of a model: the shortest context, and what all can do that say something of it."""
    told = [
        card for target in group.targets for card in target.backend.models or () if card.id == target.model
    ]
    group.context = min([card.context for card in told if card.context], default=None)
    able = [card.abilities for card in told if card.abilities is not None]
    group.abilities = able[0].intersection(*able[1:]) if able else None
