"""Turn requests into what Triton's OpenAI frontend hears, and refuse by name what it would ignore or fail at.

Facts are those of the frontend of server 2.73, run with scripted models, and of the backends behind it (source).

Rules:
- It refuses a request with a member that it does not know, also one that is null.
- It streams tool calls broken: a name in every piece, arguments twice, text lost, by its parser and by where tokens
  end. The whole answer to the same tokens is right, so it is asked for that. It is for a completion that repeats its
  prompt, too.
- It takes a format of the answer and does not keep to it. A tool that must be called keeps to the schema of its
  arguments, so an answer by a schema is asked for as the arguments of one; the model sees it in its prompt.
- A required tool is always the first one, so several are refused.
- A setting that the model's own process would refuse comes back as an error of the server's: it is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from backends.base import Call, Operation, Request
from backends.dialect import edits, known, rewrite
from backends.dialect.edits import Members
from backends.dialect.openai import PATHS

_BOTH = """model frequency_penalty presence_penalty ignore_eos logprobs max_tokens max_completion_tokens min_tokens
    seed stop stream stream_options temperature top_p user"""
KNOWN: Mapping[Operation, frozenset[str]] = {
    Operation.CHAT: frozenset(f"{_BOTH} messages top_logprobs tools tool_choice".split()),
    Operation.COMPLETIONS: frozenset(f"{_BOTH} prompt echo".split()),
    Operation.EMBEDDINGS: frozenset(("model", "input", "dimensions", "encoding_format", "user")),
}
"""The members that are heard. The frontend also takes `n`, `best_of`, `logit_bias`, `suffix`, `response_format`,
`functions` and `function_call`, which it then refuses or does not hear."""

_LARGEST_SEED = (1 << 63) - 1
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}
_ANSWER = b'[{"type":"function","function":{"name":"answer","parameters":%b}}]'
_TO_ANSWER = b'{"type":"function","function":{"name":"answer"}}'
_LIMITS = ("max_tokens", "max_completion_tokens")

_raws = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()


class _Limits(msgspec.Struct):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class _Schema(msgspec.Struct):
    schema: msgspec.Raw = msgspec.Raw()


class _Form(msgspec.Struct):
    type: str = ""
    json_schema: _Schema | None = None


class _Formed(msgspec.Struct):
    response_format: _Form | None = None


class _Said(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw()
    tool_calls: msgspec.Raw = msgspec.Raw()


_limits = msgspec.json.Decoder(_Limits)
_form = msgspec.json.Decoder(_Form)
_formed = msgspec.json.Decoder(_Formed)
_said = msgspec.json.Decoder(_Said)


def limit(request: Request, default: int) -> int:
    """Return the most tokens of the answer to a request; `default` is for clients that set no limit."""
    try:
        said = _limits.decode(request.body)
    except (ValueError, RecursionError):
        return default
    return said.max_completion_tokens or said.max_tokens or default


def by_schema(request: Request) -> bool:
    """Return whether the answer is one by a schema, which comes as the arguments of a tool."""
    if b'"json_schema"' not in request.body:
        return False
    try:
        form = _formed.decode(request.body).response_format
    except (ValueError, RecursionError):
        return False
    return form is not None and form.type == "json_schema"


def stops(request: Request) -> list[str]:
    """Return the stop strings of a request."""
    return edits.stops(rewrite.members(request.body), "stop") if b'"stop"' in request.body else []


def call(request: Request, model: str, default: int) -> Call:
    """Return what the frontend is asked; `default` is as in `limit`. Raise RequestError for what it cannot do."""
    members = edits.without_nulls(rewrite.members(request.body))
    members["model"] = msgspec.json.encode(model)
    schema = _response_format(members)
    # Of several calls the first is kept where the client wants one.
    members.pop("parallel_tool_calls", None)
    dropped = known.only(members, KNOWN[request.operation])
    whole = _EDITS[request.operation](members)
    if schema is not None:
        if whole or request.operation is not Operation.CHAT:
            raise edits.unsupported("response_format", "the engine keeps to it in chats without tools only")
        members["tools"] = _ANSWER % schema
        members["tool_choice"] = _TO_ANSWER
        whole = True
    if request.operation is not Operation.EMBEDDINGS:
        _limit(members, default)
        whole = whole and request.stream
        if request.stream and not whole:
            members["stream_options"] = b'{"include_usage":true}'
        elif whole:
            del members["stream"]
            members.pop("stream_options", None)
    return Call(PATHS[request.operation], rewrite.joined(members), whole=whole, dropped=dropped)


def _limit(members: Members, default: int) -> None:
    """Set a limit where the client does not. The frontend's own is 16 tokens, also for null."""
    for name in _LIMITS:
        if members.get(name, b"").startswith((b"0", b"-")):
            raise edits.rejected(name, "the engine makes at least one token")
    if not members.keys() & set(_LIMITS):
        members["max_tokens"] = b"%d" % default


