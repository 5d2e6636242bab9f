"""The tools of Google's requests as those of OpenAI's chat, and how far a model is made to call them.

Rules:
- Tools that Google's own service runs (`googleSearch`, `codeExecution`, `urlContext`) are left out and named; a request
  that forces a call and has no others is refused.
- Where only some functions may be called, only these are offered: a chat can force one function by its name, or any.
"""

from __future__ import annotations

from typing import Final

from backends.surfaces.gemini.fields import inner, several
from backends.surfaces.gemini.schema import json_schema
from backends.surfaces.places import Members, items, optional, text, wrong

_CONFIG: Final = "toolConfig.functionCallingConfig"
_FREE: Final = ("AUTO", "VALIDATED", "MODE_UNSPECIFIED")


def tools(body: Members, dropped: list[str]) -> Members:
    """Return `tools` and `tool_choice`; add to `dropped` what cannot be said."""
    made: list[Members] = []
    for place, tool in several(body, "tools", ""):
        made += [_function(one, at) for at, one in several(tool, "functionDeclarations", place)]
        dropped += [
            name for name, value in tool.items() if name != "functionDeclarations" and value is not None
        ]
    whole = inner(body, "toolConfig", "") or {}
    dropped += [name for name, value in whole.items() if name != "functionCallingConfig" and value]
    config = inner(whole, "functionCallingConfig", "toolConfig") or {}
    mode = (optional(config, "mode", _CONFIG, str, "a text") or "AUTO").upper()
    allowed = items(config, "allowedFunctionNames", _CONFIG)
    if mode == "NONE":
        return {"tools": made, "tool_choice": "none"} if made else {}
    if mode in _FREE:
        return {"tools": made} if made else {}
    if mode != "ANY":
        raise wrong(f"{_CONFIG}.mode", "expected AUTO, ANY, VALIDATED or NONE")
    return _forced(made, allowed)


def _forced(made: list[Members], allowed: list[object]) -> Members:
    if allowed:
        offered = [tool["function"]["name"] for tool in made]
        for number, name in enumerate(allowed):
            if name not in offered:
                raise wrong(
                    f"{_CONFIG}.allowedFunctionNames.{number}", "there is no such function in 'tools'"
                )
        made = [tool for tool in made if tool["function"]["name"] in allowed]
    if not made:
        raise wrong(_CONFIG, "there is no tool that this model's engines could be made to call")
    if allowed and len(made) == 1:
        return {"tools": made, "tool_choice": {"type": "function", "function": {"name": allowed[0]}}}
    return {"tools": made, "tool_choice": "required"}


def _function(declared: Members, place: str) -> Members:
    function: Members = {"name": text(declared, "name", place)}
    if told := optional(declared, "description", place, str, "a text"):
        function["description"] = told
    given = optional(declared, "parametersJsonSchema", place, dict, "an object")
    if given is None:
        taken = optional(declared, "parameters", place, dict, "an object")
        given = None if taken is None else json_schema(taken, f"{place}.parameters")
    function["parameters"] = given or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}
