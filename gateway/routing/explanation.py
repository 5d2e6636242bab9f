"""Why a request goes where it goes, in plain values for people and programs.

Rules:
- The answer comes from the very objects that decide on live requests. Nothing here decides anything itself.
- Nothing is counted or reserved: a request that is explained is none.
- A balancer is asked what it would weigh; it remembers nothing of that. Where chance decides, the chances are told.
- What a caller may not name, its explanation does not name as something it could have asked for. `for_client` leaves
  out what is the operators' business.
"""

from __future__ import annotations

from typing import Any

from backends.surfaces.naming import renamed
from gateway.asked import Asked
from gateway.balance.loaded import Balancer, Weighed
from gateway.errors import GatewayError
from gateway.fleet.lease import Target
from gateway.routing.catalog import Group, Plan
from gateway.routing.decision import Decision, Moment
from gateway.routing.match import Condition
from gateway.routing.router import Router
from gateway.routing.rules import Rule

_FULL = "all of its slots are taken"
_DOWN = "it is not up"
_UNLOADED = "it has not loaded the adapter"
_FOR_CLIENTS = ("model", "turn", "backend", "usable", "against", "chance")
"""What clients are told of a candidate: nothing that the headers of answers and errors could not tell them."""


def explain(router: Router, asked: Asked, moment: Moment, stand_in: str | None = None) -> dict[str, Any]:
    """Return where a request would go at this moment, and why each other way was not taken.

    `stand_in` is the model that serves requests for one that there is not, if the config has one.
    """
    found = _explained(router, asked, moment)
    if stand_in is None or found.get("error", {}).get("code") != "model_not_found":
        return found
    other = Asked(renamed(asked.request, stand_in), asked.headers, asked.caller)
    instead = _explained(router, other, moment)
    return found if "error" in instead else instead | {"asked": found["asked"], "stand_in": stand_in}


def _explained(router: Router, asked: Asked, moment: Moment) -> dict[str, Any]:
    found: dict[str, Any] = {"asked": _facts(asked)}
    try:
        named = router.named(asked)
        rule = router.rules.first(asked, moment)
        found["rule"] = None if rule is None else rule.name
        found["rules"] = [_rule(each, asked, moment, rule) for each in router.rules.all()]
        decision = Decision(b"", asked.request.model, "" if rule is None else rule.name, moment.wall)
        if rule is not None:
            plan = rule.choice.choose(asked, moment, decision)
            found["choice"] = rule.choice.why(asked, moment)
        elif named is not None:
            plan = named
        else:
            raise router.nowhere(asked)
        found |= {"reason": decision.reason, "model": plan.model}
        candidates = _Candidates(plan, asked, moment)
        found |= {"candidates": candidates.told, "backend": candidates.backend, "backend_why": candidates.why}
        router.able(plan, asked)
    except GatewayError as error:
        found["error"] = {"status": error.status, **error.facts.members()}
    return found


def for_client(told: dict[str, Any]) -> dict[str, Any]:
    """Return an explanation without what only operators may see.

    That is rules for other names, what rules want of keys, users and headers, and of backends their addresses, their
    names for models and their load.
    """
    found = dict(told)
    if "rules" in told:
        found["rules"] = [_shorter(rule) for rule in told["rules"] if _is_for_the_name(rule)]
    if "candidates" in told:
        found["candidates"] = [
            {name: each[name] for name in _FOR_CLIENTS if name in each} for each in told["candidates"]
        ]
        for each in found["candidates"]:
            if each.get("against", "").startswith(_DOWN):
                each["against"] = _DOWN
    return found


def _is_for_the_name(rule: dict[str, Any]) -> bool:
    return all(held["fits"] for held in rule["match"] if held["condition"] == "model")


