"""What a request asks for, as far as rules, balancers and admission look at it.

Rules:
- Nothing is looked up before somebody asks for it, and then once: most requests are decided by their model's name.
- Whatever a client sends gives an answer. A member of the wrong type counts as left out; the engine will refuse it.
- A live request and a question about one (`explain`, `replay`) are described by the same value.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from math import isfinite
from typing import TYPE_CHECKING, Final

import msgspec

from backends.base import Operation, Request
from backends.dialect.openai import FORMS
from gateway.priority import BACKGROUND, NUMBERS

if TYPE_CHECKING:
    from gateway.auth import Caller

_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text: Final = msgspec.json.Decoder(str)
_number: Final = msgspec.json.Decoder(int)
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])

_PROMPTS: Final = (
    *("messages", "prompt", "input", "system", "instructions", "query", "documents", "content"),
    *("contents", "systemInstruction", "system_instruction", "generateContentRequest", "requests"),
)
"""The members of a body, in any of the APIs, whose text the model reads."""
_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens", "maxOutputTokens")
_IMAGES: Final = (
    *(b'"image_url"', b'"input_image"', b'"image"', b'"images"'),
    *(b'"inlineData"', b'"inline_data"'),
)
"""How the APIs of OpenAI (chat, Responses), Anthropic, Ollama and Google name images. Quotes inside of text are
escaped, so only a whole string can be meant."""
_CONFIGS: Final = ("generationConfig", "generation_config")
"""Where Google's API has the limit of an answer, by its two names."""
_NONE: Final = (b"null", b"[]")
_BYTES_PER_TOKEN: Final = 4
"""Of English text and of JSON: about four. Other scripts have fewer characters and more bytes for each token."""
PATIENCE: Final = (b"x-stainless-read-timeout", b"x-stainless-timeout")
"""How the SDKs of OpenAI and of Anthropic say after how many seconds without an answer they give up."""
_DATA: Final = b";base64,"
ESTIMATED: Final = ((b"content-type", b"application/json"), (b"x-gateway-estimated", b"input_tokens"))
"""The headers of an answer with a count that is an estimate."""


