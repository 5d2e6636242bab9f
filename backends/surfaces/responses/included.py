"""What a client of the Responses API wants to be told beside the answer: `include`, as far as a chat has it.

Facts: `ResponseIncludable` of OpenAI's Python SDK 3.52. A client that has nothing stored sends `reasoning` items
back with their `encrypted_content`, and some (Vercel's AI SDK) send nothing else of them.

Rules:
- `message.output_text.logprobs` are the log probabilities of the chat. `reasoning.encrypted_content` are the thoughts
  themselves, encoded: they are told in plain words beside it, so nothing has to be kept secret in it.
- All others are results of tools that OpenAI's service runs and of pictures, of which answers here have none.
- A value that OpenAI does not know is a mistake of the client's, as it is there.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, NamedTuple

from backends.surfaces.places import Members, items, optional, wrong

LOGPROBS: Final = "message.output_text.logprobs"
THOUGHTS: Final = "reasoning.encrypted_content"
_KNOWN: Final = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    THOUGHTS,
    LOGPROBS,
)
_MOST: Final = 20
"""The most alternatives of a token that OpenAI tells."""
_MARK: Final = "thought-1."
"""How thoughts that were encoded here begin; the number is that of the encoding."""


class Included(NamedTuple):
    """What is told beside an answer."""

    logprobs: bool = False
    thoughts: bool = False


def wanted(body: Members) -> Included:
    """Return what a request wants. Raise InvalidRequest for a value that the API does not know."""
    found = items(body, "include", "")
    for number, value in enumerate(found):
        if value not in _KNOWN:
            raise wrong(f"include.{number}", f"expected one of {', '.join(_KNOWN)}")
    return Included(LOGPROBS in found, THOUGHTS in found)


def asked(body: Members, dropped: list[str]) -> Members:
    """Return what a chat is asked for, for that; add to `dropped` what has no effect."""
    most = optional(body, "top_logprobs", "", int, "a whole number") or 0
    if not 0 <= most <= _MOST:
        raise wrong("top_logprobs", f"expected a number from 0 to {_MOST}")
    if not wanted(body).logprobs:
        dropped += ["top_logprobs"] if most else []
        return {}
    return {"logprobs": True, "top_logprobs": most}


def logprobs_of(found: list[Members]) -> list[Members]:
    """Return the log probabilities of a chat's choice, or of a piece of it, as a response has them."""
    return [_token(one) | {"top_logprobs": _others(one)} for one in found]


def _others(token: Members) -> list[Members]:
    return [_token(one) for one in token.get("top_logprobs") or ()]


def _token(said: Members) -> Members:
    text, known = said["token"], said.get("bytes")
    return {
        "token": text,
        "logprob": said["logprob"],
        "bytes": list(text.encode()) if known is None else known,
    }


def encoded(thought: str) -> str:
    """Return what the model thought as `encrypted_content`."""
    return _MARK + base64.b64encode(thought.encode()).decode()


def decoded(content: Any) -> str:
    """Return what the model thought; empty where it was not encoded here."""
    if not isinstance(content, str) or not content.startswith(_MARK):
        return ""
    try:
        return base64.b64decode(content.removeprefix(_MARK), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
