"""Conditions of rules, each with requests that fit and requests that do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backends.base import Operation, Request
from gateway.asked import Asked
from gateway.auth import Caller
from gateway.config.route import Match
from gateway.config.section import validate
from gateway.routing.decision import Moment
from gateway.routing.match import conditions

OWN_NAMES = {"gpt": "qwen"}


def moment(wall: float = 0.0) -> Moment:
    return Moment(0.0, wall, Random(1))


def asked(
    body: dict[str, Any] | None = None,
    operation: Operation = Operation.CHAT,
    model: str = "qwen",
    caller: Caller | None = None,
    **headers: str,
) -> Asked:
    sent = {"model": model, **(body or {})}
    request = Request(operation, json.dumps(sent).encode(), model, stream=bool(sent.get("stream")))
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Asked(request, named, caller or Caller("team-a", None, False, ("internal", "batch")))


def fits(match: dict[str, Any], request: Asked, when: Moment | None = None) -> bool:
    found = conditions(validate(Match, match), "rule", lambda name: OWN_NAMES.get(name, name))
    return all(condition.fits(request, when or moment()) for condition in found)


IMAGE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}
CASES: list[tuple[dict[str, Any], Asked, bool]] = [
    ({}, asked(), True),
    ({"model": "qwen"}, asked(), True),
    ({"model": "qwen"}, asked(model="gpt"), True),
    ({"model": "gpt"}, asked(model="gpt"), True),
    ({"model": "gpt"}, asked(model="qwen"), False),
    ({"model": ["small", "qw*"]}, asked(), True),
    ({"model": ["small", "q?"]}, asked(), False),
    ({"operation": "chat"}, asked(), True),
    ({"operation": ["embeddings", "rerank"]}, asked(), False),
    ({"operation": ["embeddings"]}, asked(operation=Operation.EMBEDDINGS), True),
    ({"header": {"X-Tier": "batch"}}, asked(x_tier="batch"), True),
    ({"header": {"x-tier": "batch"}}, asked(x_tier="Batch"), False),
    ({"header": {"x-tier": ["a", "b*"]}}, asked(x_tier="batch"), True),
    ({"header": {"x-tier": "*"}}, asked(x_tier=""), True),
    ({"header": {"x-tier": "*"}}, asked(), False),
    ({"header": {"x-tier": "a", "x-team": "b"}}, asked(x_tier="a"), False),
    ({"key": "team-*"}, asked(), True),
    ({"key": "team-b"}, asked(), False),
    ({"key_tag": "batch"}, asked(), True),
    ({"key_tag": "local-only"}, asked(), False),
    ({"user": "ann"}, asked({"user": "ann"}), True),
    ({"user": "*"}, asked(), False),
    ({"metadata": {"tenant": "acme"}}, asked({"metadata": {"tenant": "acme"}}), True),
    ({"metadata": {"tenant": "*"}}, asked({"metadata": {}}), False),
    ({"prompt_tokens": {"min": 10}}, asked({"prompt": "x" * 60}), True),
    ({"prompt_tokens": {"min": 10}}, asked({"prompt": "x"}), False),
    ({"prompt_tokens": {"max": 10}}, asked({"prompt": "x"}), True),
    ({"max_tokens": {"max": 100}}, asked({"max_tokens": 100}), True),
    ({"max_tokens": {"max": 100}}, asked({"max_tokens": 101}), False),
    ({"max_tokens": {"max": 100}}, asked(), False),
    ({"max_tokens": {"min": 100}}, asked(), True),
    ({"stream": True}, asked({"stream": True}), True),
    ({"stream": False}, asked({"stream": True}), False),
    ({"tools": True}, asked({"tools": [{"type": "function"}]}), True),
    ({"tools": False}, asked(), True),
    ({"images": True}, asked(IMAGE), True),
    ({"images": True}, asked(), False),
    ({"share": "100%"}, asked(), True),
    ({"share": "0%"}, asked(), False),
    ({"model": "qwen", "stream": True}, asked(), False),
]


@pytest.mark.parametrize(("match", "request_", "expected"), CASES)
def test_a_request_fits_or_does_not(match: dict[str, Any], request_: Asked, expected: bool) -> None:
    assert fits(match, request_) is expected


NIGHT = {"after": "22:00", "before": "06:00", "days": ["fri"], "zone": "Europe/Berlin"}
OFFICE = {"after": "09:00", "before": "17:00", "days": ["mon", "fri"], "zone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("window", "when", "expected"),
    [
        (OFFICE, "2026-11-27 09:00", True),
        (OFFICE, "2026-11-27 08:59", False),
        (OFFICE, "2026-11-27 16:59", True),
        (OFFICE, "2026-11-27 17:00", False),
        (OFFICE, "2026-11-28 10:00", False),
        (NIGHT, "2026-11-27 22:00", True),
        (NIGHT, "2026-11-28 05:59", True),
        (NIGHT, "2026-11-28 06:00", False),
        (NIGHT, "2026-11-28 22:00", False),
        (NIGHT, "2026-11-27 05:00", False),
        ({"days": "fri", "zone": "Europe/Berlin"}, "2026-11-27 00:00", True),
        ({"days": "fri", "zone": "Europe/Berlin"}, "2026-11-28 00:00", False),
    ],
)
def test_a_part_of_the_day_is_told_in_its_zone(window: dict[str, Any], when: str, expected: bool) -> None:
    wall = datetime.fromisoformat(when).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    assert fits({"time": window}, asked(), moment(wall)) is expected


def test_the_hour_is_told_anew_each_minute() -> None:
    (condition,) = conditions(validate(Match, {"time": {"after": "12:00", "before": "12:01"}}), "", str)
    found = [condition.fits(asked(), moment(second)) for second in range(12 * 3600 - 60, 12 * 3600 + 120, 20)]
    assert found == [False] * 3 + [True] * 3 + [False] * 3


def test_a_share_is_the_same_for_each_user_and_independent_between_rules() -> None:
    def chosen(salt: str) -> set[int]:
        (part,) = conditions(validate(Match, {"share": "30%"}), salt, str)
        users = {number: asked({"user": f"u{number}"}) for number in range(2000)}
        first = {number for number, request in users.items() if part.fits(request, moment())}
        again = {number for number, request in users.items() if part.fits(request, moment(9.0))}
        assert first == again
        return first

    one, other = chosen("one"), chosen("other")
    assert 500 < len(one) < 700
    assert 500 < len(other) < 700
    assert 120 < len(one & other) < 240, "as many as by chance"


@pytest.mark.parametrize(
    "of",
    [
        lambda number: asked(x_session_id=f"s{number}"),
        lambda number: asked({"prompt_cache_key": f"s{number}"}),
    ],
)
def test_without_a_user_a_share_is_the_same_for_each_session_of_a_key(of: Callable[[int], Asked]) -> None:
    (part,) = conditions(validate(Match, {"share": "30%"}), "rule", str)
    when = moment()
    chosen = {number for number in range(2000) if part.fits(of(number), when)}
    assert 500 < len(chosen) < 700
    assert chosen == {number for number in range(2000) if part.fits(of(number), when)}
    other = Caller("team-b", None, False)
    theirs = {n for n in range(2000) if part.fits(asked(caller=other, x_session_id=f"s{n}"), when)}
    assert 120 < len(chosen & theirs) < 240, "as many as by chance"


def test_a_user_goes_before_a_session() -> None:
    (part,) = conditions(validate(Match, {"share": "30%"}), "rule", str)
    named = asked({"user": "ann"}, x_session_id="s1")
    of_user = part.fits(asked({"user": "ann"}), moment())
    assert all(
        part.fits(asked({"user": "ann"}, x_session_id=f"s{number}"), moment()) is of_user
        for number in range(50)
    )
    assert part.found(named, moment()) == "user 'ann'"


def test_without_a_user_a_share_is_drawn_for_each_request() -> None:
    (part,) = conditions(validate(Match, {"share": "30%"}), "rule", str)
    when = moment()
    found = sum(part.fits(asked(), when) for _ in range(2000))
    assert 500 < found < 700


@pytest.mark.parametrize(
    ("match", "request_", "words", "found"),
    [
        ({"key_tag": ["a", "b"]}, asked(), "a or b", "internal, batch"),
        (
            {"prompt_tokens": {"min": 5, "max": 9}},
            asked({"prompt": "x" * 10}),
            "at least 5 and at most 9",
            "3",
        ),
        ({"max_tokens": {"max": 9}}, asked(), "at most 9", "any number"),
        ({"stream": True}, asked(), "true", "false"),
        ({"header": {"x-tier": "a"}}, asked(), "a", "nothing"),
        ({"share": "5%"}, asked({"user": "ann"}), "5% of the requests", "user 'ann'"),
        ({"share": "5%"}, asked(x_session_id="s1"), "5% of the requests", "session 's1'"),
        ({"share": "5%"}, asked(), "5% of the requests", "no user or session, so chance"),
    ],
)
def test_a_condition_says_what_it_demands_and_what_it_found(
    match: dict[str, Any], request_: Asked, words: str, found: str
) -> None:
    (condition,) = conditions(validate(Match, match), "rule", str)
    assert (condition.words, condition.found(request_, moment())) == (words, found)