def _shorter(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a rule without what it wants."""
    shorter = dict(rule)
    for part in ("match", "unless"):
        if part in rule:
            shorter[part] = [
                {name: value for name, value in held.items() if name != "wanted"} for held in rule[part]
            ]
    return shorter


def _facts(asked: Asked) -> dict[str, Any]:
    """Return what rules may look at."""
    request = asked.request
    return {
        "model": request.model,
        "operation": request.operation.value,
        "key": asked.caller.name,
        "key_tags": list(asked.caller.tags),
        "user": asked.user,
        "stream": request.stream,
        "prompt_tokens": asked.prompt_tokens,
        "max_tokens": asked.max_tokens,
        "tools": asked.has_tools,
        "images": asked.has_images,
    }


def _rule(rule: Rule, asked: Asked, moment: Moment, taken: Rule | None) -> dict[str, Any]:
    """Return whether a request fits a rule, and each condition with what the request has."""
    held = [_held(condition, asked, moment) for condition in rule.conditions]
    excepted = [_held(condition, asked, moment) for condition in rule.exceptions]
    fits = all(each["fits"] for each in held) and not (excepted and all(each["fits"] for each in excepted))
    if rule is taken:
        verdict = "taken"
    elif fits:
        verdict = "fits, but an earlier rule was taken"
    else:
        verdict = "does not fit"
    return {
        "name": rule.name,
        "verdict": verdict,
        "match": held,
        **({"unless": excepted} if excepted else {}),
    }


def _held(condition: Condition, asked: Asked, moment: Moment) -> dict[str, Any]:
    return {
        "condition": condition.name,
        "wanted": condition.words,
        "found": condition.found(asked, moment),
        "fits": condition.fits(asked, moment),
    }


class _Candidates:
    """Every target of a plan in the order of its groups, and which of them would be chosen."""

    def __init__(self, plan: Plan, asked: Asked, moment: Moment) -> None:
        self.told: list[dict[str, Any]] = []
        """Each target, with what speaks for and against it."""
        self.backend: str | None = None
        """The backend that would be chosen where that is certain."""
        self.why = "no backend can take it now"
        self._asked = asked
        self._moment = moment
        self._decided = False
        if plan.gate is not None and not plan.gate.has_room:
            self._decide("it would wait for a slot of the model first")
        can = {group.model: group for group in plan.candidates.get(asked.request.operation, ())}
        for turn, group in enumerate(plan.groups):
            self._take(group, can.get(group.model), "its own" if turn == 0 else "a fallback")

    def _take(self, group: Group, able: Group | None, turn: str) -> None:
        """Add the targets of a group; `able` are those that can do the operation."""
        now = self._moment.now
        lacks = group.traits.lacks(self._asked) if group.traits is not None else ""
        against: dict[str, str] = {}
        for target in group.targets:
            target.backend.look_at_slow_start(now)
            if able is None or target not in able.targets:
                against[target.name] = "its engine cannot do this operation"
            elif lacks:
                against[target.name] = f"the model does not have what the request needs: {lacks}"
            elif said := _against(target, self._moment):
                against[target.name] = said
        usable = [target for target in group.targets if target.name not in against]
        weighed = _weighed(group.balancer, usable, self._asked, now)
        decides = not self._decided
        if decides and usable:
            self._choose(weighed)
        elif decides and _FULL in against.values():
            self._decide("it would wait for a slot of a backend first")
        elif decides and _UNLOADED in against.values():
            self._decide("it would wait for the adapter to be loaded first")
        for target in group.targets:
            told = {"model": group.model, "turn": turn} | _facts_of(target, now)
            if target.name in against:
                self.told.append(told | {"usable": False, "against": against[target.name]})
                continue
            found = weighed[target.name]
            told |= {
                "usable": True,
                "policy": None if group.balancer is None else group.balancer.policy,
                "score": None if found.score is None else float(f"{found.score:.6g}"),
                "weighed": found.words,
                "chance": round(found.chance, 4) if decides else None,
            }
            self.told.append(told)

    def _choose(self, weighed: dict[str, Weighed]) -> None:
        self.backend = next((name for name, each in weighed.items() if each.chance == 1.0), None)
        self._decide("chance decides" if self.backend is None else "nothing but this one would be chosen")

    def _decide(self, why: str) -> None:
        self.why, self._decided = why, True


def _weighed(balancer: Balancer | None, usable: list[Target], asked: Asked, now: float) -> dict[str, Weighed]:
    """Return what is weighed for each target that can be chosen, by its name."""
    if balancer is None or not usable:
        return {target.name: Weighed(None, "the model has no other backend", 1.0) for target in usable}
    names = [target.name for target in usable]
    return dict(zip(names, balancer.weigh(usable, asked, now), strict=True))


def _facts_of(target: Target, now: float) -> dict[str, Any]:
    """Return what is known of a target, and what an operator has ordered for it."""
    backend, load = target.backend, target.backend.load
    signals = {
        "running": load.running(now),
        "waiting": load.waiting(now),
        "slots": load.slots(now),
        "kv_use": load.kv_use(now),
    }
    return {
        "backend": target.name,
        "upstream_model": target.model,
        "weight": round(target.weight, 4),
        "share": target.share,
        "slow_start": round(backend.slow_start_weight, 4),
        "ordered_weight": backend.orders.weight,
        "drained": backend.orders.drained,
        "in_flight": target.in_flight,
        "signals": {name: value for name, value in signals.items() if value is not None},
    }


def _against(target: Target, moment: Moment) -> str:
    """Return why a target cannot be chosen now; empty where it can."""
    backend = target.backend
    if backend.orders.drained:
        return "an operator has drained it"
    if not backend.usable:
        return f"{_DOWN}: {backend.reason}"
    if not backend.breaker.allows(moment.now):
        return "its breaker is open, or it asked to be left alone"
    if target.adapter is not None and not target.adapter.loaded:
        return _UNLOADED
    if backend.gate is not None and not backend.gate.has_room:
        return _FULL
    return ""
