"""The count of a message's tokens, asked of the engine's tokenizer."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from backends.base import Operation, Request, Usage
from backends.surfaces import chat
from backends.surfaces.anthropic import asked
from backends.surfaces.translation import Codec, Said, Writer, said

_SHAPING = ("tools", "chat_template_kwargs")
"""What a template reads beside the messages."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class _Tokens(msgspec.Struct):
    """A tokenizer's answer."""

    tokens: list[Any]
    count: int | None = None


_tokens = msgspec.json.Decoder(_Tokens)


class CountTokens(Codec):
    """The codec of Anthropic's count of tokens."""

    operation: ClassVar[Operation] = Operation.COUNT_TOKENS
    said_as: ClassVar[Operation] = Operation.TOKENIZE

    def asked(self, request: Request) -> Said:
        body = _decode(request.body)
        dropped: list[str] = []
        told = asked.tools(body, dropped) | asked.thinking(body)
        made = {"messages": asked.messages(body)}
        made |= {name: told[name] for name in _SHAPING if name in told}
        return said(request, self.said_as, made, dropped)

    def without(self, said: Request, name: str) -> Said | None:
        """Where the engine tokenizes texts only, return the text of the messages, to which no template was applied."""
        body = _decode(said.body)
        if name not in ("messages", *_SHAPING) or "messages" not in body:
            return None
        texts = [_text(message) for message in body["messages"]]
        if "tools" in body:
            texts.append(msgspec.json.encode(body["tools"]).decode())
        made = {"model": said.model, "prompt": "\n".join(texts)}
        return Said(msgspec.structs.replace(said, body=msgspec.json.encode(made)), ("chat_template",))

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return msgspec.json.encode({"input_tokens": count_in(answer)})

    def writer(self, request: Request) -> Writer:
        raise TypeError("a count is never streamed")


def count_in(answer: bytes) -> int:
    """Return how many tokens a tokenizer's answer counts. Raise msgspec's errors if it cannot be read."""
    found = _tokens.decode(answer)
    return len(found.tokens) if found.count is None else found.count


def _text(message: dict[str, Any]) -> str:
    """Return what a message says, its calls too."""
    calls = message.get("tool_calls")
    told = chat.text_of(message.get("content"))
    return told + msgspec.json.encode(calls).decode() if calls else told
