"""The lines of a batch's input and output files, as OpenAI's Batch API has them. Pure: bytes in, values out.

Rules:
- An input line is read as far as a batch has to know it: its id, where it goes, and of its body the model. The body
  goes on as the client wrote it, byte for byte; what else is wrong with it is said by whoever answers it.
- What is wrong with a line is a `Wrong`, with a code that programs can tell apart.
- An output line begins with an id that holds the number of its input line. So whoever reads an output file knows which
  lines have been answered without decoding the answers.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from backends.base import Operation, Usage
from backends.dialect.usage import usage_of

ENDPOINTS: Final = {
    "/v1/chat/completions": Operation.CHAT,
    "/v1/completions": Operation.COMPLETIONS,
    "/v1/embeddings": Operation.EMBEDDINGS,
    "/v1/responses": Operation.RESPONSES,
}
"""Where the lines of a batch may go."""
LONGEST_ID: Final = 512
"""Most characters of a line's own id."""
_PREFIX: Final = b'{"id":"batch_req_'


class Line(NamedTuple):
    """One request of a batch. `model` is None where the body names none; `body` is its JSON as the client wrote it."""

    custom_id: str
    url: str
    model: str | None
    body: bytes


class Wrong(NamedTuple):
    """What is wrong with an input line."""

    code: str
    message: str
    param: str | None = None


class _Body(msgspec.Struct):
    """What a batch has to know of a request."""

    model: str | None = None
    stream: Any = None
    background: Any = None


_body: Final = msgspec.json.Decoder(_Body)
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text: Final = msgspec.json.Decoder(str)


def read(data: bytes) -> Line | Wrong:
    """Return the request of an input line, which ends where `data` ends."""
    try:
        found = _object.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Wrong("invalid_json_line", "this line is no JSON object")
    for name in ("custom_id", "method", "url", "body"):
        if bytes(found.get(name, b"null")) == b"null":
            return Wrong("missing_required_parameter", f"this line has no {name!r}", name)
    custom_id, method, url = (_string(found[name]) for name in ("custom_id", "method", "url"))
    if not custom_id or len(custom_id) > LONGEST_ID:
        message = f"'custom_id' must be text of 1 to {LONGEST_ID} characters"
        return Wrong("invalid_custom_id", message, "custom_id")
    if method != "POST":
        return Wrong("invalid_method", "'method' must be \"POST\"", "method")
    if url not in ENDPOINTS:
        return Wrong("invalid_url", f"'url' must be one of {', '.join(ENDPOINTS)}", "url")
    return request(custom_id, url, bytes(found["body"]))


def request(custom_id: str, url: str, body: bytes) -> Line | Wrong:
    """Return a request with this body, if that is the body of one."""
    try:
        known = _body.decode(body)
        if not body.lstrip().startswith(b"{"):
            raise msgspec.ValidationError
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Wrong("invalid_body", "'body' must be an object, and its 'model' text", "body")
    if known.stream not in (None, False):
        return Wrong("stream_not_supported", "a batch has no streams: leave out 'stream'", "body.stream")
    if known.background not in (None, False):
        message = "a batch waits for each answer: leave out 'background'"
        return Wrong("background_not_supported", message, "body.background")
    return Line(custom_id, url, known.model or None, body)


def _string(found: msgspec.Raw) -> str:
    """Return the text in a member's JSON; empty where it is none."""
    try:
        return _text.decode(found)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def is_blank(data: bytes) -> bool:
    """Tell whether a line has nothing in it: such lines are no requests, wherever they are."""
    return not data.strip()


# output


def answered(name: str, number: int, custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """Return the output line of a request that was answered.

    `name` is that of the batch, `number` that of the input line, from 1; `body` is JSON.
    """
    answer = {"status_code": status, "request_id": request_id, "body": _json(body)}
    return _line(name, number, custom_id, answer, None)


def unanswered(name: str, number: int, custom_id: str, code: str, message: str) -> bytes:
    """Return the output line of a request that nobody has answered, and why. Arguments are as those of `answered`."""
    return _line(name, number, custom_id, None, {"code": code, "message": message})


def _line(
    name: str, number: int, custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None
) -> bytes:
    rest = msgspec.json.encode({"custom_id": custom_id, "response": response, "error": error})
    return _PREFIX + f'{name}_{number}",'.encode() + rest[1:] + b"\n"


def _json(body: bytes) -> Any:
    """Return a body as JSON on one line; text where it is no JSON."""
    try:
        _object.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body.decode(errors="replace")
    # Inside of JSON's text there are no line ends: these are between its parts.
    return msgspec.Raw(body.replace(b"\n", b" ").replace(b"\r", b" "))


class _Told(msgspec.Struct):
    usage: Any = None


class _Response(msgspec.Struct):
    body: _Told | str | None = None


class _Answered(msgspec.Struct):
    """What tells of an output line what it took."""

    response: _Response | None = None


_answered: Final = msgspec.json.Decoder(_Answered)


def usage(data: bytes) -> Usage | None:
    """Return the tokens that the answer in an output line tells; None where it tells none."""
    if b'"usage"' not in data:
        return None
    try:
        response = _answered.decode(data).response
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    body = None if response is None else response.body
    return usage_of(body.usage, any_api=True) if isinstance(body, _Told) else None


def number_of(data: bytes) -> int:
    """Return the number of the input line that an output line answers; 0 where it is no whole output line."""
    if not data.startswith(_PREFIX) or not data.endswith(b"}\n"):
        return 0
    end = data.find(b'"', len(_PREFIX))
    digits = data[len(_PREFIX) : end].rpartition(b"_")[2]
    return int(digits) if digits.isdigit() else 0
