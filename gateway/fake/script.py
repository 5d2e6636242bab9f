"""The script of a fake engine as data: defaults and rules, the same in YAML, in JSON and in Python.

Rules:
- The types are frozen and hold no logic; unknown names are errors. `gateway.fake.reading` reads them from text.
- The first rule that matches a request decides; what it leaves out comes from `defaults`.
- Durations are seconds in Python and carry their unit in a file ("250ms").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from backends.facts.units import Size, Wait, expected

MOST_TOKENS = 100_000
"""The longest answer, in tokens, unless the script says `endless`."""


class Settings(BaseModel):
    """A map of a script. Unknown keys are errors; a value never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Place(NamedTuple):
    """The place in an answer where a fault happens."""

    kind: str
    number: int = 0


_PLACE = re.compile(r"(accept|request|headers|end)|(event) (-?[0-9]{1,9})|((?:body )?byte) ([0-9]{1,12})")


def _place(value: object) -> Place:
    """Read a place: `accept`, `request`, `headers`, `byte 5`, `body byte 5`, `event 5`, `event -1` or `end`."""
    if isinstance(value, Place):
        return value
    match = _PLACE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise expected(
            "one of: accept, request, headers, byte N, body byte N, event N (or -N from the end), end"
        )
    return Place(match[1] or match[2] or match[4], int(match[3] or match[5] or 0))


def _payload(value: object) -> bytes | None:
    """Turn a value into bytes: text as UTF-8, `hex:00ff` as those bytes, anything but bytes as JSON."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str) and value.startswith("hex:"):
        try:
            return bytes.fromhex(value[4:])
        except ValueError:
            raise expected("hex digits after 'hex:'") from None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _payloads(value: object) -> tuple[bytes, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise expected("a list of events")
    return tuple(_payload(item) or b"null" for item in value)


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    """Read header lines, in order, from a map of names to a text or a list of texts."""
    if isinstance(value, tuple):
        return value
    lines = []
    for name, given in value.items() if isinstance(value, Mapping) else ((None, None),):
        for text in given if isinstance(given, list | tuple) else (given,):
            if not isinstance(name, str) or not isinstance(text, str):
                raise expected("a map of header names to text, or to a list of texts")
            lines.append((name, text))
    return tuple(lines)


Payload = Annotated[bytes | None, PlainValidator(_payload)]
Headers = Annotated[tuple[tuple[str, str], ...], PlainValidator(_headers)]
At = Annotated[Place, PlainValidator(_place)]

_TAKES = {
    "close": set(),
    "reset": set(),
    "hang": {"duration"},
    "drip": {"every"},
    "garbage": {"size"},
    "raw": {"data"},
    "event": {"data", "size"},
    "error": {"data"},
    "comments": {"every", "duration"},
    "end": set(),
}
_WITHIN_A_STREAM = {"event", "error", "comments"}
_WITHIN_A_BODY = {"headers", "event", "body byte"}
_ON_ACCEPT = {"close", "reset", "hang", "garbage", "raw"}


class Fault(Settings):
    """One fault at one place of an answer."""

    at: At
    """`accept`: the connection is new. `request`: the request is read, nothing sent. `headers`: the head is sent.
    `byte N`: N bytes of the whole answer are sent. `body byte N`: N bytes of the body, transfer coding not counted.
    `event N`: SSE event N, counted from 0, comes next; negative numbers count from the end. `end`: all is sent."""
    do: Literal["close", "reset", "hang", "drip", "garbage", "raw", "event", "error", "comments", "end"]
    """`close`: FIN. `reset`: RST. `hang`: silence for `duration`, or for ever. `drip`: from here one byte `every`.
    `garbage`: `size` random bytes. `raw`: the bytes `data`, outside of any transfer coding. `event`: an extra SSE event
    holding `data`, or `size` bytes. `error`: an error event, then the clean end of the body without `[DONE]`.
    `comments`: keep-alive comments `every` so often for `duration`, or for ever. `end`: the clean end of the body."""
    duration: Wait | None = None
    every: Wait = 0.05
    size: Size = 64
    data: Payload = None

    @model_validator(mode="after")
    def _fits(self) -> Fault:
        stray = self.model_fields_set - {"at", "do"} - _TAKES[self.do]
        if stray:
            raise _wrong(f"{self.do!r} takes no {sorted(stray)[0]!r}")
        if self.do == "raw" and self.data is None:
            raise _wrong("'raw' needs 'data': the bytes to send")
        if self.at.kind == "accept" and self.do not in _ON_ACCEPT:
            raise _wrong(f"{self.do!r} cannot happen at accept: there is no answer yet")
        if self.do in _WITHIN_A_STREAM and self.at.kind != "event":
            raise _wrong(f"{self.do!r} needs a place between events, such as 'event 0'")
        if self.do == "end" and self.at.kind not in _WITHIN_A_BODY:
            raise _wrong("'end' needs a place in the body: headers, event N or body byte N")
        return self


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("wrong", "{message}", {"message": message})


class Match(Settings):
    """Which requests a rule is for: every field that is set must match."""

    path: str | None = None
    """The path, `*` for any text. Without it: the requests that generate (chat, completions, embeddings)."""
    model: str | None = None
    stream: bool | None = None
    header: Mapping[str, str] = Field(default_factory=dict)
    contains: str | None = None
    """Text that the request's body holds."""
    after: int = Field(0, ge=0)
    """How many matching requests are passed over first."""
    times: int | None = Field(None, ge=1)
    """How many requests the rule is for after that; None for all."""


