"""Requests to llama.cpp that its server would answer as if something in them had not been said.

Facts are those of llama.cpp b11549, run: in the Responses API `text.format` is ignored, but chat's `response_format`
beside it is obeyed; in the Messages API neither `output_config.format` nor any other way to ask for a format is heard;
`echo` changes nothing. A call of an earlier turn whose arguments are no JSON is answered with 500.

Rules:
- What can be said in another way is said so. What cannot is refused by name: another backend may be able to.
- A message that is to have a format is said as a chat (`ignored`); only where the config denies that is it refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from backends.base import Call, Operation, Request
from backends.dialect import edits, rewrite

LACKS = frozenset(
    (
        *(Operation.SCORE, Operation.TRANSLATIONS, Operation.SPEECH, Operation.REALTIME),
        *(Operation.IMAGES, Operation.IMAGE_EDITS, Operation.IMAGE_VARIATIONS),
    )
)
"""What llama.cpp's server has no path for."""
_PAGES = ("props", "slots")


class _Format(msgspec.Struct):
    type: str = "text"
    name: str | None = None
    schema: msgspec.Raw = msgspec.Raw(b"{}")
    strict: bool | None = None


class _Holder(msgspec.Struct):
    format: _Format | None = None


class _Asked(msgspec.Struct):
    text: _Holder | None = None
    output_config: _Holder | None = None
    response_format: msgspec.Raw = msgspec.Raw()
    echo: bool | None = None


_asked = msgspec.json.Decoder(_Asked)
_MARKS = {
    Operation.RESPONSES: b'"format"',
    Operation.MESSAGES: b'"format"',
    Operation.COMPLETIONS: b'"echo"',
}
"""A member of each operation without which nothing is to be looked at."""
_PAST: Mapping[Operation, Callable[[edits.Members], None]] = {
    Operation.CHAT: edits.past_calls,
    Operation.RESPONSES: edits.past_items,
}
"""How each operation's earlier calls are put right."""


def page(name: str, model: str) -> Call | None:
    """Return the request for a page about a model. A server that has several loads none for it."""
    if name not in _PAGES:
        return None
    return Call(f"/{name}?model={quote(model, safe='')}&autoload=false", method="GET")


def edited(request: Request) -> Request:
    """Return the request as llama.cpp hears it. Raise RequestError for what it would ignore."""
    request = _with_arguments(request)
    mark = _MARKS.get(request.operation)
    if mark is None or mark not in request.body:
        return request
    try:
        asked = _asked.decode(request.body)
    except (ValueError, RecursionError):
        return request
    if asked.echo:
        raise edits.unsupported("echo")
    if asked.output_config is not None and _is_asked(asked.output_config.format):
        raise edits.unsupported("output_config", "the engine holds a message to no format")
    form = asked.text.format if asked.text is not None else None
    if form is None or not _is_asked(form) or bytes(asked.response_format) not in (b"", b"null"):
        return request
    members = rewrite.members(request.body) | {"response_format": msgspec.json.encode(_of_chat(form))}
    return msgspec.structs.replace(request, body=rewrite.joined(members))


def _with_arguments(request: Request) -> Request:
    """Return the request with what can be read of the arguments of earlier calls, which a limit may have cut."""
    edit = _PAST.get(request.operation)
    if edit is None or b'"arguments"' not in request.body:
        return request
    before = rewrite.members(request.body)
    members = before.copy()
    edit(members)
    return request if members == before else msgspec.structs.replace(request, body=rewrite.joined(members))


def ignored(request: Request) -> bool:
    """Return whether the request is a message that is to have a format, which chats can have and messages cannot."""
    if request.operation is not Operation.MESSAGES or _MARKS[Operation.MESSAGES] not in request.body:
        return False
    try:
        asked = _asked.decode(request.body)
    except (ValueError, RecursionError):
        return False
    return asked.output_config is not None and _is_asked(asked.output_config.format)


def _is_asked(form: _Format | None) -> bool:
    return form is not None and form.type != "text"


def _of_chat(form: _Format) -> dict[str, Any]:
    """Return a format of the Responses API in chat's form."""
    if form.type != "json_schema":
        return {"type": form.type}
    schema = {"name": form.name or "answer", "schema": form.schema, "strict": form.strict}
    return {
        "type": form.type,
        "json_schema": {name: said for name, said in schema.items() if said is not None},
    }
