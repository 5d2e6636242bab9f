"""What an answer must look like to a client: OpenAI's shapes, read strictly.

Rules:
- The model's name in every answer is the one the client asked for.
- A finish reason is one of OpenAI's; counts of tokens are whole, not negative and add up.
- What typed clients read has the types of OpenAI's SDK (`sdk.py`).
- Fields an engine adds are nobody's business here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.conformance import sdk
from tests.serving import Answer

MODEL = "public"
"""The model's name for clients. The engine knows it under another name."""
FINISHED = ("stop", "length", "tool_calls", "content_filter", "function_call")
REASONING = ("reasoning_content", "reasoning")
"""The keys under which engines send what a model thinks before it answers."""


def completion(answer: Answer, choices: int = 1, counted: bool = True) -> dict[str, Any]:
    """Return a whole chat completion; fails the test where it is none.

    Not `counted` is one that may have no usage, because its engine was left before it told any.
    """
    body = _whole(answer, "chat.completion", choices, counted)
    for choice in body["choices"]:
        message = choice["message"]
        assert message["role"] == "assistant"
        assert message.get("content") is None or isinstance(message["content"], str)
        assert message.get("content") or message.get("tool_calls"), "the message says nothing"
    return body


def text_completion(answer: Answer) -> dict[str, Any]:
    """Return a whole completion of the older kind."""
    body = _whole(answer, "text_completion", 1)
    assert isinstance(body["choices"][0]["text"], str) and body["choices"][0]["text"]
    return body


def content(body: dict[str, Any]) -> str:
    """Return the text of the only choice."""
    text = body["choices"][0]["message"]["content"]
    assert isinstance(text, str) and text
    return text


def usage(said: Any) -> dict[str, int]:
    """Token counts that can be true."""
    assert isinstance(said, dict), "there is no usage"
    prompt, output, total = (said[f"{name}_tokens"] for name in ("prompt", "completion", "total"))
    assert all(type(count) is int for count in (prompt, output, total))
    assert prompt > 0 and output >= 0 and total == prompt + output
    return said


def error(answer: Answer, status: int, *codes: str) -> dict[str, Any]:
    """Return an error with this status and one of these codes; any code where none is named."""
    said = answer.body[:500]
    assert answer.status == status, f"{answer.status} instead of {status}: {said!r}"
    found = answer.error
    assert not codes or found["code"] in codes, f"{found['code']} is not in {codes}: {said!r}"
    return found


@dataclass
class Streamed:
    """What a stream told in all its chunks."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    usage_alone: bool = False
    """It came in a chunk of its own, as OpenAI sends it; some engines put it beside the last choice, asked or not."""
    tool_calls: dict[int, dict[str, str]] = field(default_factory=dict)
    chunks: int = 0
    """Chunks that carried text."""


def streamed(answer: Answer, object: str = "chat.completion.chunk") -> Streamed:
    """Return a whole stream with one choice; fails the test where it is none, or ended early."""
    assert answer.status == 200, f"{answer.status}: {answer.body[:500]!r}"
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last = answer.events
    assert last == "[DONE]" and answer.whole
    told = Streamed()
    for event in events:
        assert "error" not in event, event
        assert event["object"] == object
        assert event["model"] == MODEL, f"the model is called {event['model']}"
        assert isinstance(event["id"], str) and event["id"]
        assert type(event["created"]) is int
        sdk.fits(event)
        _read(told, event)
    assert told.finish_reason in FINISHED, f"{told.finish_reason} is no finish reason"
    assert len({event["id"] for event in events}) == 1, "the chunks have different ids"
    return told


def _read(told: Streamed, event: dict[str, Any]) -> None:
    if event.get("usage"):
        assert told.usage is None, "usage comes twice"
        told.usage = usage(event["usage"])
        told.usage_alone = not event["choices"]
        assert told.usage_alone or event["choices"][0]["finish_reason"], "usage comes before the end"
    for choice in event["choices"]:
        assert choice["index"] == 0
        said = choice.get("delta") or choice
        text = said.get("content") or said.get("text") or ""
        told.text += text
        told.chunks += bool(text)
        told.reasoning += next((said[key] for key in REASONING if said.get(key)), "")
        for call in said.get("tool_calls") or ():
            whole = told.tool_calls.setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
            whole["id"] += call.get("id") or ""
            whole["name"] += call["function"].get("name") or ""
            whole["arguments"] += call["function"].get("arguments") or ""
        if choice.get("finish_reason"):
            assert told.finish_reason is None, "the choice finishes twice"
            told.finish_reason = choice["finish_reason"]


def broken(answer: Answer) -> dict[str, Any]:
    """Return a stream that began and failed: content, then an error event, no proper end. The error."""
    assert answer.status == 200, f"{answer.status}: {answer.body[:500]!r}"
    *events, last = answer.events
    assert any(choice.get("delta", {}).get("content") for event in events for choice in event["choices"])
    assert not answer.whole, "the answer ends as if it were complete"
    assert set(last["error"]) == {"message", "type", "param", "code"}
    return dict(last["error"])


def vectors(answer: Answer, count: int) -> list[list[float]]:
    """Return the embeddings of `count` texts, all of the same length."""
    body = _json(answer)
    assert body["object"] == "list" and body["model"] == MODEL
    assert [item["index"] for item in body["data"]] == list(range(count))
    found = [item["embedding"] for item in body["data"]]
    assert all(isinstance(number, float | int) for vector in found for number in vector)
    assert len({len(vector) for vector in found}) == 1 and found[0]
    assert body["usage"]["prompt_tokens"] > 0
    sdk.fits(body)
    return found


def called(call: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a tool call."""
    assert call["id"]
    arguments = json.loads(call["arguments"])
    assert isinstance(arguments, dict)
    return arguments


def _whole(answer: Answer, object: str, choices: int, counted: bool = True) -> dict[str, Any]:
    body = _json(answer)
    assert body["object"] == object
    assert body["model"] == MODEL, f"the model is called {body['model']}"
    assert isinstance(body["id"], str) and body["id"]
    assert type(body["created"]) is int
    assert [choice["index"] for choice in body["choices"]] == list(range(choices))
    for choice in body["choices"]:
        assert choice["finish_reason"] in FINISHED, f"{choice['finish_reason']} is no finish reason"
    if counted or "usage" in body:
        usage(body["usage"])
    sdk.fits(body)
    return body


def _json(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, f"{answer.status}: {answer.body[:500]!r}"
    assert answer.headers["content-type"] == "application/json"
    assert answer.whole
    body = answer.json()
    assert isinstance(body, dict)
    return body
