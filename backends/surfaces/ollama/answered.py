"""OpenAI's answers as Ollama's: a message or a response, why it ended, its counts and durations.

Rules:
- Durations are the engine's own where it tells them (`timings`, of llama.cpp and of Ollama), else what passed here:
  until the first content for the prompt, from there on for the answer. Of a whole answer only the total is known: it
  counts as the answer's, because clients divide by it.
- The end is the same for whole answers and streams: it is made here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from backends.base import Operation, Request, Usage
from backends.dialect import partial
from backends.surfaces import chat
from backends.surfaces.ollama import idle
from backends.surfaces.places import Members
from backends.surfaces.translation import Clock
from backends.surfaces.vectors import in_order

_SECOND = 1_000_000_000
_MILLISECOND = 1_000_000


def whole(request: Request, answer: bytes, usage: Usage, clock: Clock, chats: bool) -> bytes:
    """Return a whole answer, of a chat or of a prompt. Raise ValueError if it cannot be read."""
    said = chat.decode(answer)
    choice = said.first
    if choice is None:
        raise ValueError("the answer has no choice")
    if asked_for := idle.done_reason(request):
        return _nothing(request, clock, asked_for)
    message = choice.message or chat.Said()
    text = message.text or chat.text_of(choice.text)
    thinking = {"thinking": message.thought} if message.thought else {}
    if chats:
        told: Members = {"role": "assistant", "content": text} | thinking
        calls = [
            call(given.id, number, name, chat.arguments_of(given))
            for number, (name, given) in enumerate(chat.named(message.tool_calls))
        ]
        made: Members = {"message": told | ({"tool_calls": calls} if calls else {})}
    else:
        made = {"response": text} | thinking
    made |= {"logprobs": found} if (found := choice.probabilities) else {}
    ended = ending(choice.finish_reason, usage, clock, 0, said.timings)
    return msgspec.json.encode(head(request, clock) | made | ended)


def unloaded(request: Request, now: Callable[[], int]) -> bytes:
    """Return the answer to a request that unloads its model; `now` returns the time in nanoseconds."""
    if request.operation is Operation.OLLAMA_EMBED:
        return msgspec.json.encode({"model": request.model, "embeddings": []})
    if request.operation is Operation.OLLAMA_EMBEDDINGS:
        return msgspec.json.encode({"embedding": []})
    return _nothing(request, Clock(now), "unload")


def _nothing(request: Request, clock: Clock, asked_for: str) -> bytes:
    """Return the answer to a request that says nothing, and `asked_for` its model to be loaded or unloaded."""
    chats = request.operation is Operation.OLLAMA_CHAT
    said: Members = {"message": {"role": "assistant", "content": ""}} if chats else {"response": ""}
    return msgspec.json.encode(head(request, clock) | said | {"done": True, "done_reason": asked_for})


def head(request: Request, clock: Clock) -> Members:
    """Return what every line begins with."""
    return {"model": request.model, "created_at": when(clock.now())}


def when(nanoseconds: int) -> str:
    """Return a time since the epoch as Ollama writes it."""
    seconds, rest = divmod(nanoseconds, _SECOND)
    return f"{_second(seconds)}.{rest:09d}Z"


@lru_cache(4)
def _second(seconds: int) -> str:
    """Return a second since the epoch; all lines of one second, of all streams, share it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def call(known: str | None, index: int, name: str, arguments: str) -> Members:
    """Return a call of a tool; its arguments are an object."""
    given = partial.readable(arguments)
    function = {"index": index, "name": name, "arguments": given if isinstance(given, dict) else {}}
    return {"id": known or f"call_{index}", "function": function}


def ending(
    reason: str | None, usage: Usage, clock: Clock, first: int, timings: Any, load: int = 0
) -> Members:
    """Return the members of the end.

    `first` is when the first content came, in nanoseconds, 0 where that is not known; `timings` are the engine's, in
    milliseconds; `load` is how many nanoseconds at the beginning its start took.
    """
    total = clock.now() - clock.began
    prompt = first - clock.began - load if first else 0
    told = timings if isinstance(timings, dict) else {}
    return {
        "done": True,
        "done_reason": "length" if reason == "length" else "stop",
        "total_duration": total,
        "load_duration": load + _told(told.get("load_ms"), 0),
        "prompt_eval_count": usage.input,
        "prompt_eval_duration": _told(told.get("prompt_ms"), prompt),
        "eval_count": usage.output,
        "eval_duration": _told(told.get("predicted_ms"), total - load - prompt),
    }


def _told(milliseconds: Any, measured: int) -> int:
    """Return a duration in nanoseconds, the engine's where it tells one."""
    known = isinstance(milliseconds, int | float) and not isinstance(milliseconds, bool)
    return round(milliseconds * _MILLISECOND) if known else measured


def vectors(request: Request, answer: bytes, usage: Usage, clock: Clock) -> bytes:
    """Return embeddings. Raise ValueError if they cannot be read."""
    found = [] if idle.done_reason(request) else in_order(answer)
    made: Members = {"model": request.model, "embeddings": found}
    if found:
        total = clock.now() - clock.began
        made |= {"total_duration": total, "load_duration": 0, "prompt_eval_count": usage.input}
    return msgspec.json.encode(made)


def vector(request: Request, answer: bytes) -> bytes:
    """Return one embedding, as the older path has it. Raise ValueError if it cannot be read."""
    found = [] if idle.done_reason(request) else in_order(answer)
    return msgspec.json.encode({"embedding": found[0] if found else []})
