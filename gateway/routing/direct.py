"""The models of backends by `backend/model`: exactly one engine, for those who may name it so.

Rules:
- A backend is reached for what it serves: the models it lists, as far as the config offers them, and those that the
  config's own models ask it for.
- Plans are made when somebody asks, each once. There are no more of them than engines have models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from backends.base import ModelCard
from gateway.config.backend import BackendConfig
from gateway.config.schema import Config
from gateway.globs import Globs
from gateway.routing.catalog import Group, Plan
from gateway.routing.state import State


def offered(settings: BackendConfig, cards: tuple[ModelCard, ...] | None) -> Iterator[ModelCard]:
    """Yield the models of a backend that the config offers, of those it lists."""
    include = None if settings.include is None else Globs(settings.include)
    exclude = Globs(settings.exclude)
    for card in cards or ():
        if (include is None or include.fits(card.id)) and not exclude.fits(card.id):
            yield card


class Direct:
    """The plans for single backends, by one config and what the backends have told."""

    def __init__(self, config: Config, state: State, plan: Callable[[Group], Plan]) -> None:
        """`plan` makes the plan of a group."""
        self._config = config
        self._state = state
        self._plan = plan
        self._made: dict[str, Plan] = {}
        self._served: dict[str, frozenset[str]] = {}

    def find(self, name: str) -> Plan | None:
        """Return the plan for `backend/model`; None where there is no such backend, or it has no such model."""
        made = self._made.get(name)
        if made is None:
            backend, _, model = name.partition("/")
            if backend not in self._state.pool.backends or model not in self._models(backend):
                return None
            target = self._state.target(self._config, name, backend, model)
            made = self._made[name] = self._plan(Group(name, (name,), (target,), None))
        return made

    def is_backend(self, name: str) -> bool:
        """Tell whether a name begins with that of a backend and a slash."""
        backend, slash, _ = name.partition("/")
        return bool(slash) and backend in self._state.pool.backends

    def names(self) -> Iterator[str]:
        """Yield every such name that there is now."""
        for backend in self._state.pool.backends:
            yield from (f"{backend}/{model}" for model in sorted(self._models(backend)))

    def _models(self, backend: str) -> frozenset[str]:
        found = self._served.get(backend)
        if found is None:
            cards = offered(self._config.backends[backend], self._state.pool.backends[backend].models)
            own = [
                model.targets[backend].model
                for model in self._config.models.values()
                if backend in model.targets
            ]
            found = self._served[backend] = frozenset([*(card.id for card in cards), *own])
        return found
