"""The order in which requests that wait are served: priority classes that age, and keys that share by tokens.

Rules:
- Pure: time and costs are arguments, nothing waits. Every operation takes O(log n), spread over the operations.
- The best class goes first. A request rises by one class for every `ageing` seconds that it waits: one of any class but
  the last is served if it keeps its place. The last one, `background`, never rises, and gives its place in a full queue
  to whoever comes with a better one.
- Inside a class the key goes first that has had the fewest tokens there for its weight (a virtual token counter for
  each key). A key that begins to wait is lifted to those that do: nobody saves up turns.
- Inside a key and a class it came with, the order is that of arrival.
- A request is charged with an estimate when its turn comes. What it really cost is settled when that is known.
- A full queue belongs to the keys in equal shares, by their weights: who has less than the largest share gets a place
  from it. A better class gets a place from a worse one.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import Final

from gateway.admission.tickets import Account, Flow, Ticket
from gateway.priority import BACKGROUND, CLASSES

_WORST: Final = len(CLASSES) - 1
_ANSWER: Final = 256.0
"""Tokens that an answer is taken to have before any was seen."""
_NEWS: Final = 0.2
"""How much the last answer counts in the mean of their lengths."""
_SPARE: Final = 64
"""Outdated entries that a heap may have beyond as many as there are valid ones."""


class FairQueue:
    """The requests that wait at one gate. Every `now` is in seconds of the same clock."""

    __slots__ = (
        "_accounts",
        "_ageing",
        "_all",
        "_answer",
        "_cost",
        "_due",
        "_floors",
        "_joined",
        "_largest",
        "_levels",
        "_sizes",
        "_stamp",
        "_weights",
        "size",
    )

    def __init__(self, ageing: float) -> None:
        """Start empty. A request rises one class for every `ageing` seconds."""
        self.size: int = 0
        """How many wait."""
        self._ageing: float = ageing
        self._joined: int = 0
        self._answer: float = -1.0
        """The mean length of all answers in tokens; -1 before any was seen."""
        self._cost: float = 0.0
        """The sum of the costs of those that wait."""
        self._accounts: dict[str, Account] = {}
        self._all: list[OrderedDict[int, Ticket]] = [OrderedDict() for _ in CLASSES]
        """Those that wait, by the class they came with, in order of arrival."""
        self._levels: list[list[tuple[float, int, Flow]]] = [[] for _ in CLASSES]
        """For each class a heap of what a key has had there, and its flow by the number of the first in it."""
        self._sizes: list[int] = [0] * len(CLASSES)
        """How many wait in each class, by the class of the first of their flows."""
        self._weights: list[float] = [0.0] * len(CLASSES)
        """The sum of the weights of the flows in each class."""
        self._floors: list[float] = [0.0] * len(CLASSES)
        """What the key had in each class that was served there last."""
        self._due: list[tuple[float, int, Flow]] = []
        """A heap of when the first of each flow rises by a class."""
        self._largest: list[tuple[float, int, Account]] = []
        """A heap of the accounts by what waits of them for their weight, the largest first."""
        self._stamp: int = 0
        """Makes the entries of that heap differ."""

    @property
    def pressing(self) -> int:
        """How many wait that are not of the class `background`."""
        return self.size - len(self._all[BACKGROUND])

    def change(self, ageing: float) -> None:
        """Let requests rise one class for every `ageing` seconds from now on."""
        if ageing != self._ageing:
            self._ageing = ageing
            self._due = []
            for account in self._accounts.values():
                for flow in account.flows:
                    if flow.waiting:
                        self._note_rise(flow)

    def join(self, ticket: Ticket, now: float) -> None:
        """Let a request wait."""
        claim = ticket.claim
        account = self._accounts.get(claim.key)
        if account is None:
            account = self._accounts[claim.key] = Account(claim.key, claim.weight)
        elif account.weight != claim.weight:
            self._reweigh(account, claim.weight)
        self._rise(now)
        answer = account.answer if account.answer >= 0.0 else self._answer
        ticket.cost = max(1.0, claim.prompt + min(claim.most, answer if answer >= 0.0 else _ANSWER))
        flow = account.flows[claim.level]
        self._joined += 1
        ticket.number, ticket.arrived, ticket.flow, ticket.waits = self._joined, now, flow, True
        if flow.waiting:
            last = next(reversed(flow.waiting.values()))
            ticket.ahead = last.ahead + 1
            ticket.start = max(last.start, account.had[flow.level]) + last.cost / account.weight
        flow.waiting[ticket.number] = self._all[claim.level][ticket.number] = ticket
        account.size += 1
        self.size += 1
        self._cost += ticket.cost
        if len(flow.waiting) == 1:
            self._enter(flow, claim.level, -1)
            ticket.start = account.had[flow.level]
        else:
            self._sizes[flow.level] += 1
        self._note_share(account)

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Take a request out of the queue, if it waits there."""
        flow = ticket.flow
        if flow is None or not ticket.waits:
            return
        self._rise(now)
        first = next(iter(flow.waiting)) == ticket.number
        self._remove(ticket, flow)
        if first:
            self._leave(flow)
            self._go_on(flow, now)
        self._forget(flow.account)

    def first(self, now: float) -> Ticket:
        """Take out the request whose turn it is, and charge its key with the estimate. There must be one."""
        self._rise(now)
        level = 0
        while not self._sizes[level]:
            level += 1
        flow = self._next(level)
        assert flow is not None
        account = flow.account
        ticket = next(iter(flow.waiting.values()))
        self._floors[level] = max(self._floors[level], account.had[level])
        self._remove(ticket, flow)
        self._leave(flow)
        ticket.charged = level
        account.charged += 1
        self._charge(account, level, ticket.cost)
        self._go_on(flow, now)
        return ticket

    def settle(self, ticket: Ticket, used: float) -> None:
        """Charge the key of a request whose turn has come with the tokens that it took, instead of the estimate."""
        level, ticket.charged = ticket.charged, -1
        flow = ticket.flow
        if level < 0 or flow is None:
            return
        account, claim = flow.account, ticket.claim
        if used > 0.0 and claim.most > 0.0:
            answer = max(0.0, used - claim.prompt)
            account.answer = _mean(account.answer, answer)
            self._answer = _mean(self._answer, answer)
        account.charged -= 1
        self._charge(account, level, used - ticket.cost)
        self._forget(account)

    def victim(self, newcomer: Ticket, now: float) -> Ticket:
        """Return the request that has to leave because the queue is too long by one: the newcomer or another one."""
        self._rise(now)
        flow, level = newcomer.flow, newcomer.claim.level
        assert flow is not None
        if level < BACKGROUND and self._all[BACKGROUND]:
            return next(reversed(self._all[BACKGROUND].values()))
        account, largest = flow.account, self._largest_account()
        assert largest is not None
        if largest.share > account.share:
            return self._last(largest)
        if account is largest:
            own = self._last(account)
            return own if own.claim.level > level else newcomer
        for worse in range(_WORST, level, -1):
            if self._all[worse]:
                ticket = next(reversed(self._all[worse].values()))
                if worse - int((now - ticket.arrived) / self._ageing) > level:
                    return ticket
        return newcomer

    def position(self, ticket: Ticket, now: float) -> int:
        """Return about how many requests are served before this one if nobody else comes, plus one.

        It is exact where one key waits in one class. Of other keys it counts what they may have before this key has had
        as much.
        """
        flow = ticket.flow
        if flow is None or not ticket.waits:
            return 0
        self._rise(now)
        level, account = flow.level, flow.account
        own = min(ticket.ahead - next(iter(flow.waiting.values())).ahead, len(flow.waiting) - 1)
        others = self._sizes[level] - len(flow.waiting)
        ahead = 0.0
        if others:
            least = self._next(level)
            assert least is not None
            weight = self._weights[level] - account.weight
            behind = max(ticket.start, account.had[level]) - least.account.had[level]
            ahead = min(float(others), weight * max(behind, 0.0) / max(self._cost / self.size, 1.0))
        return 1 + sum(self._sizes[:level]) + own + round(ahead)

    # flows

    def _enter(self, flow: Flow, level: int, before: int) -> None:
        """Put a flow in a class. A key that did not wait there is lifted to those that do.

        `before` is the class the flow was in until now, -1 for none.
        """
        account = flow.account
        flow.level = level
        if level != before and not self._waits(account, level, flow):
            least = self._next(level)
            floor = self._floors[level] if least is None else least.account.had[level]
            account.had[level] = max(account.had[level], floor)
        self._sizes[level] += len(flow.waiting)
        self._weights[level] += account.weight
        self._push(flow)
        self._note_rise(flow)

    def _waits(self, account: Account, level: int, but: Flow) -> bool:
        """Tell whether another flow of a key than `but` waits in a class."""
        others = [flow for flow in account.flows if flow is not but and flow.waiting and flow.level == level]
        return bool(others)

    def _go_on(self, flow: Flow, now: float) -> None:
        """Put a flow that has lost its first request in the class of its next one, if it has one."""
        if flow.waiting:
            first = next(iter(flow.waiting.values()))
            risen = 0 if flow.origin == BACKGROUND else int((now - first.arrived) / self._ageing)
            self._enter(flow, max(0, flow.origin - risen), flow.level)

    def _leave(self, flow: Flow) -> None:
        """Take a flow out of its class; `_remove` has taken its first request out of it."""
        self._sizes[flow.level] -= len(flow.waiting)
        self._weights[flow.level] -= flow.account.weight

    def _remove(self, ticket: Ticket, flow: Flow) -> None:
        ticket.waits = False
        del flow.waiting[ticket.number]
        del self._all[flow.origin][ticket.number]
        flow.account.size -= 1
        self._sizes[flow.level] -= 1
        self.size -= 1
        self._cost = self._cost - ticket.cost if self.size else 0.0

    def _rise(self, now: float) -> None:
        """Let every flow rise whose first request has waited long enough."""
        due = self._due
        while due and due[0][0] <= now:
            _, number, flow = heappop(due)
            if flow.level and number in flow.waiting and next(iter(flow.waiting)) == number:
                self._leave(flow)
                self._enter(flow, flow.level - 1, flow.level)

    def _note_rise(self, flow: Flow) -> None:
        """Note when the first request of a flow rises next."""
        if flow.level and flow.origin != BACKGROUND:
            first = next(iter(flow.waiting.values()))
            at = first.arrived + (flow.origin - flow.level + 1) * self._ageing
            heappush(self._due, (at, first.number, flow))
            if len(self._due) > 2 * len(CLASSES) * len(self._accounts) + _SPARE:
                self._due = [entry for entry in self._due if _is_first(entry[1], entry[2])]
                heapify(self._due)

    # accounts

    def _charge(self, account: Account, level: int, cost: float) -> None:
        account.had[level] += cost / account.weight
        for flow in account.flows:
            if flow.waiting and flow.level == level:
                self._push(flow)

    def _push(self, flow: Flow) -> None:
        """Note where a flow stands in its class; what was noted before is outdated."""
        level = flow.level
        heap = self._levels[level]
        heappush(heap, (flow.account.had[level], next(iter(flow.waiting)), flow))
        if len(heap) > 2 * len(CLASSES) * len(self._accounts) + _SPARE:
            heap[:] = [entry for entry in heap if _stands(entry, level)]
            heapify(heap)

    def _next(self, level: int) -> Flow | None:
        """Return the flow whose turn it is in a class; None where none waits there."""
        heap = self._levels[level]
        while heap and not _stands(heap[0], level):
            heappop(heap)
        return heap[0][2] if heap else None

    def _reweigh(self, account: Account, weight: float) -> None:
        """Give a key another weight, for what it gets from now on."""
        for flow in account.flows:
            if flow.waiting:
                self._weights[flow.level] += weight - account.weight
        account.weight = weight
        if account.size:
            self._note_share(account)

    def _note_share(self, account: Account) -> None:
        """Note how much of an account waits, because it has become more."""
        self._stamp += 1
        heap = self._largest
        heappush(heap, (-account.share, self._stamp, account))
        if len(heap) > 2 * len(self._accounts) + _SPARE:
            heap.clear()
            for each in self._accounts.values():
                if each.size:
                    self._stamp += 1
                    heap.append((-each.share, self._stamp, each))
            heapify(heap)

    def _largest_account(self) -> Account | None:
        """Return the account that has the most waiting, for its weight; None where none has any."""
        heap = self._largest
        while heap:
            share, _, account = heap[0]
            if account.size and share == -account.share:
                return account
            heappop(heap)
            if account.size and share < -account.share:
                # It has less by now. Where it had more meanwhile, another entry says so.
                self._note_share(account)
        return None

    def _last(self, account: Account) -> Ticket:
        """Return the last request of the worst class that the key has waiting."""
        level = _WORST
        while not account.flows[level].waiting:
            level -= 1
        return next(reversed(account.flows[level].waiting.values()))

    def _forget(self, account: Account) -> None:
        """Forget a key that waits for nothing, if nobody waits, or if lifting it would bring it to where it stands."""
        if account.size or account.charged:
            return
        for level in range(len(CLASSES)):
            if self.size and account.had[level] > self._floors[level]:
                return
        self._accounts.pop(account.key, None)


def _mean(before: float, value: float) -> float:
    return value if before < 0.0 else before + _NEWS * (value - before)


def _is_first(number: int, flow: Flow) -> bool:
    return bool(flow.waiting) and next(iter(flow.waiting)) == number


def _stands(entry: tuple[float, int, Flow], level: int) -> bool:
    """Tell whether an entry of a class's heap says where its flow stands now."""
    had, number, flow = entry
    return flow.level == level and flow.account.had[level] == had and _is_first(number, flow)
