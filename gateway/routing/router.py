"""From what a request asks for to where it goes: permissions, then rules, then the model of that name.

Rules:
- A client may use what it names. Where a rule sends the request is the operator's business, not the key's.
- One call decides, counts the decision and gives it an id. It never waits.
"""

from __future__ import annotations

from time import time

from gateway.asked import Asked
from gateway.errors import GatewayError, Own
from gateway.routing.catalog import Catalog, Group, Plan, quoted
from gateway.routing.decision import Decision, Decisions, Moment
from gateway.routing.rules import Rules
from gateway.routing.state import State


class Router:
    """Decides where requests go, by one config."""

    __slots__ = ("_state", "catalog", "rules")

    def __init__(self, catalog: Catalog, rules: Rules, state: State) -> None:
        """`state` has what outlives the config."""
        self.catalog: Catalog = catalog
        self.rules: Rules = rules
        self._state: State = state

    @property
    def decisions(self) -> Decisions:
        """The decisions of this process so far, by whichever config."""
        return self._state.decisions

    def decide(self, asked: Asked, now: float) -> Decision:
        """Return where a request goes at `now`, the loop's time. Raises GatewayError where it may go nowhere."""
        state, wall = self._state, time()
        if not self.rules:
            decision = state.decisions.begin(asked.request.model, "", wall)
            decision.plan = self.catalog.resolve(asked.request.model, asked.caller)
        else:
            decision = self._by_rules(asked, Moment(now, wall, state.rng))
        plan = decision.plan
        state.metrics.decisions.cell(decision.rule or "-", decision.reason, plan.model).value += 1
        return decision

    def able(self, plan: Plan, asked: Asked) -> tuple[Group, ...] | None:
        """Return the groups of a plan that can serve this very request; None where all that do its operation can.

        Raises GatewayError where none can.
        """
        if asked.request.operation not in plan.candidates:
            raise self.catalog.unsupported(plan, asked.request.operation, asked.caller)
        return self.catalog.able(plan, asked) if plan.choosy else None

    def _by_rules(self, asked: Asked, moment: Moment) -> Decision:
        name = asked.request.model
        own = self.permitted(asked)
        rule = self.rules.first(asked, moment)
        decision = self._state.decisions.begin(name, "" if rule is None else rule.name, moment.wall)
        if rule is not None:
            decision.plan = rule.choice.choose(asked, moment, decision)
        elif own:
            decision.plan = self.catalog.resolve(name, asked.caller)
        else:
            raise self.nowhere(asked)
        return decision

    def nowhere(self, asked: Asked) -> GatewayError:
        """Return the error for a request whose model's name only rules have, where none of them fits it."""
        message = f"no rule says where this request for the model {quoted(asked.request.model)} goes"
        return GatewayError(Own.UNKNOWN_MODEL, message, param="model")

    def permitted(self, asked: Asked) -> bool:
        """Tell whether the name asked for is that of a model, rather than one that only rules have.

        Raises GatewayError where the caller may use neither.
        """
        name, caller = asked.request.model, asked.caller
        if name in self.rules.virtual and caller.allows(name):
            return False
        self.catalog.resolve(name, caller)
        return True
