"""What an engine's error answer means: the six shapes engines write errors in, and one reading of all of them.

Shapes (each seen in an engine's source or recordings): OpenAI's nested object; the same flat with `object: error`
(SGLang, LMDeploy, TensorRT-LLM); `error` as a string (Ollama, Triton, 401 of vLLM); `error` with `error_type` (TGI);
`detail` (FastAPI servers); anything else, read as text.

Rules:
- No bytes make this fail. A field of the wrong type is read as if it were not there.
- Status and typed fields decide; wording is looked at in one place, `CONTEXT_MARKS`, for engines that say it only so.
- The text of a 5xx stays in `detail`, for the log: it may hold paths, addresses or other users' data.
"""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, datetime

import msgspec

from backends.base import Failure, Headers, Kind

CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
CONTEXT_MARKS = (
    "maximum context length",  # vLLM 0.33, TensorRT-LLM
    "model's context length",  # vLLM 0.33 with max_tokens, SGLang 0.5
    "Requested token count exceeds",  # SGLang 0.5
    "must be smaller than the model context length",  # LMDeploy 0.18
    "`inputs` tokens + `max_new_tokens` must be",  # TGI 3.3
    "`inputs` must have less than",  # TGI 3.3
)
MISSING_CODES = frozenset({"model_not_found"})  # OpenAI with 404, llama-cpp-python with 400
NO_ROUTE = frozenset(
    {
        "Not Found",  # Starlette, on which most engines are built
        "404 page not found",  # Go: Ollama, gateways
        "File Not Found",  # llama.cpp b11549
    }
)
"""What servers say with 404 of a path they do not have: the wrong kind of model for the operation, or a version that
does not have it yet. A model that is not there is told in other words."""

_MESSAGE_LIMIT = 500
_WORDLESS = (b"", b"null", b"true", b"false", b"{}", b"[]")
# A proxy's page of HTML, a stack trace (Triton's Python backend): no message to a client, whatever the status.
_INTERNAL = re.compile(r"^<|Traceback \(most recent call last\)")
_WORD = re.compile(r"[A-Za-z][\w.\[\]-]{0,99}", re.ASCII)

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)


class _Facts(msgspec.Struct):
    message: str = ""
    type: str = ""
    code: str = ""
    status: int = 0
    param: str = ""


def read_failure(status: int, headers: Headers, body: bytes) -> Failure:
    """The failure an HTTP answer, or an error event in a stream (status 500 then), stands for."""
    facts = _facts(body)
    if status == 500 and 400 <= facts.status <= 599:
        # Engines put the true status into the body of an error that comes inside a 200 stream.
        status = facts.status
    kind = _kind(status, facts)
    said = readable(facts.message)
    open_to_client = kind in _ABOUT_THE_REQUEST and said not in NO_ROUTE and not _INTERNAL.search(said)
    return Failure(
        kind,
        (said if open_to_client else "") or _PLAIN[kind],
        status=status,
        retry_after=retry_after(headers),
        code=_word(facts.code),
        param=_word(facts.param) if open_to_client else None,
        detail=said,
    )


_PLAIN = {
    Kind.REJECTED: "the engine rejected the request",
    Kind.CONTEXT: "the prompt is longer than the model's context",
    Kind.UNSUPPORTED: "the engine does not offer this operation",
    Kind.OVERLOADED: "the engine is overloaded",
    Kind.LOADING: "the engine is loading its model",
    Kind.MISSING: "the engine does not have this model",
    Kind.REFUSED: "the engine did not accept the gateway's credentials",
    Kind.FAILED: "the engine reported an internal error",
    Kind.GARBLED: "the engine's reply is not one the gateway can read",
}

_ABOUT_THE_REQUEST = frozenset({Kind.REJECTED, Kind.CONTEXT, Kind.UNSUPPORTED})


def _kind(status: int, facts: _Facts) -> Kind:
    if facts.code in CONTEXT_CODES or facts.type in CONTEXT_CODES:
        return Kind.CONTEXT
    if facts.code in MISSING_CODES:
        return Kind.MISSING
    if status in (400, 413, 422):
        return Kind.CONTEXT if any(mark in facts.message for mark in CONTEXT_MARKS) else Kind.REJECTED
    if status == 404 and facts.message in NO_ROUTE:
        return Kind.UNSUPPORTED
    return _KINDS.get(status) or (Kind.FAILED if 500 <= status < 600 else Kind.GARBLED)


_KINDS = {
    401: Kind.REFUSED,
    403: Kind.REFUSED,
    404: Kind.MISSING,
    405: Kind.UNSUPPORTED,
    408: Kind.FAILED,
    409: Kind.REJECTED,
    415: Kind.REJECTED,
    424: Kind.FAILED,
    429: Kind.OVERLOADED,
    501: Kind.UNSUPPORTED,
    503: Kind.OVERLOADED,
    529: Kind.OVERLOADED,
}


def _facts(body: bytes) -> _Facts:
    outer = _object(
        body.removeprefix(b"data:")
    )  # Triton: an event of a stream, though the status is an error
    if outer is None:
        return _Facts("" if body in _WORDLESS else body[: 4 * _MESSAGE_LIMIT].decode(errors="replace"))
    error = outer.get("error", msgspec.Raw())
    inner = _object(error)
    said = outer if inner is None else inner
    text = {name: _text(said.get(name, msgspec.Raw())) for name in ("message", "detail", "type", "param")}
    code = _text(said.get("code", msgspec.Raw()))
    number = code or _text(said.get("http_status_code", msgspec.Raw()))  # the latter: TGI, inside a stream
    return _Facts(
        text["message"] or text["detail"] or _text(error),
        text["type"],
        code,
        int(number) if re.fullmatch(r"[45][0-9][0-9]", number) else 0,
        text["param"],
    )


def _object(raw: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    try:
        return _members.decode(raw)
    except (ValueError, RecursionError):
        return None


def _text(raw: msgspec.Raw) -> str:
    """A JSON string's text; of a value without words nothing, of any other its JSON."""
    data = bytes(raw)
    if data in _WORDLESS:
        return ""
    try:
        return _string.decode(data)
    except ValueError:
        return data.decode(errors="replace")


def _word(text: str) -> str | None:
    return text if _WORD.fullmatch(text) else None


def readable(text: str) -> str:
    """Foreign text as one short line of printable characters."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * _MESSAGE_LIMIT])
    return " ".join(printable.split())[:_MESSAGE_LIMIT]


def retry_after(headers: Headers) -> float | None:
    """Seconds from a `Retry-After` header; None if absent, negative or not readable.

    A date is read against the answer's own `Date`, so that two clocks need not agree (RFC 9110, section 10.2.3).
    """
    found = {
        name: value.decode("latin-1").strip() for name, value in headers if name in (b"retry-after", b"date")
    }
    wish = found.get(b"retry-after", "")
    if wish.isascii() and wish.isdigit():
        return float(wish[:9])
    until, now = _http_date(wish), _http_date(found.get(b"date", ""))
    if until is None or now is None or until < now:
        return None
    return (until - now).total_seconds()


def garbled(message: str, body: bytes, error: Exception | None = None) -> Failure:
    """The failure of an answer that cannot be read; how it begins goes to the operator's log."""
    begin = readable(body[:200].decode(errors="replace"))
    return Failure(Kind.GARBLED, message, detail=f"{error}: {begin}" if error else begin)


def _http_date(text: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(text)
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):
        return None
