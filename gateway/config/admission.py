"""The section of a model that says how many requests run at once, and how the others wait."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import PlainValidator, WithJsonSchema

from backends.facts.units import Duration, expected
from gateway.config.section import Section, setting

AUTO = "auto"
_MOST = 1_000_000


def _slots(value: object) -> int | str:
    """Return a number of requests, or `AUTO`. Raise for anything else."""
    if value == AUTO and isinstance(value, str):
        return AUTO
    if isinstance(value, str) and value.isdecimal() and len(value) <= len(str(_MOST)):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST:
        return value
    raise expected(f"auto or a whole number, 1 to {_MOST}")


Slots = Annotated[
    int | Literal["auto"],
    PlainValidator(_slots),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": AUTO},
                {"type": "integer", "minimum": 1, "maximum": _MOST},
            ]
        }
    ),
]
"""A number of requests, or `auto`."""


class Admission(Section):
    """How many requests for a model run at once, and how the others wait. Each worker process counts its own."""

    concurrency: Slots = setting(
        AUTO,
        "How many requests run at once; more wait. `auto`: as many as the engines of the model's usable backends "
        "compute at once, as they tell or were launched with; no limit where one does not tell.",
    )
    queue: int = setting(
        128, "How many requests may wait; more are refused with 503. 0: none.", ge=0, le=_MOST
    )
    ageing: Duration = setting(
        "10s", "How long a request waits until it rises to the next better class of priority."
    )
