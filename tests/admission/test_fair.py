"""The order of those who wait: classes, ageing, shares by tokens, and any history against what must always hold."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.admission.fair import FairQueue
from gateway.admission.tickets import Claim, Ticket
from gateway.priority import CLASSES, NUMBERS

AGEING = 10.0


def ticket(key: str = "k", priority: str = "normal", tokens: float = 100.0, weight: float = 1.0) -> Ticket:
    claim = Claim(key, weight, NUMBERS[priority])
    claim.prompt = tokens
    return Ticket(claim)


class Line:
    """A queue at a time of its own, with a name for each request that waits."""

    def __init__(self) -> None:
        self.queue = FairQueue(AGEING)
        self.now = 0.0
        self.names: dict[int, str] = {}

    def come(self, name: str, *args: object, **facts: object) -> Ticket:
        new = ticket(*args, **facts)  # type: ignore[arg-type]
        self.queue.join(new, self.now)
        self.names[id(new)] = name
        return new

    def served(self, count: int | None = None) -> list[str]:
        """Let so many requests in, or all, and return their names in order."""
        count = self.queue.size if count is None else count
        return [self.names[id(self.queue.first(self.now))] for _ in range(count)]


def test_one_key_in_one_class_is_served_in_order_of_arrival() -> None:
    line = Line()
    places = [line.come(str(number), tokens=float(number % 3)) for number in range(20)]
    assert [line.queue.position(place, 0.0) for place in places] == list(range(1, 21))
    assert line.served() == [str(number) for number in range(20)]


def test_the_better_class_goes_first() -> None:
    line = Line()
    for name in reversed(CLASSES):
        line.come(name, "k", name)
    assert line.served() == list(CLASSES)


def test_a_request_rises_by_one_class_for_each_interval_that_it_waits() -> None:
    line = Line()
    line.come("batch", "old", "batch")
    line.now = 2 * AGEING
    line.come("normal", "new", "normal")
    line.come("low", "new", "low")
    assert line.served(1) == ["batch"], "it has waited for two classes, and came first"
    line.come("again", "old", "batch")
    line.now += AGEING / 2
    line.come("normal, later", "new", "normal")
    assert line.served() == ["normal", "normal, later", "low", "again"]


def test_background_never_rises() -> None:
    line = Line()
    line.come("background", "old", "background")
    line.come("background, later", "old", "background")
    line.now = 100 * AGEING
    for name in ("batch", "high"):
        line.come(name, "new", name)
    assert line.served(2) == ["high", "batch"]
    line.now = 200 * AGEING
    assert line.served(1) == ["background"]
    line.now = 300 * AGEING
    newcomer = line.come("batch", "new", "batch")
    assert line.queue.position(newcomer, line.now) == 1
    assert line.served() == ["batch", "background, later"]


def test_background_gives_its_place_in_a_full_queue_to_every_better_class() -> None:
    """Also where the newcomer's own key has more waiting than the key of what is in the background."""
    line = Line()
    for number in range(5):
        line.come(f"a{number}", "a", "normal")
    first = line.come("background", "b", "background")
    last = line.come("background, later", "b", "background")
    line.now = 100 * AGEING
    newcomer = line.come("batch", "a", "batch")
    assert line.queue.victim(newcomer, line.now) is last
    line.queue.withdraw(last, line.now)
    assert line.queue.victim(newcomer, line.now) is first
    line.queue.withdraw(first, line.now)
    own = line.come("background, own", "a", "background")
    assert line.queue.victim(own, line.now) is own


def test_ageing_may_change_while_requests_wait() -> None:
    line = Line()
    line.come("batch", "old", "batch")
    line.now = 5.0
    line.come("high", "new", "high")
    line.queue.change(1.0)
    assert line.served() == ["batch", "high"], "three classes in five seconds by now"


def test_keys_in_a_class_take_turns_whoever_has_more_waiting() -> None:
    line = Line()
    for number in range(4):
        line.come(f"a{number}", "a")
    line.come("b0", "b")
    line.come("b1", "b")
    assert line.served() == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_a_key_with_longer_requests_gets_fewer_of_them() -> None:
    line = Line()
    for number in range(4):
        line.come(f"long{number}", "long", tokens=300.0)
    for number in range(12):
        line.come(f"short{number}", "short", tokens=100.0)
    order = Counter(name.rstrip("0123456789") for name in line.served(8))
    assert order == {"long": 2, "short": 6}


