"""Turn requests into what LMDeploy hears: its names, its values, and refusals of what it would ignore without a word.

Facts are those of LMDeploy 0.18, each tried on its server with a scripted model.

Rules:
- Everything is asked for as a stream, because only of a stream does the server notice at once that its client has left;
  a whole answer that hangs would keep its place for good. The gateway puts the whole answer together. Several prompts
  are the exception: their streams come one after the other under one index, so they are asked for whole.
- The server hears a stop string only if it is one token of the vocabulary. It gets them nevertheless, except in
  Messages, whose answers do not say which one it was; the decoders in `answers.py` cut the text.
- A named tool is not forced by a grammar; that tool alone and `required` are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from backends.base import Operation, Request
from backends.dialect import edits, rewrite
from backends.dialect.edits import Members

_IGNORED = (
    "presence_penalty",
    "frequency_penalty",
    "stop_token_ids",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)
_IGNORED_COMPLETION = ("echo", "suffix", "logit_bias")
_EFFORTS = {b'"minimal"': b'"low"', b'"xhigh"': b'"max"'}
_NO_THINKING = b'{"enable_thinking":false}'
_USAGE = b'{"include_usage":true}'
_ONE = (b"1", b"1.0")
_LARGEST_SEED = (1 << 64) - 1


class Wanted(NamedTuple):
    """What a client's request asks of its answer that LMDeploy does not do itself."""

    stops: tuple[str, ...] = ()
    """Strings before which the text is cut."""
    logprobs: bool = False
    one_call: bool = False
    """Whether only the first tool call counts."""


_NOTHING = Wanted()


class _Choices(msgspec.Struct):
    stop: str | list[str] | None = None
    stop_sequences: list[str] | None = None
    logprobs: bool | int | None = None


class _ToolChoice(msgspec.Struct):
    type: str = ""
    disable_parallel_tool_use: bool | None = None


class _WithToolChoice(msgspec.Struct):
    tool_choice: _ToolChoice | str | None = None


_choices = msgspec.json.Decoder(_Choices)
_with_tool_choice = msgspec.json.Decoder(_WithToolChoice)


def wanted(request: Request) -> Wanted:
    """Return what the decoder of the answer has to do."""
    body = request.body
    if b'"stop' not in body and b'"logprobs' not in body and b'"disable_parallel' not in body:
        return _NOTHING
    try:
        said = _choices.decode(body)
        tool_choice = _with_tool_choice.decode(body).tool_choice
    except (ValueError, RecursionError):
        return _NOTHING
    given = said.stop_sequences if request.operation is Operation.MESSAGES else said.stop
    stops = [given] if isinstance(given, str) else given or []
    one_call = isinstance(tool_choice, _ToolChoice) and bool(tool_choice.disable_parallel_tool_use)
    return Wanted(tuple(filter(None, stops)), bool(said.logprobs), one_call)


def body(request: Request, model: str) -> tuple[bytes, bool]:
    """Return the body of a request as LMDeploy is asked, and whether it is asked for a whole answer.

    Raise RequestError for what it cannot do.
    """
    members = edits.without_nulls(rewrite.members(request.body))
    members["model"] = msgspec.json.encode(model)
    members["stream"] = b"true"
    edit = _EDITS.get(request.operation)
    if edit is not None:
        edit(members)
    return rewrite.joined(members), "stream" not in members


def _sampling(members: Members) -> None:
    """Edit what chats and completions have in common."""
    edits.refuse(members, _IGNORED)
    edits.rename(members, "min_tokens", "min_new_tokens")
    edits.stops(members, "stop")
    edits.within(members, "seed", 0, _LARGEST_SEED)
    if members.get("top_k") == b"-1":
        del members["top_k"]
    members["stream_options"] = _USAGE


def _chat(members: Members) -> None:
    _sampling(members)
    edits.messages(members)
    edits.force(members, b'"required"')
    effort = members.get("reasoning_effort", b"")
    if effort == b'"none"':
        del members["reasoning_effort"]
        _without_thinking(members)
    elif effort in _EFFORTS:
        members["reasoning_effort"] = _EFFORTS[effort]
    form = members.get("response_format", b"")
    if form and b'"text"' not in form:
        # The grammar has no room for thoughts, and with a reasoning parser the JSON would pass for one.
        _without_thinking(members)


def _without_thinking(members: Members) -> None:
    """Ask the template for no thoughts, unless the client says otherwise."""
    given = members.get("chat_template_kwargs")
    if given is None and "enable_thinking" not in members:
        members["chat_template_kwargs"] = _NO_THINKING
    elif given is not None and b'"enable_thinking"' not in given and given.startswith(b"{"):
        members["chat_template_kwargs"] = rewrite.joined(
            {**rewrite.members(given), "enable_thinking": b"false"}
        )


def _completion(members: Members) -> None:
    _sampling(members)
    edits.refuse(members, _IGNORED_COMPLETION)
    for name in ("n", "best_of"):
        if members.pop(name, b"1") not in _ONE:
            raise edits.unsupported(name, "the engine gives one answer to a prompt")
    if "logprobs" in members:
        raise edits.unsupported("logprobs", "the engine tells none for completions")
    form = members.pop("response_format", b"")
    if form and b'"text"' not in form:
        raise edits.unsupported("response_format")
    if edits.prompts(members, tokens=False) > 1:
        del members["stream"], members["stream_options"]


def _response(members: Members) -> None:
    edits.refuse(members, ("presence_penalty", "frequency_penalty"))
    edits.stops(members, "stop")
    if "stop" in members:
        raise edits.unsupported("stop", "the engine hears stop strings in chats only")
    edits.within(members, "seed", 0, _LARGEST_SEED)
    edits.force(members, b'"required"', flat=True)
    edits.past_items(members)


def _messages(members: Members) -> None:
    members.pop("stop_sequences", None)
    choice = members.get("tool_choice", b"")
    if not choice.startswith(b"{"):
        return
    inner = rewrite.members(choice)
    if inner.get("type") == b'"none"':
        # The server knows no such choice; without tools there is nothing to choose.
        del members["tool_choice"]
        members.pop("tools", None)
        return
    inner.pop("disable_parallel_tool_use", None)
    members["tool_choice"] = rewrite.joined(inner)
    edits.force(members, b'{"type":"any"}', flat=True)


_EDITS: Mapping[Operation, Callable[[Members], None]] = {
    Operation.CHAT: _chat,
    Operation.COMPLETIONS: _completion,
    Operation.RESPONSES: _response,
    Operation.MESSAGES: _messages,
}
OPERATIONS = frozenset(_EDITS)
"""The operations whose requests are edited here."""
