"""Sessions: where a request names one, and where it then goes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.balance.bound import Bound
from gateway.balance.session import REMEMBERED, Session
from gateway.balance.sessions import AGENT_HEADERS, Source, session
from tests.balance.candidates import Candidate, asked, named, outcomes

CLAUDE = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s-1"})


def make(*sources: str, seed: int = 1, factor: float = 1.25, floor: int = 4) -> Session:
    by = tuple(map(Source, sources or ("header:x-session-id",)))
    return Session(by, Bound(factor, floor), outcomes(), Random(seed))


def of(number: object) -> Any:
    return asked(headers={b"x-session-id": str(number).encode()})


TABLE: list[tuple[str, Mapping[str, Any], Mapping[bytes, bytes], str]] = [
    ("header:X-Chat", {}, {b"x-chat": b"7"}, "7"),
    ("header:x-chat", {}, {b"x-other": b"7"}, ""),
    ("cookie:sid", {}, {b"cookie": b"a=1; sid=abc=d; b=2"}, "abc=d"),
    ("cookie:sid", {}, {b"cookie": b"sidx=1"}, ""),
    ("cookie:sid", {}, {}, ""),
    ("user", {"user": "u"}, {}, "u"),
    ("user", {"user": 3}, {}, ""),
    ("user", {"metadata": {"user_id": "anthropic's"}}, {}, "anthropic's"),
    ("metadata:chat", {"metadata": {"chat": "c"}}, {}, "c"),
    ("metadata:chat", {"metadata": "c"}, {}, ""),
    ("prompt_cache_key", {"prompt_cache_key": "p"}, {}, "p"),
    ("prompt_cache_key", {"prompt_cache_key": None}, {}, ""),
    ("key", {}, {}, "somebody"),
    ("agent", {"metadata": {"user_id": CLAUDE}}, {}, "s-1"),
    ("agent", {"metadata": {"user_id": "user_1f_account__session_0b-9"}}, {}, "0b-9"),
    ("agent", {"metadata": {"user_id": "just a user"}}, {}, ""),
    ("agent", {"metadata": {"user_id": '{"session_id": 3}'}}, {}, ""),
    ("agent", {"metadata": {"user_id": '{"session_id": '}}, {}, ""),
    ("agent", {"metadata": {"user_id": "{" * 5000}}, {}, ""),
    ("agent", {"prompt_cache_key": "codex"}, {}, "codex"),
    ("agent", {"user": "u"}, {}, ""),
    ("agent", {"metadata": {"user_id": CLAUDE}}, {b"x-claude-code-session-id": b"h"}, "h"),
    *[("agent", {}, {name: b"h"}, "h") for name in AGENT_HEADERS],
]


@pytest.mark.parametrize(("source", "body", "headers", "expected"), TABLE)
def test_where_a_request_names_its_session(
    source: str, body: Mapping[str, Any], headers: Mapping[bytes, bytes], expected: str
) -> None:
    assert Source(source).find(asked(body, headers)) == expected


def test_the_first_source_that_says_something_decides() -> None:
    by = (Source("header:x-chat"), Source("user"))
    both = session(by, asked({"user": "u"}, {b"x-chat": b"7"}))
    assert both == session(by, asked({}, {b"x-chat": b"7"}))
    assert session(by, asked({"user": "u"})) == session(by, asked({"user": "u"}, {b"x-chat": b""})) != both
    assert session(by, asked()) == 0


def test_the_same_id_with_another_key_is_another_session() -> None:
    by = (Source("user"),)
    assert session(by, asked({"user": "u"}, caller="a")) != session(by, asked({"user": "u"}, caller="b"))


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_whatever_a_client_sends_gives_an_answer(value: bytes, body: bytes) -> None:
    headers = {b"x-session-id": value, b"cookie": value}
    for source in ("agent", "cookie:a", "header:x-session-id", "metadata:a", "user", "prompt_cache_key"):
        assert isinstance(Source(source).find(asked(body, headers)), str)
    assert make("agent", "cookie:a").choose(named("ab"), asked(body, headers), 0.0) in (0, 1)


def test_a_session_stays_and_says_so() -> None:
    balancer, targets = make(), named("abcde")
    homes = {number: balancer.choose(targets, of(number), 0.0) for number in range(40)}
    assert balancer.note == "miss"
    for number, home in homes.items():
        assert balancer.choose(targets, of(number), 0.0) == home
        assert balancer.note == "hit"
    assert len(set(homes.values())) == 5
    numbers = balancer._outcomes
    assert (numbers.hit.value, numbers.miss.value, numbers.moved.value) == (40, 40, 0)


def test_who_names_no_session_goes_where_the_load_is_least() -> None:
    balancer, targets = make(), [Candidate(in_flight=1), Candidate()]
    assert {balancer.choose(targets, request, 0.0) for request in (asked(), None) for _ in range(9)} == {1}
    assert balancer.note == ""


@given(st.permutations("abcdef"), st.integers(1, 5), st.integers(0, 100))
def test_every_process_puts_a_session_at_the_same_backend(order: list[str], seed: int, number: int) -> None:
    here, there = named("abcdef"), named("".join(order))
    one = here[make(seed=1).choose(here, of(number), 0.0)].name
    assert there[make(seed=seed).choose(there, of(number), 0.0)].name == one


@given(st.sampled_from("abcdef"))
def test_only_the_sessions_of_a_backend_that_leaves_move_and_not_to_one_place(gone: str) -> None:
    balancer, targets = make(), named("abcdef")
    before = {number: targets[balancer.choose(targets, of(number), 0.0)].name for number in range(300)}
    left = [target for target in targets if target.name != gone]
    balancer.keep({target.name for target in left})
    moved_to = Counter[str]()
    for number, name in before.items():
        now = left[balancer.choose(left, of(number), 0.0)].name
        if name == gone:
            moved_to[now] += 1
            assert balancer.note == "moved"
        else:
            assert (now, balancer.note) == (name, "hit")
    assert len(moved_to) == 5, "each session has a next place of its own"


def test_new_sessions_find_a_backend_that_has_come_and_no_other_moves() -> None:
    few, more = named("abc"), named("abcd")
    before = [few[make().choose(few, of(number), 0.0)].name for number in range(400)]
    after = [more[make().choose(more, of(number), 0.0)].name for number in range(400)]
    changed = [now for was, now in zip(before, after, strict=True) if was != now]
    assert set(changed) == {"d"}
    assert len(changed) == pytest.approx(100, rel=0.3)


def test_sessions_are_shared_by_weight() -> None:
    targets = [Candidate(weight, name=name) for name, weight in {"a": 1, "b": 3}.items()]
    counts = Counter(make().choose(targets, of(number), 0.0) for number in range(2000))
    assert counts[1] == pytest.approx(1500, rel=0.1)


def test_a_session_moves_from_a_backend_with_too_much_to_do_and_stays_there() -> None:
    balancer, targets = make(floor=2), named("abcd")
    home = balancer.choose(targets, of(1), 0.0)
    targets[home].in_flight = 2
    other = balancer.choose(targets, of(1), 0.0)
    assert other != home and balancer.note == "moved"
    targets[home].in_flight = 0
    assert balancer.choose(targets, of(1), 0.0) == other and balancer.note == "hit"


STEPS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=120)


@given(
    STEPS,
    st.lists(st.sampled_from([0.1, 1.0, 2.0, 7.0]), min_size=1, max_size=6),
    st.sampled_from([1.0, 1.25, 2.0]),
    st.integers(1, 4),
)
def test_the_bound_is_never_exceeded(
    steps: list[tuple[int, bool]], weights: list[float], factor: float, floor: int
) -> None:
    balancer = make(factor=factor, floor=floor)
    targets = [Candidate(weight, name=str(index)) for index, weight in enumerate(weights)]
    for number, comes in steps:
        if not comes:
            busy = [target for target in targets if target.in_flight]
            if busy:
                busy[number % len(busy)].in_flight -= 1
            continue
        chosen = targets[balancer.choose(targets, of(number), 0.0)]
        everything = sum(target.in_flight for target in targets) + 1
        chosen.in_flight += 1
        share = factor * everything * chosen.weight / sum(weights)
        assert chosen.in_flight <= max(floor, share + 1), "its share, rounded up"


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    balancer, targets = make(), named("ab")
    for number in range(REMEMBERED + 2):
        balancer.choose(targets, of(number), 0.0)
        if number == REMEMBERED // 2:
            balancer.choose(targets, of(0), 0.0)
    assert len(balancer._homes) == REMEMBERED
    balancer.choose(targets, of(0), 0.0)
    assert balancer.note == "hit", "it was seen again meanwhile"
    balancer.choose(targets, of(1), 0.0)
    assert balancer.note == "miss"
