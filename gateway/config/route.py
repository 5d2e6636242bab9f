"""The sections of one rule below `routes`: which requests it is for, and where they go.

Rules:
- A `to` is exactly one kind of choice: `gateway.config.check_routes` sees to it. Choices may hold choices.
- A condition that is left out fits every request; all that are given must fit. In a list, one of the entries must.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict, WithJsonSchema

from backends.base import Operation
from backends.facts.units import Duration, Share, expected
from gateway.config.canary import Growth
from gateway.config.section import Frozen, Section, setting
from gateway.config.texts import HeaderToMatch, Line, ModelGlob, ModelName, Name
from gateway.priority import Priority


def _listed(value: object) -> object:
    """Return one value as a list of one. What a validator has returned is no JSON, so a list must be a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Globs = Annotated[
    tuple[Line, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=Line | tuple[Line, ...]),
]
ModelGlobs = Annotated[
    tuple[ModelGlob, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=ModelGlob | tuple[ModelGlob, ...]),
]
Operations = Annotated[
    tuple[Annotated[Operation, Strict(False)], ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=Operation | tuple[Operation, ...]),
]
"""One value, or a list of them: no condition is met by none."""
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


def _clock(value: str) -> str:
    if not _CLOCK.fullmatch(value):
        raise expected('a time of day such as "22:00", in quotes')
    return value


Clock = Annotated[str, AfterValidator(_clock), WithJsonSchema({"type": "string", "pattern": _CLOCK.pattern})]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Days = Annotated[tuple[Day, ...], BeforeValidator(_listed, json_schema_input_type=Day | tuple[Day, ...])]


class Range(Section):
    """An amount with bounds, both of them included."""

    min: int | None = setting(None, "The least. Left out, no least.", ge=0)
    max: int | None = setting(None, "The most. Left out, no most.", ge=0)


class Window(Section):
    """A part of the day, on some days of the week."""

    after: Clock = setting("00:00", "When it begins.")
    before: Clock = setting("00:00", "When it ends; earlier than `after` means on the next day.")
    days: Days = setting(
        ("mon", "tue", "wed", "thu", "fri", "sat", "sun"), "The days on which it begins.", min_length=1
    )
    zone: Line = setting("UTC", "The time zone by its name in the IANA database, such as `Europe/Berlin`.")


class Match(Section):
    """Conditions on a request. Text may have `*` for any text and `?` for any one character."""

    model: ModelGlobs | None = setting(
        None,
        "The name that the client asks for, or the own name of the model behind it. A name that no model has is one "
        "that clients may ask for, by this rule.",
    )
    operation: Operations | None = setting(None, "What is asked for.")
    header: Frozen[HeaderToMatch, Globs] = setting({}, "Headers of the request, by name.")
    key: Globs | None = setting(None, "The name of the caller's key.")
    key_tag: Globs | None = setting(None, "One of the tags of the caller's key.")
    user: Globs | None = setting(
        None,
        "Whom the client serves, as it says: `user`, `safety_identifier` or `metadata.user_id` in the body.",
    )
    metadata: Frozen[Line, Globs] = setting({}, "Entries of the body's `metadata`, by name.")
    prompt_tokens: Range | None = setting(
        None, "About how many tokens the prompt has: a quarter of its bytes, without images."
    )
    max_tokens: Range | None = setting(
        None, "How many tokens the client wants at most. One that does not say wants any number."
    )
    stream: bool | None = setting(None, "Whether the answer is to be streamed.")
    tools: bool | None = setting(None, "Whether the model is offered tools.")
    images: bool | None = setting(None, "Whether the prompt has images.")
    time: Window | None = setting(None, "When the request comes.")
    share: Share | None = setting(
        None,
        "A part of the requests: by the user, if the client says whom it serves, else by the session that a coding "
        "agent names, so that each has the same answer each time; else by chance.",
    )


class Overflow(Section):
    """The bounds beyond which a model's requests go elsewhere. One of them is enough."""

    wait: Duration | None = setting(
        None, "The estimated wait for a slot of the model; not known before some have waited."
    )
    queue: int | None = setting(
        None,
        "Requests that wait: in the gateway for the model, and in the engine of the least busy backend.",
        ge=1,
    )
    in_flight: int | None = setting(None, "Requests at the least busy backend.", ge=1)
    kv_use: Share | None = setting(None, "The KV cache in use, at the backend that uses the least of it.")
    remaining: int | None = setting(
        None,
        "Requests that a cloud still takes, as its last answer has told (`x-ratelimit-remaining-requests`, "
        "`anthropic-ratelimit-requests-remaining`), at the backend that takes the most: so many or fewer are too few. "
        "Told is believed until the reset that came with it, without one for a minute.",
        ge=1,
    )


