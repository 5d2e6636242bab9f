"""The section `defaults`, and what backends and models may say otherwise: timeouts, retries, breakers."""

from __future__ import annotations

from backends.facts.units import Duration, IdleTime, Share, Wait
from gateway.config.section import Section, setting
from gateway.config.texts import ModelName

_QUEUE = "How long a request may wait for a free backend. `0s`: not at all."
_CONNECT = "How long connecting to the backend may take."
_SEND = "How long the backend may take to read the request."
_LONG = "Where no layer sets it, 10m at llama.cpp, llama-cpp-python, Ollama and Transformers."
_FIRST_BYTE = f"From the request being sent to the headers of a streamed answer. {_LONG}"
_FIRST_TOKEN = (
    "From the request being sent to the first content of a streamed answer. "
    f"Bytes of an event under way begin it anew. {_LONG}"
)
_IDLE = (
    "The longest silence between two pieces of an answer that the engine streams, to a client or to be put together. "
    "Comments are silence."
)
_ANSWER = (
    "From the request being sent to the headers of an answer that is not streamed. Left out, as long as `total` "
    "allows: engines begin such an answer when it is complete, which may take minutes."
)
_TOTAL = "From the request's arrival to the end of its answer, every attempt included."


class Timeouts(Section):
    """How long each phase of a request may take."""

    queue: Wait = setting("30s", _QUEUE)
    connect: Duration = setting("2s", _CONNECT)
    send: Duration = setting("30s", _SEND)
    first_byte: Duration = setting("60s", _FIRST_BYTE)
    first_token: Duration = setting("60s", _FIRST_TOKEN)
    idle: Duration = setting("60s", _IDLE)
    answer: Duration | None = setting(None, _ANSWER)
    total: Duration = setting("30m", _TOTAL)


class TimeoutOverrides(Section):
    """Timeouts that differ from what is inherited; a key that is left out is inherited."""

    queue: Wait | None = setting(None, _QUEUE)
    connect: Duration | None = setting(None, _CONNECT)
    send: Duration | None = setting(None, _SEND)
    first_byte: Duration | None = setting(None, _FIRST_BYTE)
    first_token: Duration | None = setting(None, _FIRST_TOKEN)
    idle: Duration | None = setting(None, _IDLE)
    answer: Duration | None = setting(None, _ANSWER)
    total: Duration | None = setting(None, _TOTAL)


class Retry(Section):
    """What happens when an attempt fails before anything of its answer has gone to the client."""

    attempts: int = setting(
        2,
        "How often a request may be tried in all, the first time included. A connection that could not be made does "
        "not count, and when all are spent each fallback still gets its turn.",
        ge=1,
        le=5,
    )


class Breaker(Section):
    """When a failing backend is left alone, while another can do its work. A client's mistake is no failure."""

    failures: int = setting(5, "Failures in a row after which it is left alone.", ge=1, le=1000)
    pause: Duration = setting("30s", "How long at first; each further time in a row by as much longer.")
    longest: Duration = setting("5m", "The longest pause.")


class Defaults(Section):
    """What every backend and model inherits, and which model serves where a request does not say."""

    model: ModelName | None = setting(
        None, "The model, by name or alias, of requests that name none. Left out, they are refused with 400."
    )
    unknown_model: ModelName | None = setting(
        None,
        "The model, by name or alias, of requests for one that there is not. Left out, they are refused with 404.",
    )
    timeouts: Timeouts = setting({}, "How long each phase of a request may take.")
    retry: Retry = setting({}, "How failed attempts are retried.")
    retry_budget: Share = setting(
        "20%", "How many of the requests being served may be in a further attempt at once; three always may."
    )
    breaker: Breaker = setting({}, "When a failing backend is left alone.")
    idle: IdleTime = setting(
        "never",
        "How long without a request until a launched engine with `start: on_demand` stops; `never`: only to make room.",
    )
    pull: bool = setting(
        False,
        "Whether the model of a launched engine that is named with its hub (`hf:...`, `ms:...`) and is not on this "
        "machine is fetched at the start.",
    )
