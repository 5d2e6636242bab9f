"""The section `hedge` of a model: when a slow request gets a second attempt at another backend."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pydantic import PlainValidator, ValidationInfo, WithJsonSchema

from backends.facts.units import Share, expected, seconds
from gateway.config.section import Section, setting

Percentile = Literal["p90", "p95", "p99"]
_PERCENTILES: Final = get_args(Percentile)


def _after(value: object, info: ValidationInfo) -> object:
    if value in _PERCENTILES or (info.mode == "python" and isinstance(value, float)):
        return value
    if not isinstance(value, str) or value.startswith("p"):
        raise expected("p90, p95, p99 or a duration such as 800ms")
    found = seconds(value)
    if not found:
        raise expected("a duration longer than zero")
    return found


After = Annotated[
    float | Percentile,
    PlainValidator(_after),
    WithJsonSchema({"type": "string", "pattern": r"^(p9[059]|[0-9].*|.*\$\{.*)$"}),
]
"""Seconds, or the name of a percentile."""


class Hedge(Section):
    """When a request whose answer does not begin gets a second attempt at another backend; the first to answer serves.

    The slower one is cancelled. There is none while the other backend has a queue.
    """

    after: After = setting(
        "p95",
        "How long nothing of the answer may come: a duration, or `p90`, `p95` or `p99` of the times that this model's "
        "answers took to begin, once 50 are known. Answers that are not streamed also wait for that percentile of "
        "their own (of a duration, `p95`).",
    )
    budget: Share = setting("2%", "How many of the model's requests may have a second attempt.")
