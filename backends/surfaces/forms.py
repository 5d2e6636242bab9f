"""Validate and read a client's multipart form, used for sound and pictures, as far as the gateway has to know it.

Rules:
- The form has `model` exactly once, a recording's `file` exactly once, `stream` at most once, and at least one of the
  pictures to edit. The bytes of files are not copied.
- Everything else is left to the engine and forwarded unchanged. Errors name the wrong field in OpenAI's `param`.
"""

from __future__ import annotations

from backends.base import Operation, Request
from backends.framing.multipart import FormError, Part, boundary_of, is_form, parts_of
from backends.surfaces.surface import InvalidRequest

LONGEST_VALUE = 1024
"""Most bytes of a value that the gateway reads itself."""

_PICTURES = {"image", "image[]"}
"""The parts with pictures to edit, one or several: OpenAI's clients send either name."""
_PICTURED = (Operation.IMAGE_EDITS, Operation.IMAGE_VARIATIONS)
_TRUTH = {b"true": True, b"1": True, b"false": False, b"0": False, b"": False}


def check_type(content_type: bytes) -> None:
    """Raise InvalidRequest if the content type is not that of a form."""
    if not is_form(content_type):
        raise InvalidRequest(
            "the body must be a form: send the header 'Content-Type: multipart/form-data'", media_type=True
        )


def decode(operation: Operation, body: bytes, content_type: bytes) -> Request:
    """Return the request in a form. Raises InvalidRequest if anything is wrong with it."""
    try:
        parts = parts_of(body, boundary_of(content_type))
    except FormError as error:
        raise _invalid(str(error), code="invalid_form") from None
    model = _text(body, _only(parts, "model"))
    if not model:
        raise _invalid("'model' is empty", param="model")
    files = _pictures(parts) if operation in _PICTURED else [_only(parts, "file")]
    for file in files:
        if file.start == file.end:
            raise _invalid(f"{file.name!r} is empty", param=file.name, code="missing_field")
    stream = any(part.name == "stream" for part in parts) and _truth(body, _only(parts, "stream"))
    return Request(operation, body, model, stream=stream, content_type=content_type)


def _only(parts: list[Part], name: str) -> Part:
    found = [part for part in parts if part.name == name]
    if not found:
        raise _invalid(f"{name!r} is missing", param=name, code="missing_field")
    if len(found) > 1:
        raise _invalid(f"{name!r} stands in the form more than once", param=name)
    return found[0]


def _pictures(parts: list[Part]) -> list[Part]:
    found = [part for part in parts if part.name in _PICTURES]
    if not found:
        raise _invalid("'image' is missing", param="image", code="missing_field")
    return found


def _text(body: bytes, part: Part) -> str:
    if part.filename is not None or part.end - part.start > LONGEST_VALUE:
        raise _invalid(f"{part.name!r}: expected a short text", param=part.name)
    try:
        return body[part.start : part.end].decode()
    except UnicodeDecodeError:
        raise _invalid(f"{part.name!r} is not valid UTF-8", param=part.name) from None


def _truth(body: bytes, part: Part) -> bool:
    said = _TRUTH.get(_text(body, part).lower().encode())
    if said is None:
        raise _invalid("'stream': expected true or false", param="stream")
    return said


def _invalid(message: str, param: str | None = None, code: str | None = None) -> InvalidRequest:
    return InvalidRequest(message, param=param, code=code)
