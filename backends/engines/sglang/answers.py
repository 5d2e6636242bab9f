"""Read the words of SGLang's errors, and know what its answers do not tell.

Facts are those of SGLang 0.5.23.

Rules:
- An error that the scheduler tells begins with its own status, `503: `, where the server has no better place for it:
  in the Responses API, whole and streamed.
- What is wrong with a body is told in Python's words, with the server's files behind them.
- A call of a tool that does not exist, or with broken arguments, is text or has no arguments, as if the model had said
  so. Nothing in the answer tells.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

import msgspec

from backends.base import Engine, Failure, Kind
from backends.dialect.errors import CONTEXT_MARKS, read_failure

_decode = msgspec.json.Decoder()

_STATUS: Final = re.compile(r"(?:^|\s)([45]\d\d): ")
_COMPLAINT: Final = re.compile(
    r"'loc': \('body'(?P<loc>[^)]*)\), 'msg': (?:'(?P<plain>[^']*)'|\"(?P<quoted>[^\"]*)\")"
)
_NAME: Final = re.compile(r"'(\w+)'|(\d+)")


def failure(engine: Engine, status: int, headers: Any, body: bytes) -> Failure:
    """Interpret an error, also one in a stream, whose status is given as 500."""
    found = read_failure(status, headers, body)
    told = _STATUS.match(found.detail)
    if told is not None:
        words = {"message": found.detail[told.end() :]}
        return failure(engine, int(told[1]), headers, msgspec.json.encode(words))
    if found.kind is Kind.FAILED and any(mark in found.detail for mark in CONTEXT_MARKS):
        return dataclasses.replace(found, kind=Kind.CONTEXT, message=found.detail)
    if b'"error_message"' in body:
        return _of_an_adapter(found, body)
    complaint = _COMPLAINT.search(found.detail)
    if complaint is not None:
        return _of_a_body(found, complaint)
    for pattern, kind in _KINDS:
        if pattern.search(found.detail):
            message = found.detail if kind is Kind.REJECTED else _MESSAGES[kind]
            return dataclasses.replace(found, kind=kind, message=message)
    return found


def _of_an_adapter(found: Failure, body: bytes) -> Failure:
    """Return the failure of loading or unloading an adapter, with the server's words."""
    try:
        words = str(_decode.decode(body)["error_message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return found
    return dataclasses.replace(found, message=words, detail=words)


def _of_a_body(found: Failure, complaint: re.Match[str]) -> Failure:
    """Return the first of the complaints about a body: the member that is wrong, and what is wrong with it."""
    path = [name or place for name, place in _NAME.findall(complaint["loc"])]
    words = complaint["plain"] or complaint["quoted"] or "it is not valid"
    param = path[0] if path else None
    return dataclasses.replace(
        found, message=f"{'.'.join(path)}: {words}" if path else words, param=param, kind=Kind.REJECTED
    )


# SGLang 0.5.23 sends these with status 400, the last one with 503.
_KINDS = (
    (re.compile(r"requested LoRA adapters are not loaded"), Kind.MISSING),
    (re.compile(r"Got LoRA adapter that has never been loaded"), Kind.MISSING),
    (re.compile(r"LoRA adapter .* was requested, but LoRA is not enabled"), Kind.MISSING),
    (re.compile(r"add `--is-embedding` when launching"), Kind.UNSUPPORTED),
    (re.compile(r"Using priority is disabled for this server"), Kind.REJECTED),
)
_MESSAGES = {
    Kind.MISSING: "the engine does not have this LoRA adapter",
    Kind.UNSUPPORTED: "the engine does not offer this operation",
}
