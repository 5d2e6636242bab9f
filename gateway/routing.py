"""From the name a client asks for to the places that serve it, in the order they are to be tried.

Rules:
- Plans are made when the config is read or a backend tells its models; a request looks one up in a dictionary.
- What a caller may not use is not named to it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.admission import Gate
from gateway.auth import Caller
from gateway.errors import GatewayError, Own
from gateway.fleet.balance import Balancer
from gateway.fleet.pool import Target

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Group:
    """The targets of one model; any of them will do."""

    model: str
    names: tuple[str, ...]
    """The model's own name and its aliases: a key that allows one of them allows the model."""
    targets: tuple[Target, ...]
    balancer: Balancer

    def allowed(self, caller: Caller) -> bool:
        return any(map(caller.allows, self.names))


@dataclass(frozen=True, slots=True)
class Plan:
    """How requests for one model are served: its own targets first, then those of its fallbacks."""

    groups: tuple[Group, ...]
    attempts: int
    queue: float
    """Seconds a request may wait for a place, and again for a backend that is loading."""
    total: float
    """Seconds until a request must be over."""
    gate: Gate | None = None
    """The places of the model; None where their number is not limited."""
    heartbeat: float | None = None
    """Seconds between signs of life before a stream's first content; None for none, and headers with the content."""

    @property
    def model(self) -> str:
        return self.groups[0].model


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the model list."""

    name: str
    context: int | None
    group: Group


class Catalog:
    """Every name a client may ask for."""

    def __init__(self, plans: Mapping[str, Plan], listed: Iterable[Listed]) -> None:
        self._plans = plans
        self._listed = tuple(listed)

    def resolve(self, name: str, caller: Caller) -> Plan:
        """The plan for a model name or alias. Raises GatewayError: no such model, or not for this caller."""
        plan = self._plans.get(name)
        if plan is None:
            raise self._unknown(name, caller)
        if not plan.groups[0].allowed(caller):
            raise GatewayError(
                Own.FORBIDDEN, f"the API key may not use the model {_quoted(name)}", param="model"
            )
        return plan

    def listed(self, caller: Caller) -> list[Listed]:
        """What the caller may use, names and aliases."""
        return [entry for entry in self._listed if entry.group.allowed(caller)]

    def everything(self) -> list[str]:
        """Every name and alias, for the operator."""
        return [entry.name for entry in self._listed]

    def _unknown(self, name: str, caller: Caller) -> GatewayError:
        names = [entry.name for entry in self.listed(caller)]
        message = f"there is no model {_quoted(name)}"
        close = difflib.get_close_matches(name[:256], names, n=1)
        if close:
            message += f" (did you mean '{close[0]}'?)"
        shown = ", ".join(names[:_SHOWN]) + (
            f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        )
        message += f"; models here: {shown}" if names else "; no backend has told its models yet"
        return GatewayError(Own.UNKNOWN_MODEL, message, param="model")


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 128 else name[:125] + "...")
