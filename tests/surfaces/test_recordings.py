"""Every recorded chat of every engine, said in each other dialect and read as strict clients read it.

Rules:
- What a client gets is held against the types of the SDK of its dialect, without any conversion of values: a member
  that is missing, a word that the type does not know, null where it must not be.
- A stream that is complete in OpenAI's words is complete in the client's, and one that is not has no end there.
- The split of the bytes does not matter, so each stream arrives in small pieces and as a whole.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
import pytest
import yaml

from backends import registry
from backends.base import Engine, Operation, Reply
from backends.surfaces.translation import Translation
from tests.backends.recorded import FOLDER
from tests.conformance import gemini_types, sdk
from tests.conformance.engines import ENGINES
from tests.conformance.replay import Recording, recordings
from tests.surfaces import chatting

PATHS = ("/v1/chat/completions", "/api/chat")
HI = [{"role": "user", "content": "hi"}]
ASKED: dict[Operation, dict[str, Any]] = {
    Operation.MESSAGES: {"model": "m", "max_tokens": 9, "messages": HI},
    Operation.RESPONSES: {"model": "m", "input": "hi"},
    Operation.OLLAMA_CHAT: {"model": "m", "messages": HI},
    Operation.OLLAMA_GENERATE: {"model": "m", "prompt": "hi"},
    Operation.GEMINI_GENERATE: {
        "model": "m",
        "alt": "sse",
        "contents": [{"parts": [{"text": "hi"}]}],
        "generationConfig": {"thinkingConfig": {"includeThoughts": True}},
    },
}
SIZES = (97, 1 << 20)


def engine_of(folder: str) -> Engine:
    """Return the engine whose recordings these are, with its options."""
    row = ENGINES[folder]
    name = row.engine or folder
    more = yaml.safe_load(f"{{{row.backend}}}").get("options")
    kind = registry.engine(name).options_type
    return registry.create(name, None if more is None or kind is None else kind.model_validate(more))


@cache
def chats() -> tuple[tuple[str, Recording], ...]:
    """Return all recorded chats that were answered, with the names of their folders."""
    return tuple(
        (folder, found)
        for folder in sorted(ENGINES)
        for found in sorted(recordings(FOLDER / folder), key=lambda one: one.name)
        if found.path in PATHS and found.status.split()[1] == b"200" and found.answer
    )


def is_streamed(found: Recording) -> bool:
    """Tell whether a recording asked for a stream; bodies that stand for any other one are told by the answer."""
    try:
        asked = json.loads(found.body)
    except ValueError:
        return bool(found.events())
    return bool(asked.get("stream"))


def lines(data: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in data.split(b"\n")[:-1]]


FITS = {
    Operation.MESSAGES: (sdk.fits_message, sdk.fits_message_event, chatting.events),
    Operation.RESPONSES: (sdk.fits, sdk.fits_response_event, chatting.events),
    Operation.OLLAMA_CHAT: (sdk.fits_ollama_chat, sdk.fits_ollama_chat, lines),
    Operation.OLLAMA_GENERATE: (sdk.fits_ollama_generate, sdk.fits_ollama_generate, lines),
    Operation.GEMINI_GENERATE: (gemini_types.fits_whole, gemini_types.fits, chatting.pieces),
}
"""What a whole answer must fit, what each piece of a stream must fit, and how a stream is taken apart."""
ENDS = ("message_stop", "response.completed", "response.incomplete")


def has_ended(events: list[dict[str, Any]]) -> bool:
    """Tell whether a stream has the end that its dialect gives to complete ones."""
    last = events[-1] if events else {}
    return last.get("type") in ENDS or last.get("done") is True or "usageMetadata" in last


def numbered(events: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Yield the number of each event of a dialect that numbers them, beside the one that it should have."""
    return ((event["sequence_number"], at) for at, event in enumerate(events) if "sequence_number" in event)


def streamed(engine: Engine, found: Translation, data: bytes, size: int) -> tuple[bytes, bool]:
    """Return what the client gets of a stream, and whether it was complete."""
    decoder = found.decoder(engine.decoder(found.said, "demo"))
    out = b""
    for start in range(0, len(data), size):
        if decoder.failure is not None or decoder.enough:
            break
        out += decoder.feed(data[start : start + size])
    if decoder.failure is None:
        out += decoder.close()
    return out, decoder.failure is None


def is_complete(engine: Engine, found: Translation, data: bytes) -> bool:
    """Tell whether the engine's adapter takes a stream for complete."""
    decoder = engine.decoder(found.said, "demo")
    decoder.feed(data)
    if decoder.failure is None and not decoder.enough:
        decoder.close()
    return decoder.failure is None


@pytest.mark.parametrize("operation", ASKED)
@pytest.mark.parametrize("folder", sorted({folder for folder, _ in chats()}))
def test_every_recorded_chat_is_read_by_strict_clients(folder: str, operation: Operation) -> None:
    engine = engine_of(folder)
    fits_whole, fits_piece, apart = FITS[operation]
    told = 0
    for _, recording in (pair for pair in chats() if pair[0] == folder):
        is_stream = is_streamed(recording)
        found = chatting.translation(operation, ASKED[operation] | {"stream": is_stream})
        where = f"{folder}/{recording.name}"
        if is_stream:
            complete = is_complete(engine, found, recording.answer)
            for size in SIZES:
                data, whole = streamed(engine, found, recording.answer, size)
                events = apart(data)
                for event in events:
                    fits_piece(event)
                assert whole is complete and has_ended(events) is complete, where
                assert all(number == at for number, at in numbered(events)), where
            told += 1
            continue
        headers = tuple((name.lower(), value.strip()) for name, _, value in map(_parted, recording.headers))
        read = engine.reply(found.said, "demo", headers, recording.answer)
        if isinstance(read, Reply):
            reply = found.reply(read)
            assert isinstance(reply, Reply), (where, reply)
            fits_whole(msgspec.json.decode(reply.body))
            told += 1
    assert told


def _parted(line: bytes) -> tuple[bytes, bytes, bytes]:
    return line.partition(b":")


def test_there_are_recordings_of_both_kinds() -> None:
    kinds = [is_streamed(recording) for _, recording in chats()]
    assert len(kinds) > 300 and len([*itertools.filterfalse(None, kinds)]) > 100 < sum(kinds)
