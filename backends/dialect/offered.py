"""Whether a request offers tools that engines of one's own do not run, and a translation can say or leave out.

Facts: vLLM 0.33 refuses a message with a tool that has no `input_schema`, as those have none that Anthropic's service
runs, and a custom tool with a grammar (Codex's `apply_patch`) in its Responses API; there it drops `web_search` without
a word. LMDeploy 0.18 drops every tool of the Responses API that is no function.

Rules:
- What cannot be read is left for others to refuse. So is what goes on with a response that only the engine keeps.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from backends.base import Operation, Request

_MEMBER: Final = b'"tools"'
_OWN: Final = {
    Operation.MESSAGES: "custom",
    Operation.COUNT_TOKENS: "custom",
    Operation.RESPONSES: "function",
    Operation.INPUT_TOKENS: "function",
}
"""The type of the tools that the client of an operation runs, and every engine knows."""
_OF_RESPONSES: Final = (Operation.RESPONSES, Operation.INPUT_TOKENS)
_ITEMS: Final = (
    b'"custom_tool_call"',
    b'"custom_tool_call_output"',
    b'"tool_search_call"',
    b'"tool_search_output"',
    b'"additional_tools"',
)
"""The types of items in which a conversation uses such tools, or brings them."""


class _Tool(msgspec.Struct):
    type: Any = None


class _Offering(msgspec.Struct):
    tools: list[_Tool] | None = None
    previous_response_id: Any = None


_offering: Final = msgspec.json.Decoder(_Offering)


def others(request: Request, run: frozenset[str]) -> bool:
    """Tell whether a request has other tools than those that its client runs and every engine knows.

    `run` are the types of tools of the Responses API that the engine may run itself.
    """
    own, body = _OWN.get(request.operation), request.body
    if own is None:
        return False
    uses = request.operation in _OF_RESPONSES and any(mark in body for mark in _ITEMS)
    if not uses and _MEMBER not in body:
        return False
    try:
        found = _offering.decode(body)
    except (ValueError, RecursionError):
        return False
    if found.previous_response_id is not None:
        return False
    return uses or any(
        isinstance(tool.type, str) and tool.type != own and tool.type not in run for tool in found.tools or ()
    )
