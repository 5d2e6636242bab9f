"""The tools of a request of OpenAI's Responses API, said in chat.

Rules:
- A custom tool, whose input is free text (Codex's `apply_patch` is one), is a function with one text; its calls become
  calls of the custom tool again.
- Tools that OpenAI's own service runs are left out and named; a request that forces one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from backends.surfaces.places import Members, each, items, optional, text, wrong

INPUT = "input"
"""The member of a function's arguments that holds the input of a custom tool."""


def chosen(body: Members, dropped: list[str]) -> dict[str, Any]:
    """Return `tools` and `tool_choice` of a chat; add to `dropped` what cannot be said."""
    made, foreign = [], set()
    for place, tool in each(items(body, "tools", ""), "tools"):
        kind = text(tool, "type", place)
        if kind == "function":
            made.append(_function(tool, place))
        elif kind == "custom":
            made.append(_custom(tool, place))
        else:
            dropped.append(kind)
            foreign.add(kind)
    found: dict[str, Any] = {"tools": made} if made else {}
    choice = body.get("tool_choice")
    if choice is None:
        return found
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise wrong("tool_choice", "expected auto, none, required or an object")
        if choice == "required" and not made:
            raise wrong("tool_choice", "there is no tool that this model's engines could be made to call")
        return found | ({"tool_choice": choice} if made else {})
    return found | _forced(optional(body, "tool_choice", "", dict, "a text or an object"), found, foreign)


def _forced(choice: Members, found: dict[str, Any], foreign: set[str]) -> dict[str, Any]:
    kind = text(choice, "type", "tool_choice")
    if kind in ("function", "custom"):
        name = text(choice, "name", "tool_choice")
        return {"tool_choice": {"type": "function", "function": {"name": name}}}
    if kind == "allowed_tools":
        allowed = each(items(choice, "tools", "tool_choice"), "tool_choice.tools")
        names = [tool.get("name") for _, tool in allowed]
        kept = [tool for tool in found.get("tools", ()) if tool["function"]["name"] in names]
        if not kept:
            raise wrong("tool_choice.tools", "none of these is a tool of the request")
        mode = optional(choice, "mode", "tool_choice", str, "a text") or "auto"
        if mode not in ("auto", "required"):
            raise wrong("tool_choice.mode", "expected auto or required")
        return {"tools": kept, "tool_choice": mode}
    known = "it is left out" if kind in foreign else "it is no tool of the request"
    raise wrong("tool_choice.type", f"{kind!r} cannot be forced: {known}")


def _function(tool: Members, place: str) -> Members:
    function: Members = {"name": text(tool, "name", place)}
    for name, kind, called in (("description", str, "a text"), ("strict", bool, "true or false")):
        told = optional(tool, name, place, kind, called)
        function |= {} if told is None else {name: told}
    taken = optional(tool, "parameters", place, dict, "an object")
    function["parameters"] = taken or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _custom(tool: Members, place: str) -> Members:
    told = [optional(tool, "description", place, str, "a text") or ""]
    form = optional(tool, "format", place, dict, "an object") or {}
    if form.get("definition"):
        told.append(
            f"The input must fit this {form.get('syntax') or 'grammar'} grammar:\n{form['definition']}"
        )
    function = {
        "name": text(tool, "name", place),
        "description": "\n\n".join([one for one in told if one]),
        "parameters": {
            "type": "object",
            "properties": {INPUT: {"type": "string", "description": "The input of the tool, as plain text."}},
            "required": [INPUT],
            "additionalProperties": False,
        },
    }
    return {"type": "function", "function": function}


def custom_names(found: Any) -> frozenset[str]:
    """Return the names of the custom tools among the tools of a request."""
    tools: Iterable[Any] = found if isinstance(found, list) else ()
    named = [tool.get("name") for tool in tools if isinstance(tool, dict) and tool.get("type") == "custom"]
    return frozenset(name for name in named if isinstance(name, str))
