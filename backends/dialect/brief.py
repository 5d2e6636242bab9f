"""A streamed request as the same question put briefly: for a whole answer of one token, to learn why it was refused.

Rules:
- Engines tell a refusal with its status and its words where the whole answer waits for it; in a stream some of them
  only break off.
- Nothing else is changed, but for what one token makes wrong: no least number of tokens, and room for the thoughts that
  were asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from backends.base import Operation, Request
from backends.dialect import rewrite

_LIMITS: Final[Mapping[Operation, tuple[str, ...]]] = {
    Operation.CHAT: ("max_completion_tokens", "max_tokens"),
    Operation.COMPLETIONS: ("max_tokens",),
    Operation.RESPONSES: ("max_output_tokens",),
    Operation.MESSAGES: ("max_tokens",),
}
"""The members that limit an answer; the last one is set where a request has none of them."""
_STREAMING: Final = ("stream", "stream_options", "min_tokens", "min_new_tokens")


class _Thinking(msgspec.Struct):
    budget_tokens: int = 0


_thinking = msgspec.json.Decoder(_Thinking | None)


def asked_briefly(request: Request) -> Request | None:
    """Return the request for a whole answer of one token; None for operations without such a limit."""
    limits = _LIMITS.get(request.operation)
    if limits is None:
        return None
    members = rewrite.members(request.body)
    for name in _STREAMING:
        members.pop(name, None)
    most = b"%d" % (1 + _thoughts(members.get("thinking", b"null")))
    given = [name for name in limits if name in members]
    for name in given or limits[-1:]:
        members[name] = most
    return msgspec.structs.replace(
        request, body=rewrite.joined(members), stream=False, stream_options=False, include_usage=False
    )


def _thoughts(thinking: bytes) -> int:
    """Return how many tokens a Message may think: its limit must be larger."""
    try:
        said = _thinking.decode(thinking)
    except (ValueError, RecursionError):
        return 0
    return max(0, said.budget_tokens) if said is not None else 0
