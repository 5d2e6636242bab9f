"""System messages in the middle of conversations in Anthropic's API: at the beginning, or in the user's turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.base import Operation, Request
from backends.surfaces.anthropic.late_system import placed
from gateway.fake.engine import FakeEngine
from tests.api.asking import answering
from tests.serving import serving

CALL = {"type": "tool_use", "id": "t1", "name": "get", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "5"}


def block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def made(messages: list[Any], as_user: bool, **more: Any) -> dict[str, Any]:
    body = msgspec.json.encode({"model": "m", "messages": messages, **more})
    found: dict[str, Any] = msgspec.json.decode(placed(Request(Operation.MESSAGES, body, "m"), as_user).body)
    return found


def test_it_joins_the_system_text() -> None:
    told = made([user("hi"), system("and kind"), system([block("and true")])], False, system="be brief")
    assert told["system"] == [block("be brief"), block("and kind"), block("and true")]
    assert told["messages"] == [user("hi")]


def test_it_joins_the_users_turn_before_it() -> None:
    told = made([{"role": "user", "content": "hi"}, system("and kind")], True, system="be brief")
    assert told["system"] == [block("be brief")]
    assert told["messages"] == [user(block("hi"), block("and kind"))]


def test_behind_an_answer_it_begins_the_users_next_turn() -> None:
    answer = {"role": "assistant", "content": [CALL]}
    told = made([user(block("hi")), answer, system("and kind"), user(block("there"), RESULT)], True)
    # Results of tools stand first, directly behind the calls.
    assert told["messages"] == [
        user(block("hi")),
        answer,
        user(RESULT, block("and kind"), block("there")),
    ]


def test_turns_of_the_user_that_no_system_message_joins_stay_apart() -> None:
    told = made([user(block("a")), user(block("b")), system("s"), user(block("c"))], True)
    assert told["messages"] == [user(block("a")), user(block("b"), block("s"), block("c"))]


def test_before_all_others_it_is_system_text_either_way() -> None:
    assert made([system("be brief"), user("hi")], True) == {
        "model": "m",
        "system": [block("be brief")],
        "messages": [user("hi")],
    }


def test_an_empty_one_is_nothing() -> None:
    answer = {"role": "assistant", "content": "yes"}
    assert made([user("hi"), answer, system("")], True)["messages"] == [user("hi"), answer]


@pytest.mark.parametrize("as_user", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        b'{"system": "the \\"role\\": \\"system\\" text", "messages": [{"role": "user", "content": "hi"}]}',
        b'{"messages": [{"role": "user", "content": "hi"}, {"role": "system", "content": 5}]}',
        b'{"messages": {"role":"system"}}',
        b'{"messages": ["text", {"role":"system","content":"x"}]}',
    ],
)
def test_other_requests_keep_their_bytes(body: bytes, as_user: bool) -> None:
    assert placed(Request(Operation.MESSAGES, body, "m"), as_user).body is body


CONFIG = """
backends: {{e: {{engine: openai, url: "{url}", native: {{messages: {native}}}}}}}
models:
  plain: {{targets: {{e: up}}}}
  turned: {{from: plain, late_system: user}}
  persona: {{from: turned, system: "Be a pirate."}}
"""
ANSWER = {"id": "msg_1", "type": "message", "role": "assistant", "content": [block("yes")], "model": "up"}
ENDED = {"stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}


@pytest.mark.parametrize("native", ["true", "false"])
@pytest.mark.parametrize(
    ("model", "beginning", "turn"),
    [
        ("plain", "be brief\nand kind", "hi"),
        ("turned", "be brief", "hi\nand kind"),
        # A client's own system text stands before that of a persona.
        ("persona", "be brief", "hi\nand kind"),
    ],
)
async def test_the_model_decides_whoever_answers(
    model: str, beginning: str, turn: str, native: str, tmp_path: Path
) -> None:
    rules = [answering("/v1/messages", ANSWER | ENDED)] if native == "true" else [{"say": "yes"}]
    asked = {"model": model, "max_tokens": 5, "system": "be brief"}
    asked["messages"] = [{"role": "user", "content": "hi"}, system("and kind")]
    async with (
        FakeEngine(rules=rules) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url, native=native)) as served,
    ):
        answer = await served.post("/v1/messages", asked)
        assert answer.status == 200, answer.body
        said = engine.requests[-1].json()
    if native == "true":
        first, (message,) = said["system"], said["messages"]
    else:
        first, message = (one for one in said["messages"])
        first = first["content"]
    assert [text_of(first), message["role"], text_of(message["content"])] == [beginning, "user", turn]


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join([part["text"] for part in content])
