"""Google's operations, said in OpenAI's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from backends.base import Operation, Request, Usage
from backends.surfaces import vectors
from backends.surfaces.anthropic.counting import CountTokens, count_in
from backends.surfaces.gemini import answered, asked, config, content
from backends.surfaces.gemini.fields import body_of, inner, several
from backends.surfaces.gemini.paths import has_events
from backends.surfaces.gemini.tools import tools
from backends.surfaces.gemini.writer import ContentWriter
from backends.surfaces.places import Members, optional, wrong
from backends.surfaces.translation import Codec, Said, Writer, said

_DIMENSIONS = "outputDimensionality"


class GenerateContent(Codec):
    """The codec of `generateContent` and `streamGenerateContent`."""

    operation: ClassVar[Operation] = Operation.GEMINI_GENERATE
    said_as: ClassVar[Operation] = Operation.CHAT
    own_names: ClassVar[bool] = True
    wishes: ClassVar[frozenset[str]] = frozenset(
        {"chat_template_kwargs", "reasoning_effort", "top_k", "presence_penalty", "frequency_penalty"}
    )

    def asked(self, request: Request) -> Said:
        return asked.chat(request)

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return answered.whole(request, answer, usage, config.shows_thoughts(body_of(request.body)))

    def writer(self, request: Request) -> Writer:
        body = body_of(request.body)
        return ContentWriter(request, has_events(body.get("alt")), config.shows_thoughts(body))


class CountContent(CountTokens):
    """The codec of `countTokens`: of contents, or of all that a request for an answer would have."""

    operation: ClassVar[Operation] = Operation.GEMINI_COUNT_TOKENS

    def asked(self, request: Request) -> Said:
        body = body_of(request.body)
        whole = inner(body, "generateContentRequest", "") or body
        dropped: list[str] = []
        told = tools(whole, dropped) | config.sampling(whole, 1, dropped)
        made: Members = {"messages": content.messages(whole)}
        made |= {name: told[name] for name in ("tools", "chat_template_kwargs") if name in told}
        return said(request, self.said_as, made, dropped)

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return msgspec.json.encode({"totalTokens": count_in(answer)})


class EmbedContent(Codec):
    """The codec of `embedContent`."""

    operation: ClassVar[Operation] = Operation.GEMINI_EMBED
    said_as: ClassVar[Operation] = Operation.EMBEDDINGS
    own_names: ClassVar[bool] = True

    def asked(self, request: Request) -> Said:
        body = body_of(request.body)
        return _embedding(request, [("", body)])

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return msgspec.json.encode({"embedding": {"values": vectors.in_order(answer)[0]}})

    def writer(self, request: Request) -> Writer:
        raise NotImplementedError("embeddings are not streamed")


class BatchEmbedContents(EmbedContent):
    """The codec of `batchEmbedContents`."""

    operation: ClassVar[Operation] = Operation.GEMINI_BATCH_EMBED

    def asked(self, request: Request) -> Said:
        return _embedding(request, several(body_of(request.body), "requests", ""))

    def answer(self, request: Request, answer: bytes, usage: Usage) -> bytes:
        return msgspec.json.encode({"embeddings": [{"values": one} for one in vectors.in_order(answer)]})


def _embedding(request: Request, wishes: Sequence[tuple[str, Members]]) -> Said:
    """Return the request for the embeddings that are wished for, each with its place."""
    made: Members = {"input": [content.content_in(wish, "content", place) for place, wish in wishes]}
    sizes = {optional(wish, _DIMENSIONS, place, int, "a whole number") for place, wish in wishes}
    if len(sizes) > 1:
        raise wrong(f"requests.{_DIMENSIONS}", "all embeddings of one request have the same size")
    if (size := sizes.pop()) is not None:
        made["dimensions"] = size
    read = ("model", "stream", "alt", "content", _DIMENSIONS)
    dropped = [name for _, wish in wishes for name, value in wish.items() if name not in read and value]
    return said(request, Operation.EMBEDDINGS, made, dropped)
