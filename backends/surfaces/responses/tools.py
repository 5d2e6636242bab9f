"""The tools of a request of OpenAI's Responses API, said in chat, and which of them a call is of.

Rules:
- A custom tool, whose input is free text (Codex's `apply_patch` is one), is a function with one text; its calls become
  calls of the custom tool again.
- A tool within a namespace, as Codex offers those of MCP servers, is a function whose name begins with the namespace's;
  its calls tell the two apart again. A search for tools that the client runs is a function too.
- Tools that items of the conversation bring, such as those that a search has found, are tools of the request.
- Tools that OpenAI's own service runs are left out and named; a request that forces one is refused.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from backends.surfaces.places import Members, each, items, optional, text, wrong

INPUT = "input"
"""The member of a function's arguments that holds the input of a custom tool."""
FUNCTION: Final = "function"
CUSTOM: Final = "custom"
SEARCH: Final = "tool_search"
"""With the two above: the types of tools that a client runs."""
_BRINGING = ("additional_tools", "tool_search_output")
"""The types of items that bring tools."""
_BETWEEN = "__"


class Tool(NamedTuple):
    """A tool that the client runs."""

    kind: str
    name: str
    namespace: str
    """What groups it with others; empty if nothing does."""
    place: str
    told: Members
    """What the client says of it."""
    about: str
    """What the client says of the namespace; for its first tool, empty for others."""


def called(name: str, namespace: str | None) -> str:
    """Return the name that a tool has in a chat, where nothing groups functions."""
    if not namespace:
        return name
    return f"{namespace.removesuffix(_BETWEEN)}{_BETWEEN}{name}"


def offered(body: Members) -> tuple[dict[str, Tool], list[str]]:
    """Return the tools that the client runs, by their names in a chat, and the types of all others."""
    return _sorted(_all(body))


def brought(item: Members, place: str) -> list[str]:
    """Return the names in the chat of the tools that an item brings."""
    return list(_sorted(each(items(item, "tools", place), f"{place}.tools"))[0])


def _sorted(tools: list[tuple[str, Members]]) -> tuple[dict[str, Tool], list[str]]:
    found: dict[str, Tool] = {}
    foreign: list[str] = []
    for place, tool in tools:
        if tool.get("type") != "namespace":
            _offer(found, foreign, Tool("", "", "", place, tool, ""))
            continue
        namespace = text(tool, "name", place)
        about = optional(tool, "description", place, str, "a text") or ""
        for at, one in each(items(tool, "tools", place), f"{place}.tools"):
            _offer(found, foreign, Tool("", "", namespace, at, one, about))
            about = ""
    return found, foreign


def _all(body: Members) -> list[tuple[str, Members]]:
    """Return the tools of a request and of its conversation, with their places."""
    found = each(items(body, "tools", ""), "tools")
    said = body.get("input")
    for place, item in each(said, "input") if isinstance(said, list) else ():
        if item.get("type") in _BRINGING:
            found += each(items(item, "tools", place), f"{place}.tools")
    return found


def _offer(found: dict[str, Tool], foreign: list[str], tool: Tool) -> None:
    """Add a tool to those that the client runs or, if it runs it not, its type to the `foreign` ones."""
    kind = text(tool.told, "type", tool.place)
    if kind == SEARCH and tool.told.get("execution") == "client":
        name = SEARCH
    elif kind in (FUNCTION, CUSTOM):
        name = text(tool.told, "name", tool.place)
    else:
        foreign.append(kind)
        return
    tool = tool._replace(kind=kind, name=name)
    known = found.setdefault(called(name, tool.namespace), tool)
    if known[:3] != tool[:3]:
        raise wrong(tool.place, f"this model's engines cannot tell it from the tool at '{known.place}'")


def chosen(body: Members, dropped: list[str]) -> dict[str, Any]:
    """Return `tools` and `tool_choice` of a chat; add to `dropped` what cannot be said."""
    tools, foreign = offered(body)
    dropped += foreign
    made = {name: _function(name, tool) for name, tool in tools.items()}
    found: dict[str, Any] = {"tools": list(made.values())} if made else {}
    choice = body.get("tool_choice")
    if choice is None:
        return found
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise wrong("tool_choice", "expected auto, none, required or an object")
        if choice == "required" and not made:
            raise wrong("tool_choice", "there is no tool that this model's engines could be made to call")
        return found | ({"tool_choice": choice} if made else {})
    wish = optional(body, "tool_choice", "", dict, "a text or an object")
    if text(wish, "type", "tool_choice") != "allowed_tools":
        return found | {"tool_choice": _forced(wish, tools, foreign)}
    allowed = [one for _, one in each(items(wish, "tools", "tool_choice"), "tool_choice.tools")]
    kept = [made[name] for name, tool in tools.items() if any(_is_meant(one, name, tool) for one in allowed)]
    if not kept:
        raise wrong("tool_choice.tools", "none of these is a tool of the request")
    mode = optional(wish, "mode", "tool_choice", str, "a text") or "auto"
    if mode not in ("auto", "required"):
        raise wrong("tool_choice.mode", "expected auto or required")
    return {"tools": kept, "tool_choice": mode}


def _forced(choice: Members, tools: dict[str, Tool], foreign: list[str]) -> Members:
    kind = choice["type"]
    name = SEARCH
    if kind in (FUNCTION, CUSTOM):
        name = text(choice, "name", "tool_choice")
        if name not in tools:
            name = next((known for known, tool in tools.items() if _is_meant(choice, known, tool)), name)
    elif kind != SEARCH or SEARCH not in tools:
        known = "it is left out" if kind in foreign else "it is no tool of the request"
        raise wrong("tool_choice.type", f"{kind!r} cannot be forced: {known}")
    return {"type": "function", "function": {"name": name}}


def _is_meant(choice: Members, name: str, tool: Tool) -> bool:
    """Tell whether a choice names a tool, which is called `name` in the chat, or all of its namespace."""
    kind, told = choice.get("type"), choice.get("name")
    if kind == "namespace":
        return bool(tool.namespace) and told == tool.namespace
    if kind == SEARCH:
        return tool.kind == SEARCH
    return told in (tool.name, name) and choice.get("namespace") in (None, tool.namespace)


def _function(name: str, tool: Tool) -> Members:
    """Return a tool as a function of a chat."""
    told, place = tool.told, tool.place
    described = [tool.about, optional(told, "description", place, str, "a text") or ""]
    function: Members = {"name": name}
    if tool.kind == CUSTOM:
        form = optional(told, "format", place, dict, "an object") or {}
        if form.get("definition"):
            syntax = form.get("syntax") or "grammar"
            described.append(f"The input must fit this {syntax} grammar:\n{form['definition']}")
        function["parameters"] = _free_text()
    else:
        strict = optional(told, "strict", place, bool, "true or false")
        function |= {} if strict is None else {"strict": strict}
        taken = optional(told, "parameters", place, dict, "an object")
        function["parameters"] = taken or {"type": "object", "properties": {}}
    description = "\n\n".join([one for one in described if one])
    return {"type": "function", "function": function | ({"description": description} if description else {})}


def _free_text() -> Members:
    """Return the parameters of a custom tool."""
    return {
        "type": "object",
        "properties": {INPUT: {"type": "string", "description": "The input of the tool, as plain text."}},
        "required": [INPUT],
        "additionalProperties": False,
    }