class Reply(Settings):
    """What is answered instead of the usual answer."""

    status: int = Field(200, ge=100, le=999)
    reason: str | None = None
    """The reason phrase; empty for none at all."""
    headers: Headers = ()
    """Extra header lines; one of the usual names (content-type, connection, ...) replaces the usual line."""
    body: Payload = None
    """The whole body instead of a generated one; JSON where it is neither text nor bytes."""
    form: Literal["asked", "json", "sse"] = "asked"
    """`json` and `sse` answer that way whatever was asked."""


class Sse(Settings):
    """How the events of a healthy stream are written."""

    newline: Literal["lf", "crlf", "cr", "mixed"] = "lf"
    space: bool = True
    """`data: {}` rather than `data:{}`."""
    bom: bool = False
    multiline: bool = False
    """Write each payload on several `data` lines."""
    comment_every: int = Field(0, ge=0)
    """A comment before every Nth event; 0 for none."""
    id: bool = False
    event: str | None = None
    retry: int | None = Field(None, ge=0)
    coalesce: int = Field(1, ge=1)
    """How many events go out in one write and one chunk."""
    done: Literal["once", "never", "twice"] = "once"
    after_done: Payload = None
    """The payload of one more event after `[DONE]`."""
    events: Annotated[tuple[bytes, ...] | None, PlainValidator(_payloads)] = None
    """The payloads of the whole stream instead of generated ones, `[DONE]` included."""


class Interim(Settings):
    """1xx replies ahead of the answer."""

    status: int = Field(103, ge=100, le=199)
    count: int = Field(1, ge=1, le=1_000_000)
    every: Wait = 0.0


class Http(Settings):
    """How an answer is sent."""

    version: Literal["1.1", "1.0"] = "1.1"
    framing: Literal["auto", "chunked", "length", "close", "both"] = "auto"
    """How the end of the body is marked. `auto`: chunked for a stream, else a length. `both`: Content-Length and
    chunked. `close`: by closing the connection."""
    length_off: int = 0
    """Added to the true Content-Length."""
    trailers: Headers = ()
    gzip: bool = False
    early_headers: bool = False
    """Send the head at once, not just before the first token."""
    interim: Interim | None = None
    extra_headers: int = Field(0, ge=0, le=1_000_000)
    extra_header_size: Size = 20
    split: int = Field(0, ge=0)
    """Writes of at most so many bytes; 0: as they come."""


