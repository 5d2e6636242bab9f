"""A request of Anthropic's Messages API, said as a chat completion.

Rules:
- The text of all system messages stands in one, at the beginning: most templates allow no other place.
- Results of tools stand directly behind the calls, before what the user says in the same turn.
- Tools that Anthropic's own service defines or runs are left out and named; a request that forces one is refused.
- What is left out and could have changed the answer is named; what only names or books the request is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backends.base import Operation, Request
from backends.surfaces import foreword
from backends.surfaces.anthropic import content
from backends.surfaces.chat import answered_before, by_schema, content_of, written
from backends.surfaces.places import Members, each, items, member, optional, text, wrong
from backends.surfaces.translation import Said, said

_PASSED = (
    *(
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "presence_penalty",
        "frequency_penalty",
    ),
    *(
        "repetition_penalty",
        "chat_template_kwargs",
        "reasoning_effort",
        "logit_bias",
        "ignore_eos",
        "priority",
    ),
    *("min_tokens", "keep_alive", "user"),
)
"""Members that mean the same in a chat; beside Anthropic's own, what engines take there."""
_READ = frozenset(
    {"model", "messages", "system", "stream", "stop_sequences", "tools", "tool_choice", "thinking"}
    | {"output_config", "output_format", "metadata", *_PASSED}
)
_WITHOUT_EFFECT = frozenset(
    {
        "cache_control",
        "service_tier",
        "inference_geo",
        "speed",
        "diagnostics",
        "user_profile_id",
        "workspace_id",
    }
    | {"anthropic_version", "anthropic_beta", "betas"}
)
"""Members that name or book a request, or ask for a place or a price."""
_EFFORTS: Mapping[str, str] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
_BILLING = "x-anthropic-billing-header:"
_OWN_TOOLS = ("custom", None)

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def chat(request: Request) -> Said:
    """Return a message request as a chat. Raise InvalidRequest where something in it is wrong."""
    body = _decode(request.body)
    dropped: list[str] = []
    made: dict[str, Any] = {"messages": messages(body)}
    made |= {name: body[name] for name in _PASSED if body.get(name) is not None}
    member(body, "max_tokens", "", int, "a whole number")
    if stops := _stops(body):
        made["stop"] = stops
    made |= tools(body, dropped)
    made |= thinking(body)
    if (body.get("thinking") or {}).get("budget_tokens"):
        dropped.append("budget_tokens")
    made |= _output(body, dropped)
    user = (optional(body, "metadata", "", dict, "an object") or {}).get("user_id")
    if isinstance(user, str) and user:
        made.setdefault("user", user)
    dropped += [name for name in body if name not in _READ and name not in _WITHOUT_EFFECT and body[name]]
    return said(request, Operation.CHAT, made, dropped)


def _stops(body: Members) -> list[Any]:
    found = items(body, "stop_sequences", "")
    for number, one in enumerate(found):
        if not isinstance(one, str):
            raise wrong(f"stop_sequences.{number}", "expected a text")
    return found


def messages(body: Members) -> list[Members]:
    """Return the messages of a chat for those of a request, its system text first."""
    system = []
    if body.get("system") is not None:
        system.append(content.plain(_without_billing(content.blocks(body, "system", "")), "\n"))
    made: list[Members] = []
    for place, message in each(items(body, "messages", ""), "messages"):
        role = text(message, "role", place)
        if role == "user":
            _user(message, place, made)
        elif role == "assistant":
            _assistant(message, place, made)
        elif role == "system":
            system.append(content.plain(content.blocks(message, "content", place), "\n"))
        else:
            raise wrong(f"{place}.role", "expected user, assistant or system")
    told = "\n\n".join([one for one in system if one])
    if not made and not told:
        raise wrong("messages", "nothing is said in them")
    return [{"role": "system", "content": told}, *made] if told else made


def _without_billing(found: list[tuple[str, Members]]) -> list[tuple[str, Members]]:
    """Return the blocks of a system text without the line by which Anthropic books a request.

    Claude Code (2.1) begins with it. It differs between conversations, so engines could share no beginning of a prompt.
    """
    return [(at, block) for at, block in found if not str(block.get("text")).startswith(_BILLING)]


def _user(message: Members, place: str, made: list[Members]) -> None:
    """Add what a user says, and before it the results of tools in the same turn."""
    said: list[tuple[str, Members]] = []
    pictures: list[content.Part] = []
    for at, block in content.blocks(message, "content", place):
        if content.kind_of(block, at) == "tool_result":
            answer, images = content.result(block, at)
            made.append(answer)
            pictures += images
        else:
            said.append((at, block))
    parts = pictures + content.parts(said)
    if not parts:
        return
    if made and made[-1]["role"] == "user":
        parts = _parts(made.pop()["content"]) + parts
    made.append({"role": "user", "content": content_of(parts)})


