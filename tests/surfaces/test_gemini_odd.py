"""Requests of Google's API with members of any type in any place: each is read, or refused with its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from backends.base import Operation, RequestError
from backends.dialect.errors import UNREADABLE
from backends.surfaces.codecs import translated
from backends.surfaces.dialects import GEMINI_API
from backends.surfaces.gemini import paths
from backends.surfaces.surface import InvalidRequest
from tests.surfaces.chatting import ENGINE, NATIVE

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**18, 1e308, "", "x", "\0", "9" * 40 + "h"),
    *([], [[]], {}, {"a": {}}, [None], [1], ["x"], [{}], {"type": "object"}),
)


def wrong_for_google() -> Iterator[dict[str, Any]]:
    """Yield bodies for `generateContent`, each with one member of another type, or in another place."""
    turn = {"role": "model", "parts": [{"text": "x"}]}
    for value in VALUES:
        for name in (
            "contents",
            "systemInstruction",
            "tools",
            "toolConfig",
            "generationConfig",
            "safetySettings",
        ):
            yield {"contents": [turn], name: value}
        for name in ("role", "parts"):
            yield {"contents": [turn | {name: value}]}
        for name in ("text", "thought", "thoughtSignature", "inlineData", "functionCall", "functionResponse"):
            yield {"contents": [{"parts": [{name: value}]}]}
            yield {"contents": [{"role": "model", "parts": [{name: value}]}]}
        for name in ("id", "name", "args", "response", "parts"):
            yield {"contents": [{"role": "model", "parts": [{"functionCall": {"name": "f", name: value}}]}]}
            yield {"contents": [{"parts": [{"functionResponse": {"name": "f", name: value}}]}]}
        for name in ("mimeType", "data"):
            yield {
                "contents": [
                    {"parts": [{"inlineData": {"mimeType": "text/plain", "data": "YQ", name: value}}]}
                ]
            }
        for name in ("name", "description", "parameters", "parametersJsonSchema"):
            yield {"contents": [turn], "tools": [{"functionDeclarations": [{"name": "f", name: value}]}]}
        for name in (
            "type",
            "properties",
            "items",
            "anyOf",
            "enum",
            "nullable",
            "minItems",
            "format",
            "required",
        ):
            schema = {"type": "STRING", name: value}
            config = {"responseMimeType": "application/json", "responseSchema": schema}
            yield {"contents": [turn], "generationConfig": config}
        for name in ("mode", "allowedFunctionNames"):
            yield {"contents": [turn], "toolConfig": {"functionCallingConfig": {name: value}}}
        for name in CONFIGURED:
            yield {"contents": [turn], "generationConfig": {name: value}}


CONFIGURED = (
    *(
        "temperature",
        "topK",
        "maxOutputTokens",
        "candidateCount",
        "seed",
        "stopSequences",
        "responseLogprobs",
    ),
    *("logprobs", "thinkingConfig", "responseMimeType", "responseSchema", "responseJsonSchema"),
    "responseModalities",
)


def understood(operation: Operation, body: dict[str, Any]) -> bool:
    """Tell whether a request is read; where it is refused, hold the refusal to name its place."""
    sent = paths.whole(msgspec.json.encode(body), "m", False, False)
    try:
        request = GEMINI_API.read(operation, b"application/json", sent)
        found = translated(request, ENGINE, NATIVE | {Operation.TOKENIZE})
    except (InvalidRequest, RequestError) as refusal:
        place = (
            refusal.failure.param if isinstance(refusal, RequestError) else getattr(refusal, "message", "")
        )
        if not place:
            pytest.fail(f"a refusal without its place: {body}")
        return False
    return found is not None


def test_every_wrong_type_is_refused_with_its_place() -> None:
    found = [understood(Operation.GEMINI_GENERATE, body) for body in wrong_for_google()]
    assert any(found) and not all(found)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" * 400])
@pytest.mark.parametrize("name", [b"topK", b"maxOutputTokens", b"seed", b"candidateCount"])
def test_numbers_that_no_engine_could_take_are_refused(name: bytes, number: bytes) -> None:
    config = b'"generationConfig":{"%b":%b}' % (name, number)
    sent = b'{"model":"m","contents":{"parts":{"text":"x"}},%b}' % config
    with pytest.raises((InvalidRequest, RequestError, *UNREADABLE)):
        translated(GEMINI_API.read(Operation.GEMINI_GENERATE, b"application/json", sent), ENGINE, NATIVE)


def test_what_is_to_be_embedded_or_counted_may_be_wrong_too() -> None:
    for value in VALUES:
        understood(Operation.GEMINI_EMBED, {"content": value})
        understood(Operation.GEMINI_EMBED, {"content": "x", "outputDimensionality": value})
        understood(Operation.GEMINI_BATCH_EMBED, {"requests": value})
        understood(Operation.GEMINI_BATCH_EMBED, {"requests": [{"content": value}, {"content": "x"}]})
        understood(Operation.GEMINI_COUNT_TOKENS, {"contents": value})
        understood(Operation.GEMINI_COUNT_TOKENS, {"generateContentRequest": value})


def test_a_schema_may_not_be_nested_for_ever() -> None:
    schema: dict[str, Any] = {"type": "STRING"}
    for _ in range(200):
        schema = {"type": "ARRAY", "items": schema}
    config = {"responseMimeType": "application/json", "responseSchema": schema}
    body = {"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config}
    assert not understood(Operation.GEMINI_GENERATE, body)