class Asked:
    """What a request asks for."""

    __slots__ = ("_found", "_prompt_tokens", "best_priority", "caller", "headers", "request")

    def __init__(self, request: Request, headers: Mapping[bytes, bytes], caller: Caller) -> None:
        """Describe a request that was read; `headers` have lower-case names."""
        self.request: Request = request
        self.headers: Mapping[bytes, bytes] = headers
        self.caller: Caller = caller
        self._found: dict[str, msgspec.Raw] | None = None
        self._prompt_tokens: int = -1
        self.best_priority: int = caller.priority
        """The number of the best class it may wait in: its key's, or what a route says."""

    @property
    def members(self) -> Mapping[str, msgspec.Raw]:
        """The members of the JSON body, each as its own JSON; none of a form."""
        found = self._found
        if found is None:
            found = self._found = self._read()
        return found

    def _read(self) -> dict[str, msgspec.Raw]:
        if self.request.operation in FORMS:
            return {}
        try:
            return _members.decode(self.request.body)
        except (msgspec.MsgspecError, RecursionError):
            return {}

    def text(self, name: str) -> str:
        """Return the text of a member; empty where it has none."""
        return _text_of(self.members.get(name))

    def metadata(self, name: str) -> str:
        """Return an entry of the member `metadata` as text; empty where it has none."""
        found = self.members.get("metadata")
        if found is None:
            return ""
        try:
            return _text_of(_object.decode(found).get(name))
        except (msgspec.MsgspecError, RecursionError):
            return ""

    @property
    def user(self) -> str:
        """Whom the client serves, as it says: `user`, `safety_identifier` or `metadata.user_id`; may be empty."""
        return self.text("user") or self.text("safety_identifier") or self.metadata("user_id")

    @property
    def max_tokens(self) -> int | None:
        """How many tokens the answer may have at most; None where the client does not say."""
        members = self._config() if self.request.operation is Operation.GEMINI_GENERATE else self.members
        for name in _LIMITS:
            found = members.get(name)
            if found is not None:
                try:
                    return _number.decode(found)
                except msgspec.MsgspecError:
                    continue
        return None

    def _config(self) -> Mapping[str, msgspec.Raw]:
        """Return the members of a request of Google's API that say how to answer."""
        for name in _CONFIGS:
            found = self.members.get(name)
            if found is not None:
                try:
                    return _object.decode(found)
                except (msgspec.MsgspecError, RecursionError):
                    break
        return {}

    @property
    def has_tools(self) -> bool:
        """Whether the model is offered tools or functions."""
        members = self.members
        sent = [bytes(members[name]) for name in ("tools", "functions") if name in members]
        return any(tools not in _NONE for tools in sent)

    @property
    def has_images(self) -> bool:
        """Whether the prompt has images."""
        body = self.request.body
        if not any(mark in body for mark in _IMAGES):
            return False
        members = self.members
        if bytes(members.get("images", b"null")) not in _NONE:
            return True
        return any(
            mark in bytes(members[name])
            for name in ("messages", "input", "contents")
            if name in members
            for mark in _IMAGES
        )

    @property
    def prompt_tokens(self) -> int:
        """About how many tokens the prompt has: a quarter of its bytes, without images and other data.

        A prompt that is given as tokens is counted. The model's own tokenizer may find half as many or twice as many.
        """
        if self._prompt_tokens < 0:
            found = self.members
            self._prompt_tokens = sum([_tokens(bytes(found[name])) for name in _PROMPTS if name in found])
        return self._prompt_tokens

    def count(self) -> bytes:
        """Return the answer to the question for the tokens of a prompt: an estimate, with those of its tools.

        In the form of Anthropic's API, of OpenAI's Responses or of Google's API, by the operation.
        """
        tools = _tokens(bytes(self.members.get("tools", b"")))
        count = max(1, self.prompt_tokens + tools)
        if self.request.operation is Operation.GEMINI_COUNT_TOKENS:
            return msgspec.json.encode({"totalTokens": count})
        made: dict[str, str | int] = {"input_tokens": count}
        if self.request.operation is Operation.INPUT_TOKENS:
            made["object"] = "response.input_tokens"
        return msgspec.json.encode(made)

    @property
    def is_patient(self) -> bool:
        """Whether it is of the class `background`, in which everybody else goes first."""
        if self.best_priority >= BACKGROUND:
            return True
        return b"x-gateway-priority" in self.headers and self.priority >= BACKGROUND

    @property
    def priority(self) -> int:
        """The number of the class in which it waits: the best it may have, or the lower one that it asks for.

        It asks by the header `x-gateway-priority`, or by `"service_tier": "flex"`, which means low.
        """
        wanted = NUMBERS.get(self.headers.get(b"x-gateway-priority", b"").strip().lower().decode("latin-1"))
        if wanted is None and self.text("service_tier") == "flex":
            wanted = NUMBERS["low"]
        return self.best_priority if wanted is None else max(wanted, self.best_priority)

    @property
    def patience(self) -> float | None:
        """How many seconds its client waits for an answer, where its SDK says so; None where it does not."""
        told = [self.headers[name] for name in PATIENCE if name in self.headers]
        return min([seconds for seconds in map(_seconds, told) if seconds > 0.0], default=None)

    def share(self, salt: str, whose: str = "") -> float:
        """Return a number from 0 up to 1 that is the same for the same `salt` and user (`whose`, else `user`)."""
        return share(salt, whose or self.user)


def share(salt: str, whose: str) -> float:
    """Return a number from 0 up to 1, evenly spread, that is the same for the same two texts on every machine."""
    digest = blake2b(f"{salt}\0{whose}".encode("utf-8", "replace"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)


def _seconds(text: bytes) -> float:
    """Return the seconds in a header; 0 where there are none."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if isfinite(seconds) else 0.0


def _text_of(found: msgspec.Raw | None) -> str:
    if found is None:
        return ""
    try:
        return _text.decode(found)
    except msgspec.MsgspecError:
        return ""


def _tokens(text: bytes) -> int:
    """Return about how many tokens a prompt has, in any of the forms in which it is sent."""
    if text[:1] == b"[" and text.lstrip(b"[ \t\r\n")[:1].isdigit():
        return text.count(b",") + 1
    size, at = len(text), text.find(_DATA)
    while at >= 0:
        end = text.find(b'"', at)
        size -= (end if end >= 0 else len(text)) - at
        at = text.find(_DATA, end) if end >= 0 else -1
    return (size + _BYTES_PER_TOKEN - 1) // _BYTES_PER_TOKEN
