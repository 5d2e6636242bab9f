"""A request of OpenAI's Responses API, said as a chat completion.

Rules:
- The text of instructions, of system and of developer messages stands in one system message, at the beginning: most
  templates allow no other place, and know no developer.
- Calls in a row are one message; so are what the model thought before them and what it said.
- Items of earlier turns that only OpenAI's own service wrote are left out: clients send back what they received.
- Nothing is kept between requests: one that refers to an earlier response is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backends.base import Operation, Request
from backends.surfaces import foreword
from backends.surfaces.chat import content_of, thoughts, written
from backends.surfaces.places import Members, each, items, member, optional, text, wrong
from backends.surfaces.responses import content, included, tools
from backends.surfaces.surface import InvalidRequest
from backends.surfaces.translation import Said, said

_PASSED = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "user"),
    *("repetition_penalty", "chat_template_kwargs", "logit_bias", "ignore_eos", "priority", "stop"),
    "parallel_tool_calls",
)
"""Members that mean the same in a chat; beside those of the API, what engines take there."""
_READ = frozenset(
    {
        "model",
        "input",
        "instructions",
        "stream",
        "stream_options",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
    }
    | {"max_output_tokens", "top_logprobs", "include", *_PASSED}
)
_WITHOUT_EFFECT = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier"}
    | {"store", "client_metadata"}
)
"""Members that name or book a request."""
_KEPT: Mapping[str, str] = {
    "previous_response_id": "send the whole conversation as 'input'",
    "conversation": "send the whole conversation as 'input'",
    "prompt": "send its text as 'instructions' and 'input'",
}
"""Members that refer to what OpenAI's service has stored, and what to do without it."""
_EFFORTS: Mapping[str, str | None] = {
    "none": None,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
_SYSTEM = ("system", "developer")
_SEARCHES = ("tool_search_call", "tool_search_output")

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def chat(request: Request) -> Said:
    """Return a response request as a chat. Raise InvalidRequest where something in it is wrong."""
    body = _decode(request.body)
    _refuse_kept(body)
    dropped: list[str] = []
    made: dict[str, Any] = {"messages": messages(body)}
    made |= {name: body[name] for name in _PASSED if body.get(name) is not None}
    most = optional(body, "max_output_tokens", "", int, "a whole number")
    if most is not None:
        made["max_tokens"] = most
    made |= tools.chosen(body, dropped)
    made |= _reasoning(body)
    made |= included.asked(body, dropped)
    made |= _form(body, dropped)
    if "tools" not in made:
        made.pop("parallel_tool_calls", None)
    usual = {"truncation": "disabled", "background": False}
    dropped += [
        name
        for name, value in body.items()
        if name not in _READ and name not in _WITHOUT_EFFECT and value and value != usual.get(name)
    ]
    return said(request, Operation.CHAT, made, dropped)


def _refuse_kept(body: Members) -> None:
    for name, instead in _KEPT.items():
        if body.get(name) is not None:
            raise wrong(name, f"this model's engines keep no responses: {instead}")
    if body.get("background"):
        raise wrong(
            "background", "only a gateway with a store (`server.data`) makes responses in the background"
        )


def messages(body: Members) -> list[Members]:
    """Return the messages of a chat for the input of a request, its system text first."""
    system = [optional(body, "instructions", "", str, "a text") or ""]
    said = body.get("input")
    if isinstance(said, str):
        made: list[Members] = [{"role": "user", "content": said}]
    elif isinstance(said, list):
        made = _conversation(each(said, "input"), system)
    elif said is None:
        raise InvalidRequest("'input' is missing", param="input", code="missing_field")
    else:
        raise wrong("input", "expected a text or a list of items")
    told = "\n\n".join([one for one in system if one])
    if not made and not told:
        raise wrong("input", "nothing is said in it")
    return [{"role": "system", "content": told}, *made] if told else made


def _conversation(found: list[tuple[str, Members]], system: list[str]) -> list[Members]:
    made: list[Members] = []
    for place, item in found:
        kind = optional(item, "type", place, str, "a text") or "message"
        if kind == "message":
            _message(item, place, made, system)
        elif kind in ("function_call", "custom_tool_call"):
            answer = _answering(made)
            answer.setdefault("tool_calls", []).append(_call(item, place, kind))
        elif kind in _SEARCHES and item.get("execution") == "client":
            _search(item, place, kind, made)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            _result(item, place, made)
        elif kind == "reasoning" and not foreword.is_item(item):
            _thought(item, place, made)
        elif kind == "item_reference":
            raise wrong(
                place,
                "this model's engines keep no items: send the item itself, or have the gateway keep them",
            )
    return made


def _answering(made: list[Members]) -> Members:
    """Return the model's message that an item belongs to: the last one, or a new one."""
    if not made or made[-1]["role"] != "assistant":
        made.append({"role": "assistant", "content": None})
    return made[-1]


def _message(item: Members, place: str, made: list[Members], system: list[str]) -> None:
    role = text(item, "role", place)
    if role in _SYSTEM:
        system.append(content.plain(item, place))
    elif role == "assistant":
        said = content.plain(item, place)
        if said:
            answer = _answering(made)
            answer["content"] = (answer["content"] or "") + said
    elif role == "user":
        parts = content.parts(item, place)
        if parts:
            made.append({"role": "user", "content": content_of(parts)})
    else:
        raise wrong(f"{place}.role", "expected user, assistant, system or developer")


def _call(item: Members, place: str, kind: str) -> Members:
    if kind == "custom_tool_call":
        arguments = msgspec.json.encode({tools.INPUT: text(item, "input", place)}).decode()
    else:
        arguments = written(text(item, "arguments", place))
    namespace = optional(item, "namespace", place, str, "a text")
    return _calling(item, place, tools.called(text(item, "name", place), namespace), arguments)


def _calling(item: Members, place: str, name: str, arguments: str) -> Members:
    function = {"name": name, "arguments": arguments}
    return {"id": text(item, "call_id", place), "type": "function", "function": function}


def _search(item: Members, place: str, kind: str, made: list[Members]) -> None:
    """Add a search for tools that the client ran, or what it found: the tools are those of the request then."""
    if kind == "tool_search_call":
        asked = msgspec.json.encode(optional(item, "arguments", place, dict, "an object") or {}).decode()
        _answering(made).setdefault("tool_calls", []).append(_calling(item, place, tools.SEARCH, asked))
        return
    found = ", ".join(tools.brought(item, place))
    told = f"These tools can be called now: {found}" if found else "No tool was found."
    made.append({"role": "tool", "tool_call_id": text(item, "call_id", place), "content": told})


def _result(item: Members, place: str, made: list[Members]) -> None:
    """Add the result of a call; its images follow as the user's, since results are text for most engines."""
    said = member(item, "output", place, object, "a text or a list of parts")
    parts = content.parts({"content": said}, place, "output")
    told = "\n".join([part["text"] for part in parts if part["type"] == "text"])
    pictures = [part for part in parts if part["type"] != "text"]
    if pictures and not told:
        told = "The result is an image, which follows."
    made.append({"role": "tool", "tool_call_id": text(item, "call_id", place), "content": told})
    if pictures:
        made.append({"role": "user", "content": pictures})


def _thought(item: Members, place: str, made: list[Members]) -> None:
    """Add what the model thought, in its own words if it told them, else as it summed them up."""
    told = [
        "".join([text(part, "text", at) for at, part in each(items(item, name, place), f"{place}.{name}")])
        for name in ("content", "summary")
    ]
    thought = told[0] or included.decoded(item.get("encrypted_content")) or told[1]
    if thought:
        if made and made[-1]["role"] == "assistant" and made[-1].get("tool_calls"):
            made.append({"role": "assistant", "content": None})
        answer = _answering(made)
        answer |= thoughts(answer.get("reasoning", "") + thought)


def _reasoning(body: Members) -> dict[str, Any]:
    """Return how hard to think."""
    wish = optional(body, "reasoning", "", dict, "an object") or {}
    effort = optional(wish, "effort", "reasoning", str, "a text")
    if effort is None:
        return {}
    if effort not in _EFFORTS:
        raise wrong("reasoning.effort", f"expected one of {', '.join(_EFFORTS)}")
    told = _EFFORTS[effort]
    if told is not None:
        return {"reasoning_effort": told}
    given = optional(body, "chat_template_kwargs", "", dict, "an object") or {}
    return {"chat_template_kwargs": {"enable_thinking": False} | given}


def _form(body: Members, dropped: list[str]) -> dict[str, Any]:
    """Return the form of the answer."""
    config = optional(body, "text", "", dict, "an object") or {}
    if config.get("verbosity") not in (None, "medium"):
        dropped.append("verbosity")
    form = optional(config, "format", "text", dict, "an object")
    if form is None:
        return {}
    kind = text(form, "type", "text.format")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if kind != "json_schema":
        raise wrong("text.format.type", "expected text, json_object or json_schema")
    member(form, "schema", "text.format", dict, "an object")
    told = {
        name: form[name] for name in ("name", "description", "schema", "strict") if form.get(name) is not None
    }
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer"} | told}}
