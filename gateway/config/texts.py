"""The kinds of text in the config file: the pattern of each, and words for error messages.

Rules:
- Names become labels, header values and lines on a terminal, so each kind allows only what is safe there.
- What may hold a secret is `SecretStr`; a message about it never quotes it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, SecretStr, WithJsonSchema

from backends.facts.units import expected

NAME = r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}"
"""What a backend or a key may be called."""

_UNSEEN = r"\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
"""Control characters, and others that are not seen or change the direction of what is written."""
_INNER = rf"[^{_UNSEEN}*?]"
_OUTER = rf"[^\s{_UNSEEN}*?]"
PUBLIC_NAME = rf"{_OUTER}(?:{_INNER}{{0,254}}{_OUTER})?"
"""What clients may call a model."""


def _text(pattern: str, what: str) -> Any:
    """Return the parts of an annotation for text of one form; `what` says in words what is allowed."""
    allowed = re.compile(pattern)

    def check(value: str) -> str:
        if not allowed.fullmatch(value):
            raise expected(what)
        return value

    return AfterValidator(check), WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


_NAME_CHECK, _NAME_SCHEMA = _text(
    NAME,
    "a name: up to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
)
_MODEL_CHECK, _MODEL_SCHEMA = _text(
    PUBLIC_NAME,
    "a model name: up to 256 characters that can be seen, with spaces only between them, without * and ?",
)
_GLOB_CHECK, _GLOB_SCHEMA = _text(
    PUBLIC_NAME.replace("*?", ""), "a model name, in which * stands for any text and ? for any one character"
)
_LINE_CHECK, _LINE_SCHEMA = _text(r"[^\x00-\x1f\x7f]{1,256}", "up to 256 characters of text on one line")
_HASH_CHECK, _HASH_SCHEMA = _text(
    r"sha256:[0-9a-f]{64}", "'sha256:' and 64 hex digits in lower case, as `gateway key new` prints them"
)

_ORIGIN_CHECK, _ORIGIN_SCHEMA = _text(
    r"\*|[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?",
    "an origin as browsers send it: 'https://app.example.com', with its port if that is not the usual one, "
    "in lower case and without a path; or '*' for every origin",
)

_MEMBER_CHECK, _MEMBER_SCHEMA = _text(
    r"[A-Za-z_][A-Za-z0-9_-]{0,63}(?:\[\]|(?:\.[A-Za-z0-9_-]{1,64}){0,7})",
    "a parameter's name, with dots before the names of members within it",
)

Name = Annotated[str, _NAME_CHECK, _NAME_SCHEMA]
ModelName = Annotated[str, _MODEL_CHECK, _MODEL_SCHEMA]
ModelGlob = Annotated[str, _GLOB_CHECK, _GLOB_SCHEMA]
Origin = Annotated[str, _ORIGIN_CHECK, _ORIGIN_SCHEMA]
Member = Annotated[str, _MEMBER_CHECK, _MEMBER_SCHEMA]
Line = Annotated[str, _LINE_CHECK, _LINE_SCHEMA]
Hash = Annotated[str, _HASH_CHECK, _HASH_SCHEMA]


def _sendable(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]{1,4096}", value.get_secret_value()):
        raise expected("a key: visible ASCII characters without spaces, at least one")
    return value


Secret = Annotated[SecretStr, AfterValidator(_sendable), WithJsonSchema({"type": "string", "minLength": 1})]
"""Text that can be sent as a bearer token and is never printed."""


def _sendable_line(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]{0,4094}[\x21-\x7e])?", value.get_secret_value()):
        raise expected("a header's value: visible ASCII characters, with spaces only between them")
    return value


def _free_header(value: str) -> str:
    if value.lower() in _OWN_HEADERS:
        hint = ": use api_key" if value.lower() == "authorization" else ""
        raise ValueError(f"the gateway sets this header itself{hint}")
    return value


_OWN_HEADERS = frozenset(
    "accept-encoding authorization connection content-encoding content-length content-type expect host keep-alive te "
    "traceparent tracestate trailer transfer-encoding upgrade x-request-id".split()
)
_HEADER_CHECK, _HEADER_SCHEMA = _text(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", "a header's name")


def _no_credential(value: str) -> str:
    if value.lower() in ("authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key"):
        raise expected("another header: this one holds a secret, which 'key' and 'key_tag' stand for")
    return value


HeaderName = Annotated[str, _HEADER_CHECK, AfterValidator(_free_header), _HEADER_SCHEMA]
AnyHeader = Annotated[str, _HEADER_CHECK, _HEADER_SCHEMA]
HeaderToMatch = Annotated[str, _HEADER_CHECK, AfterValidator(_no_credential), _HEADER_SCHEMA]
HeaderValue = Annotated[
    SecretStr, AfterValidator(_sendable_line), WithJsonSchema({"type": "string", "minLength": 1})
]
