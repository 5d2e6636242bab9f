"""OpenAI's Responses, said in its chat."""

from __future__ import annotations

from typing import ClassVar

from backends.base import Operation, Request, Usage
from backends.surfaces.responses import answered, asked
from backends.surfaces.responses.writer import ResponseWriter
from backends.surfaces.translation import Codec, Said, Writer


class ResponsesCodec(Codec):
    """The codec of OpenAI's Responses."""

    operation: ClassVar[Operation] = Operation.RESPONSES
    said_as: ClassVar[Operation] = Operation.CHAT
    wishes: ClassVar[frozenset[str]] = frozenset(
        {"chat_template_kwargs", "reasoning_effort", "parallel_tool_calls"}
    )

    def asked(self, request: Request) -> Said:
        return asked.chat(request)

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return answered.response(request, answer, usage)

    def writer(self, request: Request) -> Writer:
        return ResponseWriter(request)
