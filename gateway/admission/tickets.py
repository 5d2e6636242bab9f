"""What waits in a queue, and for whom: claims, their tickets, and the accounts of the keys.

Rules:
- Values without decisions: those are in `gateway.admission.fair`.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.priority import CLASSES, NORMAL


class Claim:
    """What one waiting request asks for, and for whom.

    `key` is the name of who shares with others, `weight` its share against theirs, `level` the number of a class.
    `prompt` is about how many tokens the prompt has, `most` how many the answer may have at most.
    """

    __slots__ = ("key", "level", "most", "prompt", "weight")

    def __init__(self, key: str, weight: float = 1.0, level: int = NORMAL) -> None:
        self.key: str = key
        self.weight: float = weight
        self.level: int = level
        self.prompt: float = 1.0
        self.most: float = 0.0


class Account:
    """What one key has had, in each class, and how much of it waits."""

    __slots__ = ("answer", "charged", "flows", "had", "key", "size", "weight")

    def __init__(self, key: str, weight: float) -> None:
        self.key: str = key
        self.weight: float = weight
        self.had: list[float] = [0.0] * len(CLASSES)
        """Tokens it has had in each class, for its weight."""
        self.flows: list[Flow] = [Flow(self, level) for level in range(len(CLASSES))]
        self.size: int = 0
        """Its requests that wait."""
        self.charged: int = 0
        """Its requests that were charged with an estimate only."""
        self.answer: float = -1.0
        """The mean length of its answers in tokens; -1 before any was seen."""

    @property
    def share(self) -> float:
        """Its requests that wait, for its weight."""
        return self.size / self.weight


class Flow:
    """The waiting requests of one key that came with one class. All are served with the class of the first."""

    __slots__ = ("account", "level", "origin", "waiting")

    def __init__(self, account: Account, origin: int) -> None:
        self.account: Account = account
        self.origin: int = origin
        self.level: int = origin
        """The class of its first request now."""
        self.waiting: OrderedDict[int, Ticket] = OrderedDict()


class Ticket:
    """The place of one request in one queue."""

    __slots__ = ("ahead", "arrived", "charged", "claim", "cost", "flow", "number", "start", "waits")

    def __init__(self, claim: Claim) -> None:
        self.claim: Claim = claim
        self.cost: float = 0.0
        """About how many tokens it will take."""
        self.number: int = 0
        """The place in the order of arrival."""
        self.arrived: float = 0.0
        self.ahead: int = 0
        """How many have joined its flow before it."""
        self.start: float = 0.0
        """What its key will have had when its turn comes."""
        self.flow: Flow | None = None
        self.waits: bool = False
        self.charged: int = -1
        """The class in which it was charged; -1 before that, and after it was settled."""