class Behaviour(Settings):
    """How requests are answered."""

    first_token: Wait = 0.0
    """From the request to its first token."""
    prefill: Wait = 0.0
    """Added to `first_token` for each token of the prompt."""
    gap: Wait = 0.0
    """Between tokens."""
    rate: float | None = Field(None, gt=0)
    """Tokens per second, instead of `gap`."""
    jitter: float = Field(0.0, ge=0, le=1)
    """The share by which every wait varies, both ways."""
    tokens: int | None = Field(None, ge=0, le=MOST_TOKENS)
    """How many tokens an answer has, at most the request's own limit; that limit, else 16, where nothing is said."""
    endless: bool = False
    """Stream without end, whatever the limit."""
    text: Literal["count", "echo", "lorem", "unicode"] = "count"
    """`count`: word0 word1 ... `echo`: the last message. `unicode`: line separators, emoji, composed letters."""
    say: str | None = None
    """The words to answer with, instead of `text`."""
    finish: str | None = "auto"
    """The finish_reason; `auto`: stop, or length where the limit cut the answer; null: none is ever sent."""
    usage: Literal["asked", "never", "always", "every", "null"] = "asked"
    """Usage in a stream. `every`: in every chunk. `null`: as `asked`, and `usage: null` in every other chunk."""
    reply: Reply = Reply()
    sse: Sse = Sse()
    http: Http = Http()
    faults: tuple[Fault, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> Behaviour:
        if self.endless and self.http.framing in ("length", "both"):
            raise _wrong("an endless stream has no length: use another framing")
        return self

    @property
    def pace(self) -> float:
        """Seconds between tokens."""
        return 1 / self.rate if self.rate else self.gap


class Rule(Behaviour):
    """How some requests are answered."""

    match: Match = Match()

    @model_validator(mode="after")
    def _sees_what_it_matches(self) -> Rule:
        if not self.on_accept:
            return self
        if any(fault.at.kind != "accept" for fault in self.faults):
            raise _wrong("a rule with a fault at accept is for connections: all its faults must be at accept")
        if self.match.model_fields_set - {"after", "times"}:
            raise _wrong("at accept no request is known yet: match may only hold 'after' and 'times'")
        return self

    @property
    def on_accept(self) -> bool:
        """Whether the rule is for connections rather than requests."""
        return any(fault.at.kind == "accept" for fault in self.faults)


class Script(Settings):
    """Everything a fake engine is told to do."""

    models: tuple[str, ...] = ("fake",)
    seed: int = 0
    slots: int | None = Field(None, ge=1)
    """How many requests generate at the same time; the others wait in a queue."""
    queue: int | None = Field(None, ge=0)
    """How many may wait; more are answered with `busy`."""
    busy: Reply = Reply(status=503, headers={"retry-after": "1"})
    loading: Wait = 0.0
    """How long the model loads, from the start or from when the script was set."""
    loading_style: Literal["503", "refuse"] = "503"
    keep_alive: Wait | None = None
    """How long an idle connection stays open; for ever where nothing is said."""
    requests_per_connection: int | None = Field(None, ge=1)
    """After so many answers the connection is closed without notice."""
    defaults: Behaviour = Behaviour()
    rules: tuple[Rule, ...] = ()

    def behaviour(self, rule: Rule | None, *, generates: bool = True) -> Behaviour:
        """Return a rule's behaviour, completed from the defaults, which apply only to requests that generate."""
        base = self.defaults if generates else Behaviour()
        return _over(base, rule) if rule else base

    def over(self, upper: Script) -> Script:
        """Return this script with what another one sets put over it."""
        return _over(self, upper)


S = TypeVar("S", bound=Settings)


def _over(base: S, upper: Settings) -> S:
    """Return `base` with what `upper` sets; groups are merged key by key."""
    said: dict[str, Any] = {}
    for name in upper.model_fields_set & type(base).model_fields.keys():
        below, above = getattr(base, name), getattr(upper, name)
        said[name] = _over(below, above) if isinstance(below, Settings) and above is not None else above
    return base.model_copy(update=said)
