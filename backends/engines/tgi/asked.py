"""Turn requests into what TGI takes: its names, its forms, and refusals of what it would ignore without a word.

Facts are those of TGI 3.3, tried on its own router with a scripted model, and of its source where that is said.

Rules:
- Chats go to the Messages API. So do whole completions; a completion that is streamed or held to a format goes by the
  native protocol, because streams of the Messages API have the text of end tokens in them, and its completions hear no
  format. Several prompts are asked for as a whole, because their stream counts the tokens of the last one only.
- A chat with tools is asked for as a whole: of a stream TGI drops what it buffered before the name, and the arguments
  are broken. Whole answers are right.
- The router sends the model's name to the model as the adapter to use, as it is. The native protocol has a member of
  its own for it.
- TGI makes one call, by a grammar that knows a tool's `properties` and `required` only: what they refer to is put in
  its place.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

from backends.base import Call, Operation, Request
from backends.dialect import edits, rewrite
from backends.dialect.dropped import dropped
from backends.dialect.edits import Members
from backends.dialect.openai import PATHS

NATIVE = "/generate_stream"

_IGNORED = (
    *(
        "logit_bias",
        "presence_penalty",
        "min_p",
        "min_tokens",
        "stop_token_ids",
        "ignore_eos",
        "echo",
        "suffix",
    ),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)
_ONE = (b"1", b"1.0")
_ZERO = (b"0", b"0.0", b"-0.0")
_LARGEST_SEED = (1 << 63) - 1
_USAGE = b'{"include_usage":true}'
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
_DEEPEST = 32
"""How often one reference within a tool's parameters may lead to another."""

_decode = msgspec.json.Decoder()


class Wanted(NamedTuple):
    """What a client's request asks of its answer that has to be known when it comes."""

    stops: tuple[str, ...] = ()
    tools: bool = False
    """Whether the answer is held to the grammar of the tools."""
    most: int | None = None
    """How many tokens the answer may have."""


class _Wanted(msgspec.Struct):
    stop: Any = None
    tools: Any = None
    tool_choice: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None


_wanted = msgspec.json.Decoder(_Wanted)


def wanted(request: Request) -> Wanted:
    """Return what the answer has to be measured by."""
    try:
        said = _wanted.decode(request.body)
    except (ValueError, RecursionError):
        return Wanted()
    stops = said.stop if isinstance(said.stop, list) else [said.stop]
    most = said.max_tokens if said.max_completion_tokens is None else said.max_completion_tokens
    return Wanted(
        tuple(stop for stop in stops if stop and isinstance(stop, str)),
        bool(said.tools) and said.tool_choice != "none",
        most if isinstance(most, int) else None,
    )


def call(request: Request, model: str) -> Call:
    """Return the call for a chat or a completion. Raise RequestError for what TGI cannot do."""
    members = edits.without_nulls(rewrite.members(request.body))
    members["model"] = msgspec.json.encode(model)
    members.pop("stream", None)
    members.pop("stream_options", None)
    _sampling(members)
    path = PATHS[request.operation]
    if request.operation is Operation.CHAT:
        whole = _chat(members)
    else:
        whole = True
        several = edits.prompts(members, tokens=False) > 1
        _completion(members)
        form = members.get("response_format")
        if several and form is not None:
            raise edits.unsupported("response_format", "the engine hears it for one prompt only")
        if not several and (request.stream or form is not None):
            return Call(NATIVE, _native(members, model), dropped=dropped(members, _NATIVE), native=True)
    if request.stream and not whole:
        members |= {"stream": b"true", "stream_options": _USAGE}
    return Call(path, rewrite.joined(members), whole=whole)


