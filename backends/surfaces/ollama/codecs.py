"""Ollama's operations, said in OpenAI's."""

from __future__ import annotations

from typing import ClassVar

from backends.base import Operation, Request, Usage
from backends.surfaces.ollama import answered, asked, options
from backends.surfaces.ollama.writer import LineWriter
from backends.surfaces.translation import Clock, Codec, Said, Writer


class _Timed(Codec):
    """A codec whose answers tell durations."""

    lines_alone: ClassVar[bool] = True
    own_names: ClassVar[bool] = True
    wishes: ClassVar[frozenset[str]] = options.WISHES

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = Clock(lambda: 0) if clock is None else clock

    def at(self, clock: Clock) -> Codec:
        return type(self)(clock)


class OllamaChat(_Timed):
    """The codec of `/api/chat`."""

    operation: ClassVar[Operation] = Operation.OLLAMA_CHAT
    said_as: ClassVar[Operation] = Operation.CHAT

    def asked(self, request: Request) -> Said:
        return asked.chat(request)

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return answered.whole(request, answer, usage, self._clock, chats=True)

    def writer(self, request: Request) -> Writer:
        return LineWriter(request, self._clock, chats=True)


class OllamaGenerate(_Timed):
    """The codec of `/api/generate`; what is raw or has a suffix is said as a completion, which every engine has too."""

    operation: ClassVar[Operation] = Operation.OLLAMA_GENERATE
    said_as: ClassVar[Operation] = Operation.CHAT

    def asked(self, request: Request) -> Said:
        return asked.generate(request)

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return answered.whole(request, answer, usage, self._clock, chats=False)

    def writer(self, request: Request) -> Writer:
        return LineWriter(request, self._clock, chats=False)


class OllamaEmbed(_Timed):
    """The codec of `/api/embed`."""

    operation: ClassVar[Operation] = Operation.OLLAMA_EMBED
    said_as: ClassVar[Operation] = Operation.EMBEDDINGS

    def asked(self, request: Request) -> Said:
        return asked.embed(request)

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return answered.vectors(request, answer, usage, self._clock)

    def writer(self, request: Request) -> Writer:
        raise NotImplementedError("embeddings are not streamed")


class OllamaEmbeddings(OllamaEmbed):
    """The codec of `/api/embeddings`."""

    operation: ClassVar[Operation] = Operation.OLLAMA_EMBEDDINGS

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return answered.vector(request, answer)