def test_a_weight_of_two_means_twice_the_tokens() -> None:
    line = Line()
    for number in range(20):
        line.come(f"one{number}", "one", weight=1.0)
        line.come(f"two{number}", "two", weight=2.0)
    order = Counter(name.rstrip("0123456789") for name in line.served(15))
    assert order == {"one": 5, "two": 10}


def test_a_key_that_was_away_has_saved_up_nothing() -> None:
    line = Line()
    line.come("b", "b")
    line.served()
    for number in range(100):
        line.come(f"a{number}", "a")
    line.served(50)
    for number in range(10):
        line.come(f"b{number}", "b")
    order = Counter(name[0] for name in line.served(10))
    assert order == {"a": 5, "b": 5}


def test_what_a_request_really_took_replaces_the_estimate() -> None:
    line = Line()
    for number in range(10):
        line.come(f"a{number}", "a")
        line.come(f"b{number}", "b")
    first = line.queue.first(0.0)
    assert first.claim.key == "a"
    line.queue.settle(first, 500.0)
    assert line.served(6) == ["b0", "b1", "b2", "b3", "b4", "a1"]
    refunded = line.queue.first(0.0)
    line.queue.settle(refunded, 0.0)
    assert line.queue.first(0.0).claim.key == refunded.claim.key, "what took nothing counts for nothing"
    line.queue.settle(refunded, 1e6)
    assert line.queue.first(0.0).claim.key != refunded.claim.key, "it was settled once"


def test_the_length_of_answers_is_learnt_for_each_key() -> None:
    queue, costs = FairQueue(AGEING), []
    for used in (0.0, 60.0, 60.0):
        claim = Claim("k")
        claim.prompt, claim.most = 10.0, 1e9
        place = Ticket(claim)
        queue.join(place, 0.0)
        costs.append(place.cost)
        queue.settle(queue.first(0.0), used)
    assert costs == [266.0, 266.0, 60.0], "256 before any was seen; one that failed teaches nothing"
    claim = Claim("k")
    claim.prompt, claim.most = 10.0, 20.0
    place = Ticket(claim)
    queue.join(place, 0.0)
    assert place.cost == 30.0, "the client's own limit"


def test_a_full_queue_belongs_to_the_keys_in_equal_shares() -> None:
    line = Line()
    greedy = [line.come(f"a{number}", "a") for number in range(8)]
    newcomer = line.come("b", "b")
    assert line.queue.victim(newcomer, 0.0) is greedy[-1]
    line.queue.withdraw(greedy[-1], 0.0)
    another = line.come("a again", "a")
    assert line.queue.victim(another, 0.0) is another, "who has most has to go himself"


def test_a_better_class_gets_a_place_from_a_worse_one_unless_that_has_risen() -> None:
    line = Line()
    first, last = line.come("x", "x", "batch"), line.come("y", "y", "low")
    newcomer = line.come("z", "z", "normal")
    assert line.queue.victim(newcomer, 0.0) is first
    line.now = 2 * AGEING
    assert line.queue.victim(newcomer, line.now) is newcomer
    line.queue.withdraw(last, line.now)
    own = line.come("own batch", "z", "batch")
    assert line.queue.victim(own, line.now) is own
    better = line.come("own high", "z", "high")
    assert line.queue.victim(better, line.now) is own, "a key may replace what it thinks less of"


def test_the_position_counts_what_goes_before_and_not_all_that_came_before() -> None:
    line = Line()
    for number in range(50):
        line.come(f"a{number}", "a")
    light, urgent = line.come("b", "b"), line.come("c", "c", "high")
    assert line.queue.position(urgent, 0.0) == 1
    assert line.queue.position(light, 0.0) <= 3
    assert line.served(3).count("b") == 1


def heaps(queue: FairQueue) -> int:
    """Return the entries of the longest heap of a queue."""
    return max(*map(len, queue._levels), len(queue._due), len(queue._largest))


