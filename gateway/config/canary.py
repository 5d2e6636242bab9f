"""The sections that say how a canary's share of the requests grows, and within which bounds it must stay."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from backends.facts.units import Duration, Share, expected
from gateway.config.section import Section, setting


def _growing(steps: tuple[float, ...]) -> tuple[float, ...]:
    if any(after <= before for before, after in zip((0.0, *steps), steps, strict=False)):
        raise expected("shares that grow, such as [1%, 10%, 100%]")
    return steps


class Bounds(Section):
    """By how much a canary may be worse than the model that it is to replace."""

    errors: Share = setting("1%", "How many more of its requests may fail, in percentage points.")
    first_token: Share = setting(
        "25%", "By how much the 95th percentile of its time to the first token may be longer."
    )


class Growth(Section):
    """The steps by which a canary's share grows. Outside the bounds it goes back to zero and stays there."""

    steps: Annotated[tuple[Share, ...], AfterValidator(_growing)] = setting(
        ("1%", "5%", "25%", "50%", "100%"), "Its shares of the requests, one after the other.", min_length=1
    )
    interval: Duration = setting("10m", "How long a step lasts at least.")
    samples: int = setting(
        100, "How many requests of each model a step must have seen before the next one.", ge=10, le=1_000_000
    )
    within: Bounds = setting({}, "By how much it may be worse than the model that it is to replace.")
