"""The section of one model: the names clients may ask for it by, and where it is served."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from backends.facts.units import Duration, expected
from gateway.config.balance import Balance, Policy, named_policy
from gateway.config.defaults import Retry, TimeoutOverrides
from gateway.config.section import Frozen, Section, setting
from gateway.config.texts import Line, ModelName, Name


def _target(value: object) -> object:
    if isinstance(value, str):
        return {"model": value}
    if isinstance(value, dict | Target):
        return value
    raise expected("the backend's name for the model, or a map with 'model' and 'weight'")


class Target(Section):
    """One backend that serves a model."""

    model: Line = setting(..., "What the backend calls the model.")
    weight: int = setting(1, "The share of requests, against the other targets' weights.", ge=1, le=1000)


class Model(Section):
    """A name that clients may ask for, and where it is served."""

    aliases: tuple[ModelName, ...] = setting((), "Other names for the same model.")
    targets: Frozen[
        Name, Annotated[Target, BeforeValidator(_target, json_schema_input_type=Line | Target)]
    ] = setting(
        ...,
        "Backends that serve the model: backend to the backend's own name for it, or to a map with `model` and "
        "`weight`.",
    )
    balance: Annotated[Balance, BeforeValidator(named_policy, json_schema_input_type=Policy | Balance)] = (
        setting(
            "least_loaded",
            "How one of several targets is chosen: the name of a policy, or a map with `policy`.",
        )
    )
    fallback: tuple[ModelName, ...] = setting(
        (),
        "Other models, by name or alias, tried in this order when no target can answer. A key that may use this model "
        "may use them so, though it may not name them.",
    )
    timeouts: TimeoutOverrides = setting(
        {}, "Timeouts of requests for this model, where they differ. They win over the backend's."
    )
    retry: Retry | None = setting(None, "How failed attempts are retried. Left out, as in `defaults`.")
    concurrency: int | None = setting(
        None,
        "How many requests run at once; more wait in a queue. Left out, no limit.",
        ge=1,
        le=1_000_000,
    )
    queue_size: int = setting(
        128, "How many requests may wait; more are refused with 503.", ge=0, le=1_000_000
    )
    heartbeat: Duration | None = setting(
        None,
        "Answer a stream's headers at once and send a comment this often until the first token, for clients and "
        "proxies that give up on silence. Failures are then told in the stream. Left out, headers come with the first "
        "token.",
    )