def _sampling(members: Members) -> None:
    """Edit what chats and completions have in common."""
    for name in ("n", "best_of"):
        if members.pop(name, b"1") not in _ONE:
            raise edits.unsupported(name, "the engine gives one answer to a prompt")
    if members.get("presence_penalty") in _ZERO:
        del members["presence_penalty"]
    if members.get("logit_bias", b"{").startswith(b"{"):
        edits.refuse(members, _IGNORED)
    else:
        raise edits.rejected("logit_bias", "a map of tokens is expected")
    for name in ("max_tokens", "max_completion_tokens"):
        if members.get(name, b"").startswith(b"-"):
            raise edits.rejected(name, "a number of tokens is not negative")
    edits.within(members, "seed", 0, _LARGEST_SEED)
    if members.get("top_p") in _ONE:
        del members["top_p"]
    if members.get("top_k") in (*_ZERO, b"-1"):
        del members["top_k"]
    edits.stops(members, "stop")
    if members.get("stop", b"").startswith(b'"'):
        members["stop"] = b"[" + members["stop"] + b"]"
    if "response_format" in members:
        form = _format(_decode.decode(members.pop("response_format")))
        members |= {} if form is None else {"response_format": msgspec.json.encode(form)}


def _chat(members: Members) -> bool:
    """Edit a chat; return whether it has to be asked for as a whole."""
    edits.refuse(members, ("top_k", "typical_p"))
    if "max_completion_tokens" in members:
        # They are two names of one member to the router.
        members.pop("max_tokens", None)
    if (penalty := members.pop("repetition_penalty", None)) is not None:
        members["presence_penalty"] = _as_presence_penalty(penalty)
    edits.messages(members)
    _history(members)
    return _tools(members)


def _as_presence_penalty(penalty: bytes) -> bytes:
    """Return the presence penalty of a chat that the router makes this repetition penalty of: it adds 2."""
    try:
        said = float(penalty)
    except ValueError:
        said = math.inf
    if not math.isfinite(said):
        raise edits.rejected("repetition_penalty", "a number is expected")
    return msgspec.json.encode(round(said - 2, 6))


def _completion(members: Members) -> None:
    if "logprobs" in members:
        raise edits.unsupported("logprobs", "the engine tells none for completions")


def _native(members: Members, model: str) -> bytes:
    """Return the body of the native protocol."""
    prompt = members.get("prompt", b"")
    if not prompt.startswith(b'"'):
        raise edits.rejected("prompt", "a text is expected")
    parameters = {name: members[name] for name in _SAME if name in members}
    for name, known_as in _RENAMED:
        if name in members:
            parameters[known_as] = members[name]
    # Zero means greedy sampling to OpenAI and is an error to TGI.
    greedy = parameters.get("temperature") in _ZERO
    if greedy:
        del parameters["temperature"]
    parameters["do_sample"] = b"false" if greedy else b"true"
    if model != "tgi":
        parameters["adapter_id"] = msgspec.json.encode(model)
    parameters["details"] = b"true"
    return rewrite.joined({"inputs": prompt, "parameters": rewrite.joined(parameters)})


_SAME = (
    *(
        "temperature",
        "top_p",
        "top_k",
        "typical_p",
        "repetition_penalty",
        "frequency_penalty",
        "seed",
        "stop",
    ),
)
_RENAMED = (("max_tokens", "max_new_tokens"), ("response_format", "grammar"))
_NATIVE = frozenset({"prompt", *_SAME, *(name for name, _ in _RENAMED)})
"""The members of a completion that have a place in the native protocol."""


# --- formats


def _format(wish: Any) -> dict[str, Any] | None:
    """Return a `response_format` in TGI's form; one that is not OpenAI's passes unchanged."""
    kind = wish.get("type") if isinstance(wish, dict) else None
    if kind == "text":
        return None
    if kind == "json_object" and "value" not in wish:
        return {"type": "regex", "value": ANY_OBJECT}
    if kind == "json_schema" and isinstance(wish.get("json_schema"), dict):
        said = wish["json_schema"]
        return {
            "type": "json_schema",
            "value": {name: said[name] for name in ("name", "schema") if name in said},
        }
    return dict(wish) if isinstance(wish, dict) else {"type": wish}


