"""The count of a response's input tokens, asked of the engine's tokenizer.

Rules:
- What is counted is the chat in which the request would be said, with its tools, as the model's template writes it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from backends.base import Operation, Request, Usage
from backends.surfaces.anthropic.counting import CountTokens, count_in
from backends.surfaces.responses import asked
from backends.surfaces.translation import Said, said

_SHAPING = ("messages", "tools", "chat_template_kwargs")

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class CountInput(CountTokens):
    """The codec of OpenAI's count of input tokens."""

    operation: ClassVar[Operation] = Operation.INPUT_TOKENS

    def asked(self, request: Request) -> Said:
        chat = asked.chat(request)
        told = _decode(chat.request.body)
        made = {name: told[name] for name in _SHAPING if name in told}
        return said(request, self.said_as, made, chat.dropped)

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": count_in(answer)})
