"""Interpret an engine's error answer, in any of the seven shapes that engines use.

Shapes (each seen in an engine's source or recordings): OpenAI's nested object; the same object, flat, with
`object: error` (SGLang, LMDeploy, TensorRT-LLM); `error` as a string (Ollama, Triton, vLLM's 401); `error` with
`error_type` (TGI); `detail` (FastAPI servers), a text or a list of what is wrong with the body; one of these in a list
(Google's API); anything else, read as text.

Rules:
- No input raises an exception. A field of the wrong type counts as missing.
- The status and typed fields decide. Wording decides only through `CONTEXT_MARKS`, for engines that report too long a
  prompt in no other way.
- An error in a stream that calls the request invalid is about the request, although its status is given as 500.
- The text of a 5xx goes only to `detail`, for the log: it may contain paths, addresses or other users' data. Any other
  text may reach the client, who gets it without the addresses, paths and keys in it (`public`).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from backends.base import Failure, Headers, Kind
from backends.dialect.waits import retry_after

CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
CONTEXT_MARKS = (
    "maximum context length",  # vLLM 0.33, TensorRT-LLM
    "model's context length",  # vLLM 0.33 with max_tokens, SGLang 0.5
    "Requested token count exceeds",  # SGLang 0.5
    "must be smaller than the model context length",  # LMDeploy 0.18, its server
    "exceeds the model context length",  # LMDeploy 0.18, its engine
    "`inputs` tokens + `max_new_tokens` must be",  # TGI 3.3
    "`inputs` must have less than",  # TGI 3.3
    "exceeds the context length",  # Ollama 0.12
    "exceeds maximum context length",  # Ollama's embeddings, before 0.12
    "exceeds the available context size",  # llama.cpp b11549, Ollama 0.34
    "exceeded max context length",  # Ollama's cloud models
    "longer than the maximum model length",  # vLLM's engine, behind Triton
    "exceeds maximum input length",  # TensorRT-LLM's executor, behind Triton
)
INVALID = frozenset({"invalid_request_error", "invalid_prompt"})
"""Types and codes of an error that is about the request: OpenAI's, Anthropic's, and the Responses API's."""
WORDLESS = "internal_error"
"""The type of an error whose words say nothing of the reason: vLLM's, in a stream of Messages."""
MISSING_CODES = frozenset({"model_not_found"})  # OpenAI with 404, llama-cpp-python with 400
NO_ROUTE = frozenset(
    {
        "Not Found",  # Starlette, on which most engines are built
        "404 page not found",  # Go: Ollama, gateways
        "File Not Found",  # llama.cpp b11549
    }
)
"""Messages of a 404 for an unknown path: the engine or its version lacks the operation. A missing model is reported in
other words."""
NO_ROUTE_CODES = frozenset({"unknown_url"})  # OpenAI, and this gateway
_NO_ROUTE_BEGINS = ("Invalid URL", "Unknown request URL")  # OpenAI

_MESSAGE_LIMIT = 500
_WORDLESS = (b"", b"null", b"true", b"false", b"{}", b"[]")
# An HTML page of a proxy, or a stack trace (Triton's Python backend): never shown to a client, whatever the status.
_INTERNAL = re.compile(r"^<|Traceback \(most recent call last\)")
# Addresses, absolute paths of two names or more that are not those of an API, and keys.
_PRIVATE = re.compile(
    r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>)\]]*"
    r"|(?<![\w/.:])(?:/(?!v\d|api\b)[\w.@+~-]+){2,}/?"
    r"|\b[A-Za-z]:\\[^\s'\"]+"
    r"|\b(?:sk|pk|hf|gsk)[-_][\w*-]{8,}"
    r"|\bBearer\s+[\w.~+/*-]{8,}=*"
)
_WORD = re.compile(r"[A-Za-z][\w.\[\]-]{0,99}", re.ASCII)


