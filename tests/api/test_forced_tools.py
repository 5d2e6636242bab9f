"""Tools that must be called, at an engine that cannot be made to: others are asked, else it says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.serving import serving

TOOL: dict[str, Any] = {"name": "get", "parameters": {"type": "object", "properties": {}}}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
HI = [{"role": "user", "content": "hi"}]
CHAT = {"messages": HI, "tools": [{"type": "function", "function": TOOL}]}
NAMED = {"type": "function", "function": {"name": "get"}}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "required": ("/v1/chat/completions", CHAT | {"tool_choice": "required"}),
    "named": ("/v1/chat/completions", CHAT | {"tool_choice": NAMED}),
    "messages": (
        "/v1/messages",
        {"max_tokens": 9, "messages": HI, "tools": [{"name": "get", "input_schema": SCHEMA}]}
        | {"tool_choice": {"type": "any"}},
    ),
    "responses": (
        "/v1/responses",
        {"input": "hi", "tools": [{"type": "function", **TOOL}], "tool_choice": "required"},
    ),
}
API = pytest.mark.parametrize("api", ["native", "openai"])


def config(ollamas: list[FakeEngine], api: str, able: FakeEngine | None = None) -> str:
    """Return a config with a model behind several Ollamas and, perhaps, another engine."""
    options = f", options: {{api: {api}}}"
    lines = [f'  o{at}: {{engine: ollama, url: "{each.url}"{options}}}\n' for at, each in enumerate(ollamas)]
    names = [f"o{at}" for at in range(len(ollamas))]
    if able is not None:
        lines.append(
            f'  able: {{engine: openai, url: "{able.url}", native: {{messages: false, responses: false}}}}\n'
        )
        names.append("able")
    targets = ", ".join(f"{name}: up" for name in names)
    return f"backends:\n{''.join(lines)}models: {{m: {{targets: {{{targets}}}, balance: round_robin}}}}\n"


def posts(engine: FakeEngine) -> list[str]:
    return [asked.path for asked in engine.requests if asked.method == "POST"]


@API
@pytest.mark.parametrize("how", ASKED)
async def test_it_goes_where_a_tool_can_be_forced(how: str, api: str, tmp_path: Path) -> None:
    """However many engines there are that cannot: none of them is sent anything, nor counts as a try."""
    path, body = ASKED[how]
    async with FakeEngine() as one, FakeEngine() as two, FakeEngine() as three, FakeEngine() as able:
        async with serving(tmp_path, config([one, two, three], api, able)) as served:
            for _ in range(5):
                answer = await served.post(path, {"model": "m", **body})
                assert (answer.status, answer.headers["x-gateway-backend"]) == (200, "able"), answer.body
        assert [posts(engine) for engine in (one, two, three)] == [[], [], []]
        assert able.requests[-1].json()["tool_choice"] in ("required", NAMED)


@API
@pytest.mark.parametrize("how", ASKED)
async def test_without_such_an_engine_it_says_why_and_what_to_do(how: str, api: str, tmp_path: Path) -> None:
    path, body = ASKED[how]
    async with FakeEngine() as one, serving(tmp_path, config([one], api)) as served:
        answer = await served.post(path, {"model": "m", **body})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (
            400,
            "not_supported",
            "tool_choice",
        )
        assert "Ask with 'auto' and offer only the tool that is to be called" in answer.error["message"]
        assert "a target behind another engine" in answer.error["message"]
        assert posts(one) == []
