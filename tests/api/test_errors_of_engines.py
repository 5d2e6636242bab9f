"""Errors of engines, whatever their body looks like, in the words of every dialect, over real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.api.asking import answering
from tests.serving import serving

HI = [{"role": "user", "content": "hi"}]
ASKED: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": "m", "max_tokens": 5, "messages": HI},
    "/v1/responses": {"model": "m", "input": "hi"},
    "/api/chat": {"model": "m", "messages": HI},
}
BODIES: dict[str, tuple[Any, str]] = {
    "no JSON": ("<html>gone wrong</html>", "text/html"),
    "nothing": ("", "text/plain"),
    "a list around it": ([{"error": {"message": "gone wrong", "code": "x"}}], "application/json"),
    "no type": ({"error": {"message": "gone wrong"}}, "application/json"),
    "a number for a code": ({"error": {"message": "gone wrong", "code": 1301}}, "application/json"),
    "a text": ({"error": "gone wrong"}, "application/json"),
    "details": ({"detail": [{"loc": ["body"], "msg": "gone wrong"}]}, "application/json"),
    "huge": ({"error": {"message": "x" * 300_000}}, "application/json"),
}
CONFIG = """
backends:
  a: {{engine: openai, url: "{url}", native: {{messages: false, responses: false}}}}
models:
  m: {{targets: {{a: fake}}}}
"""


def message_of(path: str, said: dict[str, Any]) -> str:
    """Return the message of an error that has the shape of the dialect at a path."""
    if path == "/api/chat":
        assert set(said) == {"error"} and isinstance(said["error"], str)
        return said["error"]
    error = said["error"]
    assert isinstance(error["message"], str) and isinstance(error["type"], str)
    if path == "/v1/messages":
        assert said["type"] == "error"
    else:
        assert set(error) == {"message", "type", "param", "code"} and isinstance(error["code"], str)
    return str(error["message"])


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("body", BODIES)
async def test_any_error_is_one_of_the_clients_dialect(body: str, status: int, tmp_path: Path) -> None:
    said, kind = BODIES[body]
    rule = answering("/v1/chat/completions", said, kind, status=status)
    async with (
        FakeEngine(rules=[rule]) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as found,
    ):
        for path, asked in ASKED.items():
            for stream in (False, True):
                answer = await found.post(path, asked | {"stream": stream})
                message = message_of(path, answer.json())
                if path == "/v1/messages":
                    assert answer.json()["request_id"] == answer.headers["request-id"]
                assert answer.status == 400 if status == 400 else answer.status >= 500
                assert message and len(answer.body) < 4000
                assert not answer.headers["content-type"].startswith(("text/event-stream", "text/html"))


async def test_what_is_too_large_has_the_type_of_each_dialect(tmp_path: Path) -> None:
    text = CONFIG.format(url="http://127.0.0.1:9") + "server: {limits: {body: 2000}}\n"
    async with serving(tmp_path, text) as found:
        for path, asked in ASKED.items():
            answer = await found.post(path, asked | {"instructions": "x" * 3000, "system": "x" * 3000})
            assert answer.status == 413 and message_of(path, answer.json())
            if path == "/v1/messages":
                assert answer.json()["error"]["type"] == "request_too_large"


async def test_a_summary_of_a_conversation_is_nothing_that_is_there(tmp_path: Path) -> None:
    """Codex asks for it in some of its configurations, and sums up by itself where it is not there."""
    async with serving(tmp_path, CONFIG.format(url="http://127.0.0.1:9")) as found:
        answer = await found.post("/v1/responses/compact", ASKED["/v1/responses"])
        assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
        assert message_of("/v1/responses", answer.json())