def _any_object() -> str:
    """Return the regular expression of a JSON object whose lists and objects contain no further ones.

    TGI has none for any object, and no expression could be one. It has 439 states; with one level more it has four
    times as many, which takes an engine many seconds to prepare.
    """
    space = r"[\n ]*"
    text = r'"([^"\\\x00-\x1F]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'
    plain = rf"{text}|-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false|null"

    def several(item: str, opening: str, closing: str) -> str:
        return rf"{opening}{space}({item}({space},{space}{item})*)?{space}{closing}"

    def fields(value: str) -> str:
        return several(rf"{text}{space}:{space}({value})", r"\{", r"\}")

    flat_list = several(f"({plain})", r"\[", r"\]")
    return fields(f"{plain}|{flat_list}|{fields(plain)}")


ANY_OBJECT = _any_object()


# --- tools and the calls of earlier turns


def _tools(members: Members) -> bool:
    """Put the tools of a chat right; return whether the answer is held to their grammar."""
    raw = members.get("tools")
    if raw is None:
        return False
    try:
        tools = _decode.decode(raw)
    except RecursionError:
        return True
    if tools == []:
        members.pop("tools")
        members.pop("tool_choice", None)
        return False
    changed = [_tool(tool) for tool in tools] if isinstance(tools, list) else tools
    if changed != tools:
        members["tools"] = msgspec.json.encode(changed)
    return members.get("tool_choice") != b'"none"'


def _tool(tool: Any) -> Any:
    """Return a tool whose function has parameters, without references."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or "arguments" in function:
        return tool
    parameters = function.get("parameters")
    if parameters is None:
        parameters = _NO_PARAMETERS
    if isinstance(parameters, dict):
        known = {
            f"#/{place}/{name}": schema
            for place in ("$defs", "definitions")
            if isinstance(parameters.get(place), dict)
            for name, schema in parameters[place].items()
        }
        if known:
            kept = {name: value for name, value in parameters.items() if name not in ("$defs", "definitions")}
            parameters = _in_place(kept, known, 0)
    return {**tool, "function": {**function, "parameters": parameters}}


def _in_place(schema: Any, known: dict[str, Any], depth: int) -> Any:
    """Return a schema in which what is referred to stands in the place of each reference.

    Raise RequestError for one that contains itself: the grammar of a tool has no references.
    """
    if depth > _DEEPEST:
        raise edits.unsupported("tools", "the engine knows no parameters that contain themselves")
    if isinstance(schema, list):
        return [_in_place(item, known, depth) for item in schema]
    if not isinstance(schema, dict):
        return schema
    target = schema.get("$ref")
    if isinstance(target, str) and target in known:
        found = _in_place(known[target], known, depth + 1)
        beside = {name: value for name, value in schema.items() if name != "$ref"}
        return {**found, **_in_place(beside, known, depth)} if isinstance(found, dict) else found
    return {name: _in_place(value, known, depth) for name, value in schema.items()}


def _history(members: Members) -> None:
    """Put the calls of earlier turns where TGI sees them: a message with any text loses its calls."""
    raw = members.get("messages", b"")
    if b'"tool_calls"' not in raw and b"null" not in raw:
        return
    try:
        messages = _decode.decode(raw)
    except RecursionError:
        return
    if isinstance(messages, list):
        changed = [_message(message) for message in messages]
        if changed != messages:
            members["messages"] = msgspec.json.encode(changed)


def _message(message: Any) -> Any:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return message
    content, calls = message.get("content"), message.get("tool_calls")
    rest = {name: value for name, value in message.items() if name not in ("content", "tool_calls")}
    if not calls:
        return {**rest, "content": "" if content is None else content}
    if not isinstance(calls, list):
        return message
    calls = [_call(call) for call in calls]
    if not content:
        return {**rest, "tool_calls": calls}
    if not isinstance(content, str):
        return message
    # The router writes calls into the prompt as JSON; beside a text they would be lost.
    return {**rest, "content": f"{content}\n{msgspec.json.encode(calls).decode()}"}


def _call(call: Any) -> Any:
    """Return a tool call whose arguments are an object: as text they would be escaped twice in the prompt."""
    function = call.get("function") if isinstance(call, dict) else None
    said = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(said, str):
        return call
    try:
        arguments = _decode.decode(said)
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call
