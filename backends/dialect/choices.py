"""How many choices a completion must have: `n` for each prompt.

Rules:
- An answer with fewer is not what was asked for, streamed or whole: the engine ignores `n`, or lost a choice.
- An engine that ignores `n` is no broken engine: that says that it cannot do it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from backends.base import Failure, Kind, Operation, Request

MOST_COUNTED: Final = 1 << 20
"""The most bytes of prompts that are counted. An answer to more of them may have any number of choices."""


class _Asked(msgspec.Struct):
    prompt: msgspec.Raw = msgspec.Raw()


_asked = msgspec.json.Decoder(_Asked)
_list = msgspec.json.Decoder(list[msgspec.Raw])


def wanted(request: Request) -> int:
    """Return how many choices the answer to a chat or a completion must have."""
    if request.operation is not Operation.COMPLETIONS or b"[" not in request.body:
        return request.choices
    try:
        prompts = bytes(_asked.decode(request.body).prompt)
        if len(prompts) <= MOST_COUNTED and prompts[1:].lstrip()[:1] in (b'"', b"["):
            return request.choices * len(_list.decode(prompts))
    except (ValueError, RecursionError):
        pass
    return request.choices


def too_few() -> Failure:
    """Return the failure of an answer that ended well, with fewer choices than asked for."""
    message = "the engine answered with fewer choices than were asked for: it may know no 'n'"
    return Failure(Kind.UNSUPPORTED, message, param="n")
