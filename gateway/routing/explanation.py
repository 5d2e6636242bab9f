"""Why a request goes where it goes, in plain values for people and programs.

Rules:
- The answer comes from the very objects that decide on live requests. Nothing here decides anything itself.
- Nothing is counted or reserved: a request that is explained is none.
- What a caller may not name, its explanation does not name as something it could have asked for.
"""

from __future__ import annotations

from typing import Any

from gateway.asked import Asked
from gateway.errors import GatewayError
from gateway.fleet.lease import Target
from gateway.routing.catalog import Group, Plan
from gateway.routing.decision import Decision, Moment
from gateway.routing.match import Condition
from gateway.routing.router import Router
from gateway.routing.rules import Rule


def explain(router: Router, asked: Asked, moment: Moment) -> dict[str, Any]:
    """Return where a request would go at this moment, and why each other way was not taken."""
    found: dict[str, Any] = {"asked": _facts(asked)}
    try:
        by_name = router.permitted(asked)
        rule = router.rules.first(asked, moment)
        found["rule"] = None if rule is None else rule.name
        found["rules"] = [_rule(each, asked, moment, rule) for each in router.rules.all()]
        decision = Decision(b"", asked.request.model, "" if rule is None else rule.name, moment.wall)
        if rule is not None:
            plan = rule.choice.choose(asked, moment, decision)
            found["choice"] = rule.choice.why(asked, moment)
        elif by_name:
            plan = router.catalog.resolve(asked.request.model, asked.caller)
        else:
            raise router.nowhere(asked)
        found |= {"reason": decision.reason, "model": plan.model}
        found["candidates"] = _candidates(plan, asked, moment)
        if asked.request.operation not in plan.candidates:
            raise router.catalog.unsupported(plan, asked.request.operation, asked.caller)
    except GatewayError as error:
        found["error"] = {"status": error.status, **error.facts._asdict()}
    return found


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


def _candidates(plan: Plan, asked: Asked, moment: Moment) -> list[dict[str, Any]]:
    """Return every target of a plan in the order of its groups, each with what speaks for and against it."""
    able = plan.candidates.get(asked.request.operation, ())
    found = []
    for turn, group in enumerate(plan.groups):
        can = {target.name for each in able if each.model == group.model for target in each.targets}
        found += [
            _candidate(target, group, turn, moment) | _verdict(target, target.name in can, moment)
            for target in group.targets
        ]
    return found


def _candidate(target: Target, group: Group, turn: int, moment: Moment) -> dict[str, Any]:
    backend, now = target.backend, moment.now
    load = backend.load
    signals = {
        "running": load.running(now),
        "waiting": load.waiting(now),
        "slots": load.slots(now),
        "kv_use": load.kv_use(now),
    }
    return {
        "model": group.model,
        "turn": "its own" if turn == 0 else "a fallback",
        "backend": target.name,
        "upstream_model": target.model,
        "weight": round(target.weight, 4),
        "in_flight": target.in_flight,
        "signals": {name: value for name, value in signals.items() if value is not None},
    }


def _verdict(target: Target, able: bool, moment: Moment) -> dict[str, Any]:
    """Return whether a target can be chosen now, and what speaks against it."""
    backend = target.backend
    if not able:
        against = "its engine cannot do this operation"
    elif not backend.usable:
        against = f"it is not up: {backend.reason}"
    elif not backend.breaker.allows(moment.now):
        against = "its breaker is open, or it asked to be left alone"
    elif backend.gate is not None and not backend.gate.has_room:
        against = "all of its slots are taken"
    else:
        return {"usable": True}
    return {"usable": False, "against": against}
