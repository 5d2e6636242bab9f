"""What a request asks for: facts found in its body and headers, whatever a client sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Operation, Request
from gateway.asked import Asked, share
from gateway.auth import ANYONE, Caller
from gateway.priority import CLASSES, NUMBERS


def asked(body: object, operation: Operation = Operation.CHAT) -> Asked:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Asked(Request(operation, sent, "m"), {}, ANYONE)


def part(kind: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, **more}]}]}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"user": "ann"}, "ann"),
        ({"safety_identifier": "ann"}, "ann"),
        ({"metadata": {"user_id": "ann"}}, "ann"),
        ({"user": "ann", "metadata": {"user_id": "bob"}}, "ann"),
        ({"user": 5, "metadata": ["user_id"]}, ""),
        ({}, ""),
        (b'{"user": "ann", "broken', ""),
        (b"[]", ""),
    ],
)
def test_the_user_is_whom_the_client_names(body: object, found: str) -> None:
    assert asked(body).user == found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 6),
        ({"max_completion_tokens": None, "max_tokens": 5}, 5),
        ({"max_output_tokens": 7}, 7),
        ({"max_tokens": "5"}, None),
        ({}, None),
    ],
)
def test_the_longest_answer_asked_for(body: object, found: int | None) -> None:
    assert asked(body).max_tokens == found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"tools": [{"type": "function"}]}, True),
        ({"functions": [{"name": "f"}]}, True),
        ({"tools": []}, False),
        ({"tools": None}, False),
        ({"messages": [{"content": '"tools": [{}]'}]}, False),
    ],
)
def test_tools(body: object, found: bool) -> None:
    assert asked(body).has_tools is found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (part("image_url", image_url={"url": "http://x/y.png"}), True),
        ({"input": [{"content": [{"type": "input_image"}]}]}, True),
        (part("image", source={"type": "base64"}), True),
        (part("text", text='{"type": "image_url"}'), False),
        ({"messages": [{"content": "x"}], "tools": [{"name": "image"}]}, False),
        (part("text", text="an image"), False),
    ],
)
def test_images(body: object, found: bool) -> None:
    assert asked(body).has_images is found


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"prompt": "x" * 398}, 100),
        ({"prompt": [1, 2, 3]}, 3),
        ({"input": [7]}, 1),
        ({"prompt": [[1, 2], [3]]}, 3),
        (part("image_url", image_url={"url": "data:image/png;base64," + "A" * 100_000}), 24),
        ({"max_tokens": 9}, 0),
    ],
)
def test_prompt_tokens_are_estimated_without_data(body: object, found: int) -> None:
    assert asked(body).prompt_tokens == found


def test_a_form_has_no_members() -> None:
    assert asked(b"--x\r\n", Operation.TRANSCRIPTIONS).members == {}


@given(st.binary(max_size=200))
def test_any_body_has_facts(body: bytes) -> None:
    found = asked(body)
    assert isinstance(found.user, str)
    assert found.prompt_tokens >= 0
    assert found.has_tools in (True, False)
    assert found.has_images in (True, False)
    assert found.max_tokens is None or isinstance(found.max_tokens, int)


@given(st.text(), st.text())
def test_a_share_is_from_0_to_1_and_stays(salt: str, whose: str) -> None:
    assert 0 <= share(salt, whose) < 1
    assert share(salt, whose) == share(salt, whose)


def test_shares_are_spread_evenly() -> None:
    below = sum(share("canary", f"user-{number}") < 0.05 for number in range(20_000))
    assert 850 < below < 1150
    same = sum((share("a", f"{n}") < 0.5) == (share("b", f"{n}") < 0.5) for n in range(10_000))
    assert 4700 < same < 5300, "two salts are independent"


@pytest.mark.parametrize(
    ("best", "headers", "body", "found"),
    [
        ("normal", {}, {}, "normal"),
        ("high", {b"x-gateway-priority": b"low"}, {}, "low"),
        ("high", {b"x-gateway-priority": b" Batch "}, {}, "batch"),
        ("low", {b"x-gateway-priority": b"high"}, {}, "low"),
        ("normal", {b"x-gateway-priority": b"urgent"}, {}, "normal"),
        ("normal", {b"x-gateway-priority": b"\xff"}, {"service_tier": "flex"}, "low"),
        ("high", {}, {"service_tier": "flex"}, "low"),
        ("batch", {}, {"service_tier": "flex"}, "batch"),
        ("normal", {}, {"service_tier": "priority"}, "normal"),
        ("normal", {}, {"service_tier": 5}, "normal"),
        ("high", {b"x-gateway-priority": b"normal"}, {"service_tier": "flex"}, "normal"),
    ],
)
def test_a_request_may_lower_its_priority_and_never_raise_it(
    best: str, headers: dict[bytes, bytes], body: object, found: str
) -> None:
    request = Request(Operation.CHAT, json.dumps(body).encode(), "m")
    what = Asked(request, headers, Caller("k", priority=NUMBERS[best]))
    assert CLASSES[what.priority] == found
    what.best_priority = NUMBERS["batch"]
    assert CLASSES[what.priority] == "batch", "what a route says takes the place of the key's"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({b"x-stainless-read-timeout": b"600.0"}, 600.0),
        ({b"x-stainless-timeout": b"20"}, 20.0),
        ({b"x-stainless-timeout": b"NOT_GIVEN", b"x-stainless-read-timeout": b"5"}, 5.0),
        ({b"x-stainless-timeout": b"30", b"x-stainless-read-timeout": b"5"}, 5.0),
        ({b"x-stainless-timeout": b"-1"}, None),
        ({b"x-stainless-timeout": b"inf", b"x-stainless-read-timeout": b"\xff"}, None),
        ({b"x-stainless-timeout": b"nan"}, None),
    ],
)
def test_how_long_the_client_waits(headers: dict[bytes, bytes], found: float | None) -> None:
    assert Asked(Request(Operation.CHAT, b"{}", "m"), headers, ANYONE).patience == found
