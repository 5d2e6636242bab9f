"""From the setting `balance` to the balancer it means."""

from __future__ import annotations

from random import Random

from gateway.balance.basic import Chance, LeastLoaded, RoundRobin, TwoChoices
from gateway.balance.bound import Bound
from gateway.balance.latency import Latency
from gateway.balance.loaded import Balancer, Outcomes
from gateway.balance.prefix import Prefix
from gateway.balance.session import Session
from gateway.balance.sessions import Source
from gateway.config.balance import Balance


def balancer(settings: Balance, outcomes: Outcomes, rng: Random) -> Balancer:
    """Return a new balancer; `outcomes` counts what becomes of affinity, `rng` is all its chance."""
    made = _made(settings, outcomes, rng)
    made.policy = settings.policy
    return made


def _made(settings: Balance, outcomes: Outcomes, rng: Random) -> Balancer:
    match settings.policy:
        case "least_loaded":
            return LeastLoaded(rng)
        case "round_robin":
            return RoundRobin()
        case "random" | "weighted":
            return Chance(rng, by_weight=settings.policy == "weighted")
        case "power_of_two":
            return TwoChoices(rng)
        case "latency":
            return Latency(rng)
    bound = Bound(settings.load_factor, settings.load_floor)
    if settings.policy == "prefix":
        return Prefix(bound, outcomes, rng)
    return Session(tuple(map(Source, settings.by)), bound, outcomes, rng)