class OverflowTo(Section):
    """Another choice for as long as a model is too busy."""

    home: To = setting(..., "Where requests go while there is room.")
    to: To = setting(..., "Where they go while there is none.")
    when: Overflow = setting(..., "The bounds beyond which there is none.")
    hold: Duration = setting(
        "30s",
        "How long all signals must have been below four fifths of their bounds before requests go home again.",
    )
    keep: Match = setting(
        {"key_tag": ("local-only",)},
        "Requests that stay at home whatever happens. Left out, of keys with that tag.",
    )


class ShadowTo(Section):
    """A choice whose requests another model answers too, to nobody."""

    of: To = setting(..., "Where the requests go.")
    to: ModelName = setting(..., "The model that answers copies, by its name or an alias.")
    sample: Share = setting("1%", "The share of the requests that are copied.")


class CanaryTo(Growth):
    """A new model that gets a growing share of another one's requests while it is as good."""

    model: ModelName = setting(..., "The new model, by its name or an alias.")
    against: ModelName = setting(..., "The model that it is to replace, which gets the other requests.")


def _choice(value: object) -> object:
    if isinstance(value, dict):
        return {kind: _plain(given) for kind, given in value.items()}
    return {"model": value} if isinstance(value, str) else value


def _plain(given: object) -> object:
    """Return a value without lists: what a validator has returned is no JSON, so a list must be a tuple."""
    if isinstance(given, list):
        return tuple(given)
    return {name: _plain(value) for name, value in given.items()} if isinstance(given, dict) else given


class Choice(Section):
    """Where a request goes: exactly one kind of choice. A bare name means `model`."""

    model: ModelName | None = setting(None, "A model, by its name or an alias.")
    warm: tuple[ModelName, ...] | None = setting(
        None,
        "The first of these models that is loaded, else the first that is being loaded, else the first.",
        min_length=1,
    )
    weighted: Frozen[ModelName, int] | None = setting(
        None,
        "Models by their weights. A user whom the client names always gets the same one, so does a coding agent's "
        "session where no user is named; all others by chance.",
        min_length=1,
    )
    failover: tuple[To, ...] | None = setting(
        None, "The first choice; when none of its backends can answer, the next one.", min_length=1
    )
    overflow: OverflowTo | None = setting(None, "Another choice for as long as a model is too busy.")
    canary: CanaryTo | None = setting(
        None, "A new model that gets a growing share of another one's requests while it is as good."
    )
    shadow: ShadowTo | None = setting(None, "A choice whose requests another model answers too, to nobody.")

    def nested(self) -> Iterator[Choice]:
        """Yield the choice and every choice within it."""
        yield self
        within = list(self.failover or ())
        if self.overflow is not None:
            within += (self.overflow.home, self.overflow.to)
        if self.shadow is not None:
            within.append(self.shadow.of)
        for each in within:
            yield from each.nested()

    def names(self) -> Iterator[str]:
        """Yield every name of a model that the choice may lead to."""
        for choice in self.nested():
            if choice.model is not None:
                yield choice.model
            yield from choice.warm or ()
            yield from choice.weighted or ()
            if choice.canary is not None:
                yield from (choice.canary.model, choice.canary.against)

    def given(self) -> Iterator[str]:
        """Yield the kinds of choice that are given."""
        return (kind for kind, value in self if value is not None)


To = Annotated[Choice, BeforeValidator(_choice, json_schema_input_type=ModelName | Choice)]
"""A choice, or the name of a model."""


class Route(Section):
    """A rule: requests that fit go where it says."""

    name: Name = setting(..., "The rule's name in headers, metrics and explanations.")
    match: Match = setting({}, "What a request must be like. Left out, every request fits.")
    unless: Match | None = setting(None, "A request that is like this does not fit, whatever `match` says.")
    to: To = setting(..., "Where the request goes.")
    priority: Priority | None = setting(
        None, "The best class that the request has in a queue. Left out, that of the caller's key."
    )
    unlisted: bool = setting(
        False, "Whether names that only this rule has are left out of the list of models."
    )


OverflowTo.model_rebuild()
ShadowTo.model_rebuild()
Choice.model_rebuild()
