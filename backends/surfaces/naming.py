"""Read a request that may name no model; put another name in the place of one that nobody knows.

Rules:
- Every other byte stays as it was. What is no request of its kind is left so: whoever reads it says what is wrong.
"""

from __future__ import annotations

import msgspec

from backends.base import Operation, Request
from backends.dialect.members import Members
from backends.dialect.openai import FORMS
from backends.framing import multipart
from backends.surfaces.surface import InvalidRequest, Surface

_NONE = (None, b"null", b'""')


def read(
    surface: Surface, operation: Operation, content_type: bytes, body: bytes, model: str | None
) -> Request:
    """Return a request as its surface reads it; `model` is asked for where it names none. Raises InvalidRequest."""
    try:
        return surface.read(operation, content_type, body)
    except InvalidRequest as error:
        if model is None or error.param != "model":
            raise
        also = named(operation, content_type, body, model)
        if also is None:
            raise
        return surface.read(operation, content_type, also)


def named(operation: Operation, content_type: bytes, body: bytes, model: str) -> bytes | None:
    """Return a body that names no model as one that names this one; None where it names one, or cannot be read."""
    if operation in FORMS:
        return _named_form(content_type, body, model)
    try:
        members = Members(body)
    except (ValueError, RecursionError):
        return None
    if members.get("model") not in _NONE:
        return None
    members.put("model", msgspec.json.encode(model))
    return members.body()


def _named_form(content_type: bytes, body: bytes, model: str) -> bytes | None:
    try:
        form = multipart.Form(body, multipart.boundary_of(content_type))
        if form.text("model"):
            return None
        form.put("model", [model.encode()])
        return form.body()
    except multipart.FormError:
        return None


def renamed(request: Request, model: str) -> Request:
    """Return a request that was read as one for another model."""
    if request.operation in FORMS:
        parts = multipart.parts_of(request.body, multipart.boundary_of(request.content_type))
        named = next(part for part in parts if part.name == "model")
        body = multipart.replaced(request.body, named, model.encode())
    else:
        members = Members(request.body)
        members.put("model", msgspec.json.encode(model))
        body = members.body()
    return msgspec.structs.replace(request, body=body, model=model)
