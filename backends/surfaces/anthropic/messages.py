"""Anthropic's Messages, said in OpenAI's chat."""

from __future__ import annotations

from typing import ClassVar

from backends.base import Operation, Request, Usage
from backends.surfaces.anthropic import answered, asked
from backends.surfaces.anthropic.writer import MessageWriter
from backends.surfaces.translation import Codec, Said, Writer


class Messages(Codec):
    """The codec of Anthropic's Messages."""

    operation: ClassVar[Operation] = Operation.MESSAGES
    said_as: ClassVar[Operation] = Operation.CHAT
    wishes: ClassVar[frozenset[str]] = frozenset(
        {"chat_template_kwargs", "reasoning_effort", "parallel_tool_calls"}
    )

    def asked(self, request: Request) -> Said:
        return asked.chat(request)

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return answered.message(request, answer, usage)

    def writer(self, request: Request) -> Writer:
        return MessageWriter(request)
