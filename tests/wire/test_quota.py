"""What answers tell of a rate limit: in the words of OpenAI and of Anthropic, and for how long it is believed."""

from __future__ import annotations

import pytest

from backends.base import Headers
from gateway.wire.quota import UNTOLD, Quota

OPENAI = b"x-ratelimit-remaining-requests"
RESET = b"x-ratelimit-reset-requests"


@pytest.mark.parametrize(
    ("headers", "left", "seconds"),
    [
        (((OPENAI, b"59"), (RESET, b"1m30s")), 59.0, 90.0),
        (((OPENAI, b"0"), (RESET, b"350ms")), 0.0, 0.35),
        (((OPENAI, b" 7 "),), 7.0, UNTOLD),
        (((OPENAI, b"7"), (RESET, b"soon")), 7.0, UNTOLD),
        (
            (
                (b"date", b"Mon, 30 Nov 2026 12:00:00 GMT"),
                (b"anthropic-ratelimit-requests-remaining", b"3"),
                (b"anthropic-ratelimit-requests-reset", b"2026-11-30T12:00:20Z"),
            ),
            3.0,
            20.0,
        ),
    ],
)
def test_what_is_told_is_believed_until_the_reset(headers: Headers, left: float, seconds: float) -> None:
    quota = Quota()
    quota.take(headers, 1000.0)
    assert quota.left(1000.0 + seconds - 0.01) == left
    assert quota.left(1000.0 + seconds + 0.01) is None


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"x-ratelimit-remaining-tokens", b"5"),),
        ((OPENAI, b"many"),),
        ((OPENAI, b"-1"),),
        ((OPENAI, b"\xff"),),
        ((OPENAI, b""), (RESET, b"1s")),
    ],
)
def test_what_cannot_be_read_changes_nothing(headers: Headers) -> None:
    quota = Quota()
    quota.take(headers, 10.0)
    assert quota.left(10.0) is None
    quota.take(((OPENAI, b"5"),), 10.0)
    quota.take(headers, 11.0)
    assert quota.left(12.0) == 5.0
    quota.forget()
    assert quota.left(12.0) is None