class _Complaint(msgspec.Struct):
    """What FastAPI finds wrong in one place of a request; the path to it begins with `body`."""

    loc: list[str | int]
    msg: str


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_string = msgspec.json.Decoder(str)
_complaints = msgspec.json.Decoder(list[_Complaint])


class _Facts(msgspec.Struct):
    """The fields of an error, from whichever shape it had; empty or 0 where they are missing."""

    message: str = ""
    type: str = ""
    code: str = ""
    status: int = 0
    param: str = ""


def read_failure(status: int, headers: Headers, body: bytes) -> Failure:
    """Return the failure that an HTTP answer means, or an error event in a stream, whose status is given as 500."""
    facts = _facts(body)
    if status == 500 and 400 <= facts.status <= 599:
        # The status line of a stream says 200, so engines put the true status into the body of the error.
        status = facts.status
    elif status == 500 and (facts.type in INVALID or facts.code in INVALID):
        status = 400
    kind = _kind(status, facts)
    said = readable(facts.message)
    # Who has to pay is told why, and so is whoever asks on their behalf.
    told = kind in _ABOUT_THE_REQUEST or status == 402
    open_to_client = told and not _is_no_route(facts) and not _INTERNAL.search(said)
    return Failure(
        kind,
        (said if open_to_client else "") or _PLAIN[kind],
        status=status,
        retry_after=retry_after(headers),
        code=None if kind is Kind.UNSUPPORTED else _word(facts.code),
        param=_word(facts.param) if open_to_client else None,
        detail=said,
        unexplained=kind is Kind.FAILED and (not said or facts.type == WORDLESS),
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

NOT_SUPPORTED = "not_supported"
"""The code of another gateway like this one, where no engine behind it can do what was asked."""
_ABOUT_THE_REQUEST = frozenset({Kind.REJECTED, Kind.CONTEXT, Kind.UNSUPPORTED})


def _kind(status: int, facts: _Facts) -> Kind:
    """Return the kind of failure."""
    if facts.code in CONTEXT_CODES or facts.type in CONTEXT_CODES:
        return Kind.CONTEXT
    if facts.code in MISSING_CODES:
        return Kind.MISSING
    if status == 400 and facts.code == NOT_SUPPORTED:
        return Kind.UNSUPPORTED
    if status in (400, 413, 422):
        return Kind.CONTEXT if any(mark in facts.message for mark in CONTEXT_MARKS) else Kind.REJECTED
    if status == 404 and _is_no_route(facts):
        return Kind.UNSUPPORTED
    return _KINDS.get(status) or (Kind.FAILED if 500 <= status < 600 else Kind.GARBLED)


def _is_no_route(facts: _Facts) -> bool:
    """Return whether a 404 is about the path, not about the model."""
    return (
        facts.message in NO_ROUTE
        or facts.code in NO_ROUTE_CODES
        or facts.message.startswith(_NO_ROUTE_BEGINS)
    )


_KINDS = {
    401: Kind.REFUSED,
    402: Kind.REFUSED,
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


def message_of(body: bytes) -> str:
    """Return the words of an error as they are, in any of the shapes; empty if there are none."""
    return _facts(body).message


def _facts(body: bytes) -> _Facts:
    """Read the fields of an error in any of the shapes."""
    # Triton sends an event of a stream, even though the status is an error.
    outer = _object(_first(body.removeprefix(b"data:")))
    if outer is None:
        return _Facts("" if body in _WORDLESS else body[: 4 * _MESSAGE_LIMIT].decode(errors="replace"))
    error = outer.get("error", msgspec.Raw())
    inner = _object(error)
    said = outer if inner is None else inner
    text = {name: _text(said.get(name, msgspec.Raw())) for name in ("message", "type", "param")}
    detail, place = _complaint(said.get("detail", msgspec.Raw()))
    code = _text(said.get("code", msgspec.Raw()))
    number = code or _text(
        said.get("http_status_code", msgspec.Raw())
    )  # `http_status_code`: TGI, in a stream
    return _Facts(
        text["message"] or detail or _text(error),
        text["type"],
        code,
        int(number) if re.fullmatch(r"[45][0-9][0-9]", number) else 0,
        text["param"] or place,
    )


def _first(body: bytes) -> bytes:
    """Return the first item of a list, in which Google's API puts its errors; anything else as it is."""
    if not body.lstrip().startswith(b"["):
        return body
    try:
        return bytes(_items.decode(body)[0])
    except (ValueError, RecursionError, LookupError):
        return body


def _complaint(detail: msgspec.Raw) -> tuple[str, str]:
    """Return FastAPI's first complaint and the member that it is about, or its words, which are about none."""
    try:
        first = _complaints.decode(detail)[0]
    except (ValueError, IndexError, RecursionError):
        return _text(detail), ""
    path = [str(step) for step in first.loc[1:]]
    return (f"{'.'.join(path)}: {first.msg}", path[0]) if path else (first.msg, "")


def _object(raw: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """Return the members of a JSON object; None for anything else."""
    try:
        return _members.decode(raw)
    except (ValueError, RecursionError):
        return None


def _text(raw: msgspec.Raw) -> str:
    """Return the text of a JSON string; an empty text for null, booleans and empty values; else the JSON itself."""
    data = bytes(raw)
    if data in _WORDLESS:
        return ""
    try:
        return _string.decode(data)
    except ValueError:
        return data.decode(errors="replace")


def _word(text: str) -> str | None:
    """Return a text that looks like an identifier, and None for any other."""
    return text if _WORD.fullmatch(text) else None


def public(text: str) -> str:
    """Return an engine's words without the addresses, paths and keys in them, which are nobody else's business."""
    return _PRIVATE.sub("…", text)


def readable(text: str) -> str:
    """Return untrusted text as one short line of printable characters."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * _MESSAGE_LIMIT])
    return " ".join(printable.split())[:_MESSAGE_LIMIT]


UNREADABLE: Final[tuple[type[Exception], ...]] = (msgspec.DecodeError, RecursionError)
"""What is raised where a request's own JSON is read, which nobody has read as far before."""


def unreadable(error: Exception) -> Failure:
    """Return the failure for a request that cannot be read: wrong types, a number out of range, too deep nesting."""
    if isinstance(error, RecursionError):
        return Failure(Kind.REJECTED, "the body is nested too deeply", code="invalid_json")
    said, _, path = str(error).partition(" - at `$")
    place = path.strip("`.")
    if place:
        return Failure(Kind.REJECTED, f"{place!r}: {plain(said)}", param=place)
    return Failure(Kind.REJECTED, f"the body cannot be read: {plain(said)}", code="invalid_json")


_WORDS: Final = {
    " | array": " or a list",
    "`int | float": "`a number",
    "`str": "`text",
    "`int": "`a whole number",
    "`float": "`a number",
    "`bool": "`true or false",
    "`array": "`a list",
    "`object": "`an object",
    " | null`": "`",
}


def plain(said: str) -> str:
    """Return what msgspec says of a body in JSON's terms instead of Python's."""
    for word, instead in _WORDS.items():
        said = said.replace(word, instead)
    said = said.replace("`", "").removeprefix("JSON is malformed: ")
    return said[:1].lower() + said[1:]


def garbled(message: str, body: bytes, error: Exception | None = None) -> Failure:
    """Return the failure of an answer that cannot be read. Its bytes are told to nobody: they may be half an answer."""
    facts = f"{len(body)} bytes" if error is None else f"{len(body)} bytes, {reason_of(error)}"
    return Failure(Kind.GARBLED, message, facts=facts)


def reason_of(error: Exception) -> str:
    """Return why something could not be read, without a word of what was read.

    Only the messages of JSON's own reader are known to hold none.
    """
    return str(error) if type(error) is msgspec.DecodeError else type(error).__name__
