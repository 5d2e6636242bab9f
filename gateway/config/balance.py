"""The setting `balance` of a model: how one of several targets is chosen."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from backends.facts.units import expected
from gateway.config.section import Section, setting

Policy = Literal[
    "least_loaded", "round_robin", "random", "weighted", "power_of_two", "latency", "prefix", "session"
]

_SOURCE = (
    r"agent|prompt_cache_key|user|key|(?:header|cookie):[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}|"
    r"metadata:[^\x00-\x1f\x7f]{1,64}"
)
_source = re.compile(_SOURCE)


def _check(value: str) -> str:
    if not _source.fullmatch(value):
        raise expected(
            "where a request names its session: agent, prompt_cache_key, user, key, header:NAME, cookie:NAME or "
            "metadata:NAME"
        )
    return value


SessionSource = Annotated[
    str, AfterValidator(_check), WithJsonSchema({"type": "string", "pattern": f"^({_SOURCE})$"})
]


def _tuple(value: object) -> object:
    """Take a list for a tuple: behind `named_policy` strict types know that it came from JSON no more."""
    return tuple(value) if isinstance(value, list) else value


class Balance(Section):
    """How one of several targets is chosen."""

    policy: Policy = setting(
        "least_loaded",
        "`least_loaded`: the fewest requests for the weight, the gateway's own and, where the engine tells them, those "
        "of others. `round_robin`: each in turn. `random`: any. `weighted`: any, as often as the weights say. "
        "`power_of_two`: the less loaded of two that are drawn. `latency`: the one of two that begins its answers "
        "sooner. `prefix`: where a prompt that begins alike was before. `session`: where the session was before.",
    )
    by: Annotated[tuple[SessionSource, ...], BeforeValidator(_tuple)] = setting(
        ("agent", "prompt_cache_key", "user"),
        "With `session`: where a request names its session; the first that says something decides. `agent` knows how "
        "coding agents do it: `x-session-id` and other headers, the session within `metadata.user_id`, "
        "`prompt_cache_key`. The others: `header:NAME`, `cookie:NAME`, `metadata:NAME`, `prompt_cache_key`, `user`, "
        "and `key` for the name of the API key.",
        min_length=1,
    )
    load_factor: float = setting(
        1.25,
        "With `prefix` and `session`: how many times its share of all requests a backend may have at once. A request "
        "that would be beyond that goes elsewhere.",
        ge=1,
        le=100,
    )
    load_floor: int = setting(
        4,
        "With `prefix` and `session`: so many requests at once are never too many for a backend, however little the "
        "others have to do.",
        ge=1,
        le=100_000,
    )


def named_policy(value: object) -> object:
    """Return the section for a policy that is given by its name alone; any other value as it is."""
    return {"policy": value} if isinstance(value, str) else value
