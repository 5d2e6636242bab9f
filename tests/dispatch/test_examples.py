"""Example turns of a model: where they stand in requests of every dialect, passed on or translated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.base import Operation
from backends.dialect.members import Members
from backends.dialect.prompting import Examples, Mode, System
from gateway.fake.engine import FakeEngine
from tests.serving import Served, serving

U, A = {"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "yes"}
EXAMPLES = Examples([("user", "Is it?"), ("assistant", "yes")])
S, D = {"role": "system", "content": "Be short."}, {"role": "developer", "content": "Be kind."}
X = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([X], [U, A, X]),
        ([], [U, A]),
        ([S, X], [S, U, A, X]),
        ([S, D, X, S], [S, D, U, A, X, S]),
        ([S], [S, U, A]),
        (["odd"], [U, A, "odd"]),
        ([{"content": "no role"}], [U, A, {"content": "no role"}]),
    ],
)
def test_behind_the_system_messages_and_before_the_rest(before: list[Any], after: list[Any]) -> None:
    for operation in (Operation.CHAT, Operation.MESSAGES):
        body = b'{"n" : 1.0, "messages": %b}' % msgspec.json.format(msgspec.json.encode(before), indent=1)
        members = Members(body)
        EXAMPLES.apply(members, operation)
        assert msgspec.json.decode(members.body()) == {"n": 1.0, "messages": after}
        assert members.body().startswith(b'{"n" : 1.0, ')


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"input": "x"}, [U, A, X]),
        ({"input": [X]}, [U, A, X]),
        ({"input": [S, X]}, [S, U, A, X]),
        ({"input": "x", "previous_response_id": "r"}, "x"),
        ({"input": "x", "conversation": "c"}, "x"),
        ({"input": "x", "previous_response_id": None}, [U, A, X]),
        ({"input": 5}, 5),
    ],
)
def test_in_responses(before: dict[str, Any], after: Any) -> None:
    members = Members(msgspec.json.encode(before))
    EXAMPLES.apply(members, Operation.RESPONSES)
    assert msgspec.json.decode(members.body())["input"] == after


def test_with_the_models_own_system_prompt() -> None:
    for mode in Mode:
        members = Members(msgspec.json.encode({"messages": [S, X]}))
        System("Be kind.", mode).apply(members, Operation.CHAT)
        EXAMPLES.apply(members, Operation.CHAT)
        found = msgspec.json.decode(members.body())["messages"]
        assert (found[0]["role"], found[1:]) == ("system", [U, A, X])


def test_where_there_is_no_conversation() -> None:
    for operation in (Operation.COMPLETIONS, Operation.EMBEDDINGS):
        members = Members(b'{"messages":[],"input":"x"}')
        EXAMPLES.apply(members, operation)
        assert not members.changed


CONFIG = """
backends: {{one: {{engine: vllm, url: "{url}", models: [up]{more}}}}}
models:
  base: {{targets: {{one: up}}, messages: [{{role: user, content: "Is it?"}}, {{role: assistant, content: "yes"}}]}}
  kid: {{from: base, system: Be short.}}
  bare: {{from: base, messages: []}}
"""


async def said(served: Served, engine: FakeEngine, model: str, kind: str) -> list[Any]:
    """Return the messages that an engine gets, with their contents as text."""
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": ("/v1/chat/completions", {"messages": [X]}),
        "messages": ("/v1/messages", {"messages": [X], "max_tokens": 9}),
        "responses": ("/v1/responses", {"input": "x"}),
        "ollama": ("/api/chat", {"messages": [X]}),
        "generate": ("/api/generate", {"prompt": "x"}),
        "gemini": ("/v1beta/models/{model}:generateContent", {"contents": {"parts": {"text": "x"}}}),
    }
    path, body = asked[kind]
    answer = await served.post(path.format(model=model), {"model": model, **body})
    assert answer.status == 200, answer.body
    assert engine.requests[-1].path == "/v1/chat/completions"
    found = engine.requests[-1].json()["messages"]
    for message in found:
        if isinstance(message["content"], list):
            message["content"] = "".join(part["text"] for part in message["content"])
    return list(found)


@pytest.mark.parametrize("kind", ["chat", "messages", "responses", "ollama", "generate", "gemini"])
async def test_every_dialect_and_personas(kind: str, tmp_path: Path) -> None:
    more = ", native: {messages: false, responses: false}"
    async with (
        FakeEngine(models=["up"]) as one,
        serving(tmp_path, CONFIG.format(url=one.url, more=more)) as served,
    ):
        assert await said(served, one, "base", kind) == [U, A, X]
        assert await said(served, one, "kid", kind) == [S, U, A, X]
        assert await said(served, one, "bare", kind) == [X]
        shown = await served.post("/api/show", {"model": "kid"})
        assert shown.json()["messages"] == [U, A]
        assert "messages" not in (await served.post("/api/show", {"model": "base"})).json()