def jain(shares: list[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


@pytest.mark.parametrize("seed", range(5))
def test_backlogged_keys_get_the_same_tokens_however_wrong_the_estimates_are(seed: int) -> None:
    rng = Random(seed)
    queue = FairQueue(AGEING)
    sizes = {f"key{number}": rng.choice([20.0, 200.0, 2000.0]) for number in range(8)}
    weights = {key: float(rng.choice([1, 1, 2, 4])) for key in sizes}
    tokens = dict.fromkeys(sizes, 0.0)
    running: list[tuple[Ticket, float]] = []

    def come(key: str) -> None:
        claim = Claim(key, weights[key])
        claim.prompt, claim.most = sizes[key], 1e9
        queue.join(Ticket(claim), 0.0)

    for key in sizes:
        for _ in range(rng.choice([4, 40])):
            come(key)
    for _ in range(20_000):
        place = queue.first(0.0)
        come(place.claim.key)
        running.append((place, place.claim.prompt + rng.expovariate(1 / sizes[place.claim.key])))
        if len(running) == 16:
            place, used = running.pop(rng.randrange(16))
            queue.settle(place, used)
            tokens[place.claim.key] += used
    assert jain([tokens[key] / weights[key] for key in sizes]) >= 0.95


class History(RuleBasedStateMachine):
    """Any history of a queue of bounded length, at a gate with a few slots."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(AGEING)
        self.now = 0.0
        self.ageing = AGEING
        self.capacity = 12
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []

    @rule(
        key=st.sampled_from("abcde"),
        priority=st.integers(0, 3),
        tokens=st.integers(0, 5000),
        weight=st.sampled_from([1.0, 1.0, 3.0]),
    )
    def come(self, key: str, priority: int, tokens: int, weight: float) -> None:
        new = ticket(key, CLASSES[priority], float(tokens), weight)
        self.queue.join(new, self.now)
        self.waiting.append(new)
        if self.queue.size > self.capacity:
            victim = self.queue.victim(new, self.now)
            assert victim in self.waiting
            assert victim is new or victim.claim.key != key or victim.claim.level > priority
            self.queue.withdraw(victim, self.now)
            self.waiting.remove(victim)

    @precondition(lambda self: self.waiting)
    @rule()
    def serve(self) -> None:
        place = self.queue.first(self.now)
        same = [
            other
            for other in self.waiting
            if (other.claim.key, other.claim.level) == (place.claim.key, place.claim.level)
        ]
        assert place is same[0], "inside a key and a class the order is that of arrival"
        best = min(self.level(other) for other in self.waiting)
        assert self.level(place) == best, "the best class goes first"
        self.waiting.remove(place)
        self.running.append(place)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99), used=st.integers(0, 9000))
    def end(self, which: int, used: int) -> None:
        self.queue.settle(self.running.pop(which % len(self.running)), float(used))

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 99))
    def give_up(self, which: int) -> None:
        self.queue.withdraw(self.waiting.pop(which % len(self.waiting)), self.now)

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    def level(self, place: Ticket) -> int:
        """Return the class of a request that waits: that of the first of its key that came with the same class."""
        first = next(
            other
            for other in self.waiting
            if (other.claim.key, other.claim.level) == (place.claim.key, place.claim.level)
        )
        risen, boundary = divmod(self.now - first.arrived, self.ageing)
        assert boundary > 1e-9 or risen == int(risen)
        return max(0, place.claim.level - int(risen))

    @invariant()
    def it_is_what_it_should_be(self) -> None:
        queue = self.queue
        assert queue.size == len(self.waiting)
        for place in self.waiting:
            assert place.waits and 1 <= queue.position(place, self.now) <= queue.size
        assert sum(queue._sizes) == queue.size
        weights = dict.fromkeys(range(len(CLASSES)), 0.0)
        for account in queue._accounts.values():
            for flow in account.flows:
                if flow.waiting:
                    weights[flow.level] += account.weight
        assert queue._weights == pytest.approx([weights[level] for level in range(len(CLASSES))])

    def teardown(self) -> None:
        """Whoever waits is served, whatever came before, and nothing is left."""
        while self.waiting:
            self.serve()
        while self.running:
            self.queue.settle(self.running.pop(), 10.0)
        assert not self.queue.size
        assert heaps(self.queue) < 500


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_whoever_keeps_the_place_is_served_however_much_comes_before() -> None:
    """A batch request among a flood of better ones: it has risen to the best class after three intervals."""
    line = Line()
    line.come("batch", "quiet", "batch")
    flood = 0
    for _ in range(200):
        line.now += 1.0
        for _ in range(3):
            flood += 1
            line.come(f"flood{flood}", f"key{flood % 7}", "high")
        if "batch" in line.served(2):
            break
    assert line.now <= 3 * AGEING + 10


def test_heaps_stay_small_though_nobody_is_served() -> None:
    line = Line()
    line.come("first", "stays")
    for number in range(20_000):
        line.now += 0.01
        place = line.come(str(number), f"key{number % 3}", CLASSES[number % 5])
        line.queue.withdraw(place, line.now)
    assert heaps(line.queue) < 500


def test_a_key_that_waits_no_more_is_forgotten() -> None:
    line = Line()
    for number in range(1000):
        line.come(str(number), f"key{number}")
        line.queue.settle(line.queue.first(line.now), 50.0)
    line.come("last", "last")
    assert len(line.queue._accounts) < 10