def _parts(said: Any) -> list[content.Part]:
    return [{"type": "text", "text": said}] if isinstance(said, str) else said


def _assistant(message: Members, place: str, made: list[Members]) -> None:
    """Add an earlier answer: its thoughts, its text and its calls."""
    said, thinks = [], []
    calls: list[Members] = []
    for at, block in content.blocks(message, "content", place):
        kind = content.kind_of(block, at)
        if kind == "text":
            said.append(text(block, "text", at))
        elif kind == "thinking":
            if block.get("signature") != foreword.SIGNATURE:
                thinks.append(text(block, "thinking", at))
        elif kind == "tool_use":
            calls.append(_call(block, at))
        elif kind not in content.FOREIGN:
            raise wrong(f"{at}.type", "expected text, thinking or tool_use")
    made += answered_before("".join(said), "".join(thinks), calls)


def _call(block: Members, place: str) -> Members:
    function = {
        "name": text(block, "name", place),
        "arguments": written(block.get("input")),
    }
    return {"id": text(block, "id", place), "type": "function", "function": function}


def tools(body: Members, dropped: list[str]) -> dict[str, Any]:
    """Return `tools`, `tool_choice` and `parallel_tool_calls`; add to `dropped` what cannot be said."""
    made: list[Members] = []
    foreign: list[Any] = []
    for place, tool in each(items(body, "tools", ""), "tools"):
        kind = optional(tool, "type", place, str, "a text")
        if kind not in _OWN_TOOLS:
            dropped.append(kind)
            foreign += (kind, tool.get("name"))
            continue
        function: Members = {"name": text(tool, "name", place)}
        if told := optional(tool, "description", place, str, "a text"):
            function["description"] = told
        taken = optional(tool, "input_schema", place, dict, "an object")
        function["parameters"] = taken or {"type": "object", "properties": {}}
        strict = optional(tool, "strict", place, bool, "true or false")
        if strict is not None:
            function["strict"] = strict
        made.append({"type": "function", "function": function})
    choice = optional(body, "tool_choice", "", dict, "an object") or {}
    kind = text(choice, "type", "tool_choice") if choice else "auto"
    chosen: dict[str, Any] = {"tools": made} if made else {}
    if choice.get("disable_parallel_tool_use") and made:
        chosen["parallel_tool_calls"] = False
    if kind == "tool":
        name = text(choice, "name", "tool_choice")
        if name in foreign:
            raise wrong("tool_choice.name", f"{name!r} is a tool that only Anthropic's own service has")
        chosen["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind == "any" and not made:
        raise wrong("tool_choice", "there is no tool that this model's engines could be made to call")
    elif kind == "any":
        chosen["tool_choice"] = "required"
    elif kind not in ("auto", "none"):
        raise wrong("tool_choice.type", "expected auto, any, tool or none")
    elif made and choice:
        chosen["tool_choice"] = kind
    return chosen


def thinking(body: Members) -> dict[str, Any]:
    """Return what switches thinking on or off, in the form that templates read."""
    wish = optional(body, "thinking", "", dict, "an object")
    if wish is None:
        return {}
    kind = text(wish, "type", "thinking")
    if kind not in ("enabled", "adaptive", "disabled", "between_tools"):
        raise wrong("thinking.type", "expected enabled, adaptive or disabled")
    told = optional(body, "chat_template_kwargs", "", dict, "an object") or {}
    return {"chat_template_kwargs": {"enable_thinking": kind != "disabled"} | told}


def _output(body: Members, dropped: list[str]) -> dict[str, Any]:
    """Return how hard to think and in which form to answer."""
    made: dict[str, Any] = {}
    config = optional(body, "output_config", "", dict, "an object") or {}
    effort = optional(config, "effort", "output_config", str, "a text")
    if effort is not None:
        if effort not in _EFFORTS:
            raise wrong("output_config.effort", f"expected one of {', '.join(_EFFORTS)}")
        made["reasoning_effort"] = _EFFORTS[effort]
    form, place = config.get("format"), "output_config.format"
    if form is None:
        form, place = body.get("output_format"), "output_format"
    if form is not None:
        if not isinstance(form, dict) or form.get("type") != "json_schema":
            raise wrong(place, "expected an object of the type json_schema")
        schema = member(form, "schema", place, dict, "an object")
        made["response_format"] = by_schema(schema)
    dropped += [f"output_config_{name}" for name in config if name not in ("effort", "format")]
    return made
