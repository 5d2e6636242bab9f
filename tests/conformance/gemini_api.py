"""The checks of Google's Gemini API, which every engine is asked for in OpenAI's: content, counts and embeddings.

Rules:
- What an engine answers is what it answers to the chat, the tokenizer or the embeddings that are said instead
  (`playing.SAID_AS`). The types are those of Google's SDK for Python, read strictly (`gemini_types.py`).
"""

from __future__ import annotations

from typing import Any

from backends.base import Operation
from tests.conformance import gemini_types
from tests.conformance.checks import PORT, QUESTION
from tests.conformance.shapes import MODEL
from tests.conformance.stage import check
from tests.serving import Answer

_BASE = f"/v1beta/models/{MODEL}"
GENERATE, STREAM = f"{_BASE}:generateContent", f"{_BASE}:streamGenerateContent?alt=sse"
LIST = f"{_BASE}:streamGenerateContent"
COUNT, EMBED, BATCH = f"{_BASE}:countTokens", f"{_BASE}:embedContent", f"{_BASE}:batchEmbedContents"


def said_by_user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "parts": [{"text": text}]}]


TALK: dict[str, Any] = {
    "contents": said_by_user(QUESTION),
    "generationConfig": {"maxOutputTokens": 40, "temperature": 0},
}
WITH_TOOLS: dict[str, Any] = {
    "contents": said_by_user("Which port does Ollama use?"),
    "tools": [
        {"functionDeclarations": [PORT | {"parametersJsonSchema": PORT["parameters"], "parameters": None}]}
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    "generationConfig": {"maxOutputTokens": 200, "temperature": 0},
}
THINKING = TALK | {"generationConfig": {"maxOutputTokens": 1200, "thinkingConfig": {"includeThoughts": True}}}


def whole(answer: Answer) -> list[dict[str, Any]]:
    """Return the parts of a whole answer."""
    assert answer.status == 200, answer.body[:500]
    gemini_types.fits_whole(answer.json())
    (candidate,) = answer.json()["candidates"]
    parts: list[dict[str, Any]] = candidate["content"]["parts"]
    return parts


def ended(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold a stream to its end, which the last piece alone has; return the parts in its pieces."""
    for piece in pieces:
        gemini_types.fits(piece)
    gemini_types.fits_whole(pieces[-1])
    assert not [one for one in pieces[:-1] if "usageMetadata" in one]
    return [part for one in pieces for part in one["candidates"][0]["content"]["parts"]]


def streamed(answer: Answer) -> list[dict[str, Any]]:
    """Return the parts of a stream of events."""
    assert answer.status == 200 and answer.whole, answer.body[:500]
    assert answer.headers["content-type"].startswith("text/event-stream")
    return ended(answer.events)


def text_of(parts: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts if not part.get("thought"))


@check(GENERATE, TALK, operation=Operation.GEMINI_GENERATE)
def gemini_generate(answer: Answer) -> None:
    assert text_of(whole(answer))
    counts = answer.json()["usageMetadata"]
    assert counts["promptTokenCount"] > 0 and counts["candidatesTokenCount"] > 0


@check(STREAM, TALK, operation=Operation.GEMINI_GENERATE)
def gemini_generate_stream(answer: Answer) -> None:
    parts = streamed(answer)
    assert text_of(parts) and len(parts) > 2


@check(LIST, TALK, operation=Operation.GEMINI_GENERATE)
def gemini_generate_list(answer: Answer) -> None:
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    assert text_of(ended(answer.json()))


@check(GENERATE, WITH_TOOLS, operation=Operation.GEMINI_GENERATE)
def gemini_tools(answer: Answer) -> None:
    (call,) = [part["functionCall"] for part in whole(answer) if "functionCall" in part]
    assert call["name"] == PORT["name"]


@check(STREAM, WITH_TOOLS, operation=Operation.GEMINI_GENERATE)
def gemini_tools_stream(answer: Answer) -> None:
    (call,) = [part["functionCall"] for part in streamed(answer) if "functionCall" in part]
    assert call["name"] == PORT["name"]


@check(GENERATE, THINKING, replayed=True, operation=Operation.GEMINI_GENERATE)
def gemini_thinking(answer: Answer) -> None:
    assert [part["text"] for part in whole(answer) if part.get("thought")]


@check(COUNT, {"contents": said_by_user(QUESTION)}, operation=Operation.GEMINI_COUNT_TOKENS)
def gemini_count_tokens(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    gemini_types.read(answer.json(), gemini_types.Counted)


def embedded(text: str) -> dict[str, Any]:
    return {"content": {"parts": [{"text": text}]}}


@check(EMBED, embedded("What is a gateway?"), operation=Operation.GEMINI_EMBED)
def gemini_embed(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    gemini_types.read(answer.json(), gemini_types.Embedded)


@check(
    BATCH,
    {"requests": [embedded("What is a gateway?"), embedded("Which port?")]},
    operation=Operation.GEMINI_BATCH_EMBED,
)
def gemini_batch_embed(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    first, second = gemini_types.read(answer.json(), gemini_types.AllEmbedded).embeddings
    assert len(first.values) == len(second.values) and first.values != second.values


def refused(answer: Answer) -> None:
    """Expect a refusal in Google's words."""
    assert answer.status == 400, answer.body[:500]
    said = answer.json()
    error = gemini_types.read(said[0] if isinstance(said, list) else said, gemini_types.Refused).error
    assert (error.code, error.status) == (400, "INVALID_ARGUMENT")


def said(answer: Answer) -> None:
    """Expect an answer, whatever it says."""
    assert answer.status == 200, answer.body[:500]
    if answer.headers["content-type"].startswith("text/event-stream"):
        streamed(answer)
    elif isinstance(answer.json(), list):
        ended(answer.json())
    else:
        whole(answer)