def _sampling(members: Members) -> None:
    """Edit what chats and completions have in common."""
    edits.stops(members, "stop")
    edits.within(members, "seed", 0, _LARGEST_SEED)
    if members.get("top_p") in (b"0", b"0.0"):
        raise edits.rejected("top_p", "the engine takes more than 0")


def _chat(members: Members) -> bool:
    _sampling(members)
    edits.messages(members)
    _messages(members)
    return _tools(members)


def _messages(members: Members) -> None:
    """Give assistants a text, as many templates join texts, and no list of no calls. Refuse what is no text."""
    try:
        raws = _raws.decode(members.get("messages", b""))
        read = [_said.decode(raw) for raw in raws]
    except (ValueError, RecursionError):
        return
    out: list[bytes] = []
    for raw, said in zip(raws, read, strict=True):
        if bytes(said.content).startswith(b"["):
            raise edits.unsupported("messages", "the engine takes only text")
        message = rewrite.members(bytes(raw))
        if message.get("tool_calls") in (b"[]", b"null"):
            del message["tool_calls"]
        if said.role == "assistant" and bytes(said.content) in (b"", b"null"):
            message["content"] = b'""'
        out.append(rewrite.joined(message))
    members["messages"] = b"[" + b",".join(out) + b"]"


def _tools(members: Members) -> bool:
    """Put tools right, and return whether there are any."""
    choice = members.get("tool_choice", b'"auto"')
    if choice == b'"none"' or members.get("tools", b"[]") == b"[]":
        # It would show them to the model all the same, and not start without a parser.
        members.pop("tools", None)
        members.pop("tool_choice", None)
        return False
    try:
        tools = _any.decode(members["tools"])
        changed = [_with_parameters(tool) for tool in tools]
    except (ValueError, RecursionError, TypeError, AttributeError):
        return True
    if b'"allowed_tools"' in choice:
        raise edits.unsupported("tool_choice", "the engine knows no choice among some of the tools")
    if choice == b'"required"' and len(tools) > 1:
        raise edits.unsupported("tool_choice", "of several required tools the engine would call the first")
    if any(changed):
        members["tools"] = msgspec.json.encode(tools)
    return True


def _with_parameters(tool: dict[str, Any]) -> bool:
    """Give a function without parameters the schema of an empty object, and return whether it had none."""
    function = tool.get("function")
    if not isinstance(function, dict) or function.get("parameters"):
        return False
    function["parameters"] = _NO_ARGUMENTS
    return True


def _response_format(members: Members) -> bytes | None:
    """Take out the format of the answer, and return the schema that it must follow; None if it is any text."""
    try:
        form = _form.decode(members.pop("response_format", b'{"type":"text"}'))
    except (ValueError, RecursionError) as error:
        raise edits.rejected("response_format", "it is no object with a 'type'") from error
    if form.type == "text":
        return None
    if form.type != "json_schema":
        raise edits.unsupported("response_format", "the engine keeps to a 'json_schema' only")
    schema = bytes(form.json_schema.schema) if form.json_schema else b""
    if not schema.startswith(b"{"):
        raise edits.rejected("response_format", "a 'json_schema' has a 'schema'")
    return schema


def _completion(members: Members) -> bool:
    _sampling(members)
    if edits.prompts(members, tokens=False) > 1:
        raise edits.unsupported("prompt", "the engine takes one prompt")
    newer = members.pop("max_completion_tokens", None)
    if newer is not None:
        members["max_tokens"] = newer
    return members.get("echo") == b"true"


def _embedding(members: Members) -> bool:
    """Make a list of one input that input; the frontend takes one text, or the tokens of one."""
    given = members.get("input", b"")
    if given.startswith(b"["):
        try:
            found = [bytes(raw) for raw in _raws.decode(given)]
        except (ValueError, RecursionError):
            return False
        if found and found[0].startswith((b'"', b"[")):
            if len(found) > 1:
                raise edits.unsupported("input", "the engine takes one input")
            members["input"] = found[0]
    return False


_EDITS: Mapping[Operation, Callable[[Members], bool]] = {
    Operation.CHAT: _chat,
    Operation.COMPLETIONS: _completion,
    Operation.EMBEDDINGS: _embedding,
}
"""What is done with the members of a request; each returns whether a whole answer has to be asked for."""
