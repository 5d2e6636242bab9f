"""Which operations can be said in another API, and when they are.

Rules:
- Where an engine has the operation itself, the client's bytes pass, unless the client or the config wants otherwise, or
  the engine would ignore something that is asked for.
- System messages among those of Anthropic's API are put where the model wants them first, whoever answers.
- A chat with the older `functions` is said with tools where the engine knows only these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from backends.base import Engine, Operation, Request
from backends.dialect.parameters import Parameters
from backends.surfaces import functions
from backends.surfaces.anthropic import late_system
from backends.surfaces.anthropic.counting import CountTokens
from backends.surfaces.anthropic.messages import Messages
from backends.surfaces.gemini.codecs import BatchEmbedContents, CountContent, EmbedContent, GenerateContent
from backends.surfaces.ollama.codecs import OllamaChat, OllamaEmbed, OllamaEmbeddings, OllamaGenerate
from backends.surfaces.responses.codec import ResponsesCodec
from backends.surfaces.responses.counting import CountInput
from backends.surfaces.translation import Codec, Translation

CODECS: Final[Mapping[Operation, Codec]] = {
    Operation.MESSAGES: Messages(),
    Operation.COUNT_TOKENS: CountTokens(),
    Operation.RESPONSES: ResponsesCodec(),
    Operation.INPUT_TOKENS: CountInput(),
    Operation.OLLAMA_CHAT: OllamaChat(),
    Operation.OLLAMA_GENERATE: OllamaGenerate(),
    Operation.OLLAMA_EMBED: OllamaEmbed(),
    Operation.OLLAMA_EMBEDDINGS: OllamaEmbeddings(),
    Operation.GEMINI_GENERATE: GenerateContent(),
    Operation.GEMINI_COUNT_TOKENS: CountContent(),
    Operation.GEMINI_EMBED: EmbedContent(),
    Operation.GEMINI_BATCH_EMBED: BatchEmbedContents(),
}
"""The codec of each operation that has one."""
_FUNCTIONS: Final[Codec] = functions.Functions()


def possible(native: frozenset[Operation]) -> frozenset[Operation]:
    """Return what an engine can be asked for that has the operations `native`: these, and what can be said in them."""
    return native | {operation for operation, codec in CODECS.items() if codec.said_as in native}


def settled(
    request: Request,
    engine: Engine,
    native: frozenset[Operation],
    parameters: Parameters | None,
    now: Callable[[], int],
) -> tuple[Request, Translation | None]:
    """Return a client's request with what its model settles of it, and how it is translated, as `translated` does.

    Where the model has a chat template, whatever can be said as a chat is: only chats take one. Likewise where requests
    choose among LoRA adapters, and this operation cannot.
    """
    codec = CODECS.get(request.operation)
    if request.operation in late_system.OPERATIONS:
        request = late_system.placed(request, parameters is not None and parameters.late_system_as_user)
    if codec is not None and parameters is not None and parameters.asks_for(request.operation, codec.said_as):
        request = msgspec.structs.replace(request, translate=True)
    if parameters is None or codec is None or not codec.own_names:
        request = request if parameters is None else parameters.applied(request)
        translation = translated(request, engine, native, now)
        if translation is not None and parameters is not None:
            translation.said = parameters.completed(translation.said, request)
        return request, translation
    translation = translated(request, engine, native, now)
    if translation is not None:
        translation.said = parameters.applied(translation.said)
    return request, translation


def translated(
    request: Request, engine: Engine, native: frozenset[Operation], now: Callable[[], int] = lambda: 0
) -> Translation | None:
    """Return how `engine`, of whose operations `native` are used, is asked for `request`; None: as it is.

    `now` returns the time in nanoseconds since the epoch, for answers that tell it.

    Raise RequestError where it would have to be translated and cannot be.
    """
    if request.operation is Operation.CHAT and not engine.has_functions and functions.used(request):
        return Translation(_FUNCTIONS, request, now)
    codec = CODECS.get(request.operation)
    if codec is None or codec.said_as not in native:
        return None
    if request.operation in native and not request.translate and not engine.ignores(request):
        return None
    return Translation(codec, request, now)
