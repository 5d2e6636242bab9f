"""OpenAI's chat completions as codecs read them, whole and streamed: the canonical dialect, as msgspec structs.

Rules:
- What a codec does not look at is not decoded. Members whose type differs between engines are `Any`, and read by the
  functions here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.dialect.edits import arguments_object


class Function(msgspec.Struct):
    """The function of a call."""

    name: str | None = None
    arguments: Any = None
    """JSON as a text; some engines send the object itself."""


class Call(msgspec.Struct):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Said(msgspec.Struct):
    """A message, or a piece of one."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    """What others call `reasoning_content` (vLLM since 0.13, Ollama)."""
    refusal: Any = None
    tool_calls: list[Call] | None = None

    @property
    def text(self) -> str:
        """Return what is said to the client, a refusal too."""
        return text_of(self.content) + text_of(self.refusal)

    @property
    def thought(self) -> str:
        """Return what the model thinks."""
        return text_of(self.reasoning_content) or text_of(self.reasoning)


class _Alternative(msgspec.Struct):
    """A token that might have been said, and how probable it was."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class _Token(_Alternative):
    """A token that was said."""

    top_logprobs: list[_Alternative] | None = None


class Choice(msgspec.Struct):
    """One choice of an answer."""

    index: int | None = None
    message: Said | None = None
    delta: Said | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    """The stop string that was hit (vLLM), or the number of a token."""
    matched_stop: Any = None
    """The same (SGLang)."""
    text: Any = None
    """What is said, in a completion."""
    logprobs: Any = None

    @property
    def stopped_at(self) -> str | None:
        """Return the stop string that ended the choice, where the engine tells."""
        for said in (self.stop_reason, self.matched_stop):
            if isinstance(said, str) and said:
                return said
        return None

    @property
    def probabilities(self) -> list[dict[str, Any]]:
        """Return the log probabilities of the tokens, as a chat has them; empty where there are none.

        Raise ValueError if they cannot be read.
        """
        found = self.logprobs.get("content") if isinstance(self.logprobs, dict) else None
        if not found:
            return []
        msgspec.convert(found, list[_Token])
        return found if isinstance(found, list) else []


class Completion(msgspec.Struct):
    """A whole answer, or one event of a stream."""

    id: Any = None
    created: Any = None
    choices: list[Choice] | None = None
    usage: Any = None
    timings: Any = None
    """How long prompt and answer took (llama.cpp)."""

    @property
    def first(self) -> Choice | None:
        """Return the first choice, the only one that dialects with one answer have room for."""
        for choice in self.choices or ():
            if not choice.index:
                return choice
        return None


decode = msgspec.json.Decoder(Completion).decode


def text_of(said: Any) -> str:
    """Return a content as text: a text, or the texts of its parts. Raise ValueError if it is something else."""
    if isinstance(said, str):
        return said
    if said is None:
        return ""
    if not isinstance(said, list):
        raise ValueError("what is said is no text")
    parts = [part.get("text") for part in said if isinstance(part, dict)]
    return "".join([part for part in parts if isinstance(part, str)])


def named(calls: list[Call] | None) -> list[tuple[str, Call]]:
    """Return the calls of a whole answer with their names, without empty ones.

    Raise ValueError if one has an id or arguments, and no name.
    """
    found = []
    for call in calls or ():
        name = call.function.name if call.function is not None else None
        if name:
            found.append((name, call))
        elif call.id or arguments_of(call):
            raise ValueError("a call has no name")
    return found


def arguments_of(call: Call) -> str:
    """Return the JSON of a call's arguments, or of a piece of them, as text."""
    said = None if call.function is None else call.function.arguments
    if isinstance(said, str):
        return said
    return "" if said is None else msgspec.json.encode(said).decode()


def content_of(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return the parts of a request's message as a content: a text where they are nothing else.

    Every template can read a text.
    """
    if all(part["type"] == "text" for part in parts):
        return "\n".join([part["text"] for part in parts])
    return parts


def thoughts(said: str) -> dict[str, Any]:
    """Return the members of an earlier answer that hold what the model thought.

    Engines read it under either name; most templates leave out all thoughts but the last.
    """
    return {"reasoning_content": said, "reasoning": said}


def answered_before(text: str, thought: str, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the message of an earlier answer: its text, its thoughts and its calls; none where it says nothing."""
    if not (text or thought or calls):
        return []
    told: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if thought:
        told |= thoughts(thought)
    if calls:
        told["tool_calls"] = calls
    return [told]


def written(arguments: Any) -> str:
    """Return the arguments of an earlier call as the text of a JSON object.

    Where a limit has cut them they are what can be read: engines whose templates read them refuse any other text, and
    with it every later turn.
    """
    if isinstance(arguments, str):
        return arguments_object(arguments).decode()
    return msgspec.json.encode(arguments or {}).decode()


def by_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the `response_format` that holds an answer to a JSON schema."""
    form = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": form}
