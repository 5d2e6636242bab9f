"""The checks of Ollama's own API, which every engine is asked for in OpenAI's: chats, prompts and embeddings.

Rules:
- What an engine answers is what it answers to the chat, the completion or the embeddings that are said instead
  (`playing.SAID_AS`). The types are those of Ollama's client for Python, read strictly (`sdk.py`).
"""

from __future__ import annotations

import json
from typing import Any

from backends.base import Operation
from tests.conformance import sdk
from tests.conformance.checks import PORT, QUESTION, STREAM, user
from tests.conformance.shapes import MODEL
from tests.conformance.stage import check
from tests.serving import Answer

CHAT, GENERATE, EMBED, OLDER = "/api/chat", "/api/generate", "/api/embed", "/api/embeddings"
WHOLE = {"stream": False}
OPTIONS = {"num_predict": 24, "temperature": 0}
TALK: dict[str, Any] = {"model": MODEL, "messages": user(QUESTION), "options": OPTIONS, **WHOLE}
PROMPT: dict[str, Any] = {"model": MODEL, "prompt": QUESTION, "options": OPTIONS, **WHOLE}
ENDS = ("stop", "length")


def ended(line: dict[str, Any]) -> None:
    """Hold an answer, or the last line of one, to its end: why, how long, how much."""
    assert line["done"] is True and line["done_reason"] in ENDS
    assert line["eval_count"] > 0 and line["total_duration"] > 0 and line["eval_duration"] > 0


def whole(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.body[:500]
    found: dict[str, Any] = answer.json()
    assert found["model"] == MODEL
    return found


def lines(answer: Answer) -> list[dict[str, Any]]:
    """Return the lines of a stream, of which the last one alone is the end."""
    assert answer.status == 200 and answer.whole, answer.body[:500]
    assert answer.headers["content-type"] == "application/x-ndjson" and answer.body.endswith(b"\n")
    found = [json.loads(line) for line in answer.body.split(b"\n")[:-1]]
    assert [line["done"] for line in found] == [*[False] * (len(found) - 1), True]
    assert {line["model"] for line in found} == {MODEL}
    ended(found[-1])
    return found


@check(CHAT, TALK, operation=Operation.OLLAMA_CHAT)
def ollama_chat(answer: Answer) -> None:
    found = whole(answer)
    sdk.fits_ollama_chat(found)
    ended(found)
    assert found["message"]["role"] == "assistant" and found["message"]["content"]
    assert found["prompt_eval_count"] > 0


@check(CHAT, TALK | STREAM, operation=Operation.OLLAMA_CHAT)
def ollama_chat_stream(answer: Answer) -> None:
    found = lines(answer)
    for line in found:
        sdk.fits_ollama_chat(line)
    assert "".join(line["message"]["content"] for line in found) and len(found) > 2


WITH_TOOLS = TALK | {
    "messages": user("Which port does Ollama use?"),
    "tools": [{"type": "function", "function": PORT}],
    "options": {"num_predict": 200, "temperature": 0},
}


@check(CHAT, WITH_TOOLS, replayed=True, operation=Operation.OLLAMA_CHAT)
def ollama_chat_tools(answer: Answer) -> None:
    found = whole(answer)
    sdk.fits_ollama_chat(found)
    (call,) = found["message"]["tool_calls"]
    assert call["function"]["name"] == PORT["name"] and isinstance(call["function"]["arguments"], dict)


@check(CHAT, WITH_TOOLS | STREAM, replayed=True, operation=Operation.OLLAMA_CHAT)
def ollama_chat_tools_stream(answer: Answer) -> None:
    found = lines(answer)
    (call,) = [call for line in found for call in line["message"].get("tool_calls", ())]
    assert call["function"]["name"] == PORT["name"] and isinstance(call["function"]["arguments"], dict)


@check(CHAT, TALK | {"think": True}, replayed=True, operation=Operation.OLLAMA_CHAT)
def ollama_chat_thinking(answer: Answer) -> None:
    found = whole(answer)
    sdk.fits_ollama_chat(found)
    assert found["message"]["thinking"]


@check(GENERATE, PROMPT, operation=Operation.OLLAMA_GENERATE)
def ollama_generate(answer: Answer) -> None:
    found = whole(answer)
    sdk.fits_ollama_generate(found)
    ended(found)
    assert found["response"]


@check(GENERATE, PROMPT | STREAM, operation=Operation.OLLAMA_GENERATE)
def ollama_generate_stream(answer: Answer) -> None:
    found = lines(answer)
    for line in found:
        sdk.fits_ollama_generate(line)
    assert "".join(line["response"] for line in found)


@check(GENERATE, PROMPT | {"raw": True}, operation=Operation.OLLAMA_GENERATE)
def ollama_generate_raw(answer: Answer) -> None:
    found = whole(answer)
    sdk.fits_ollama_generate(found)
    assert found["response"] and found["done_reason"] in ENDS


@check(
    EMBED, {"model": MODEL, "input": ["What is a gateway?", "Which port?"]}, operation=Operation.OLLAMA_EMBED
)
def ollama_embed(answer: Answer) -> None:
    found = whole(answer)
    sdk.fits_ollama_embed(found)
    first, second = found["embeddings"]
    assert first and len(first) == len(second) and first != second


@check(OLDER, {"model": MODEL, "prompt": "What is a gateway?"}, operation=Operation.OLLAMA_EMBEDDINGS)
def ollama_embeddings(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    sdk.fits_ollama_embeddings(answer.json())
    assert answer.json()["embedding"]


def refused(answer: Answer) -> None:
    """Expect a refusal in Ollama's words."""
    assert answer.status == 400 and set(answer.json()) == {"error"}, answer.body[:500]
    assert isinstance(answer.json()["error"], str)


def said(answer: Answer) -> None:
    """Expect a chat, whatever it says."""
    assert answer.status == 200, answer.body[:500]
    for line in (
        lines(answer) if answer.headers["content-type"] == "application/x-ndjson" else [answer.json()]
    ):
        sdk.fits_ollama_chat(line)
