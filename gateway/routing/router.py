"""From what a request asks for to where it goes: permissions, then rules, then the model of that name.

Rules:
- A client may use what it names. Where a rule sends the request is the operator's business, not the key's.
- One call decides, counts the decision and gives it an id. It never waits.
"""

from __future__ import annotations

from time import time

from mypy_extensions import mypyc_attr

from gateway.asked import Asked
from gateway.errors import GatewayError, Own
from gateway.routing.catalog import Catalog, Group, Plan, quoted
from gateway.routing.decision import Decision, Decisions, Moment
from gateway.routing.rules import Rules
from gateway.routing.state import State
from gateway.telemetry.cells import Value


@mypyc_attr(allow_interpreted_subclasses=True)
class Router:
    """Decides where requests go, by one config."""

    __slots__ = ("_by_name", "_state", "catalog", "rules")

    def __init__(self, catalog: Catalog, rules: Rules, state: State) -> None:
        """`state` has what outlives the config."""
        self.catalog: Catalog = catalog
        self.rules: Rules = rules
        self._state: State = state
        self._by_name: dict[str, Value] = {}
        """The counters of requests that no rule decided on, by the model they went to."""

    @property
    def decisions(self) -> Decisions:
        """The decisions of this process so far, by whichever config."""
        return self._state.decisions

    def decide(self, asked: Asked, now: float) -> Decision:
        """Return where a request goes at `now`, the loop's time. Raises GatewayError where it may go nowhere."""
        state = self._state
        decision = self.decide_at(asked, Moment(now, time(), state.rng))
        plan = decision.plan
        counter = self._by_name.get(plan.model) if not decision.rule else None
        if counter is None:
            counter = state.metrics.routes.decisions.cell(decision.rule or "-", decision.reason, plan.model)
            if not decision.rule:
                self._by_name[plan.model] = counter
        counter.value += 1
        state.decisions.keep(decision)
        return decision

    def decide_at(self, asked: Asked, moment: Moment) -> Decision:
        """Return where a request goes at any moment, neither counted nor kept.

        Raises GatewayError where it may go nowhere.
        """
        plan, rule = self.named(asked), None
        if self.rules:
            rule = self.rules.first(asked, moment)
        decision = self.decisions.begin(asked.request.model, "" if rule is None else rule.name, moment.wall)
        if rule is not None:
            decision.plan = rule.choice.choose(asked, moment, decision)
            if rule.priority is not None:
                asked.best_priority = rule.priority
        elif plan is not None:
            decision.plan = plan
        else:
            raise self.nowhere(asked)
        return decision

    def able(self, plan: Plan, asked: Asked) -> tuple[Group, ...] | None:
        """Return the groups of a plan that can serve this very request; None where all that do its operation can.

        Raises GatewayError where none can.
        """
        if asked.request.operation not in plan.candidates:
            raise self.catalog.unsupported(plan, asked.request.operation, asked.caller)
        return self.catalog.able(plan, asked) if plan.choosy else None

    def nowhere(self, asked: Asked) -> GatewayError:
        """Return the error for a request whose model's name only rules have, where none of them fits it."""
        message = f"no rule says where this request for the model {quoted(asked.request.model)} goes"
        return GatewayError(Own.UNKNOWN_MODEL, message, param="model")

    def named(self, asked: Asked) -> Plan | None:
        """Return the plan of the model of the name asked for; None where only rules have that name.

        Raises GatewayError where the caller may use neither.
        """
        name, caller = asked.request.model, asked.caller
        if name in self.rules.virtual and caller.allows(name):
            return None
        return self.catalog.resolve(name, caller)
