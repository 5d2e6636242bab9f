"""What a model says it cannot do, or cannot hold, is refused before an engine is asked, or goes to a fallback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.base import Operation, Request
from gateway.asked import Asked
from gateway.auth import ANYONE
from gateway.fake.engine import FakeEngine
from gateway.routing.traits import Traits, least_tokens
from tests.serving import serving

CHAT = Operation.CHAT
SAYS = [{"say": "yes"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}


def asked(body: dict[str, Any], operation: Operation = CHAT) -> Asked:
    return Asked(Request(operation, msgspec.json.encode(body), "m"), {}, ANYONE)


def said(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **more}


@pytest.mark.parametrize(
    ("traits", "body", "operation", "lacks"),
    [
        (Traits(tools=False), said("x", tools=TOOLS), CHAT, "tools"),
        (Traits(tools=False), said("x", functions=TOOLS), CHAT, "tools"),
        (Traits(tools=False), said("x", tools=[]), CHAT, ""),
        (Traits(tools=False), said("x", tools=None), CHAT, ""),
        (Traits(tools=True), said("x", tools=TOOLS), CHAT, ""),
        (Traits(), said([IMAGE], tools=TOOLS), CHAT, ""),
        (Traits(vision=False), said([IMAGE]), CHAT, "vision"),
        (Traits(vision=False), said('"image_url"'), CHAT, ""),
        (
            Traits(vision=False),
            {"input": [{"content": [{"type": "input_image"}]}]},
            Operation.RESPONSES,
            "vision",
        ),
        (Traits(vision=True), said([IMAGE]), CHAT, ""),
        (Traits(embeddings=False), {"input": "x"}, Operation.EMBEDDINGS, "embeddings"),
        (Traits(embeddings=False), said("x"), CHAT, ""),
        (Traits(reasoning=False), said("x", reasoning_effort="high"), CHAT, ""),
        (Traits(context=100), said("x" * 1000), CHAT, ""),
        (Traits(context=100), said("x" * 1700), CHAT, "context"),
        (Traits(context=100), said([IMAGE]), CHAT, ""),
        (Traits(context=100), {"prompt": "x" * 1700}, Operation.COMPLETIONS, "context"),
        (Traits(context=100), {"prompt": ["x" * 900] * 2}, Operation.COMPLETIONS, ""),
        (Traits(context=100), {"input": "x" * 1700}, Operation.RESPONSES, "context"),
        (Traits(context=100), {"input": "x" * 1700, "truncation": "auto"}, Operation.RESPONSES, ""),
        (Traits(context=100), said("x" * 1700, truncate_prompt_tokens=50), CHAT, ""),
        (Traits(context=100), said("x", system="x" * 1700), Operation.MESSAGES, "context"),
        (Traits(context=100), {"input": ["x" * 900] * 2}, Operation.EMBEDDINGS, ""),
    ],
)
def test_what_a_model_lacks(traits: Traits, body: dict[str, Any], operation: Operation, lacks: str) -> None:
    assert traits.lacks(asked(body, operation)) == lacks


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("the quick brown fox " * 40, 160),
        ("        return x\n" * 40, 120),
        ("漢字かな交じり文" * 40, 160),
        ("internationalization " * 40, 80),
    ],
)
def test_the_least_is_fewer_than_tokenizers_find(text: str, tokens: int) -> None:
    """`tokens` is what the largest vocabularies of today make of it, rounded down: a token for each common word."""
    overhead = least_tokens(asked(said("")))
    assert least_tokens(asked(said(text))) - overhead <= tokens


CONFIG = """
backends: {{one: {{engine: openai, url: "{url}", models: [s, l]}}}}
models:
  small: {{targets: {{one: s}}, context: 100, capabilities: {{tools: false, vision: false, embeddings: false}}{more}}}
  large: {{targets: {{one: l}}, context: 10000, capabilities: {{tools: true, vision: true}}, aliases: [big]}}
  plain: {{targets: {{one: l}}}}
"""

TOO_LONG = (
    "the prompt has at least 108 tokens, more than the 100 that the model 'small' takes; "
    "models here that take more: big, large"
)
REFUSED = [
    (
        "/v1/chat/completions",
        said("x", tools=TOOLS),
        ("not_supported", "tools", "the model 'small' cannot call tools; models here that can: big, large"),
    ),
    (
        "/v1/chat/completions",
        said([IMAGE]),
        (
            "not_supported",
            "messages",
            "the model 'small' cannot see images; models here that can: big, large",
        ),
    ),
    (
        "/v1/embeddings",
        {"input": "x"},
        ("not_supported", "model", "the model 'small' cannot embed; no other model here says it does"),
    ),
    (
        "/v1/chat/completions",
        said("x" * 1700),
        (
            "context_length_exceeded",
            "messages",
            TOO_LONG,
        ),
    ),
]


@pytest.mark.parametrize(("path", "body", "expected"), REFUSED)
async def test_refused_before_an_engine_is_asked(
    path: str, body: dict[str, Any], expected: tuple[str, str, str], tmp_path: Path
) -> None:
    async with (
        FakeEngine(models=["s", "l"], rules=SAYS) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url, more="")) as served,
    ):
        answer = await served.post(path, {"model": "small", **body})
        assert answer.status == 400
        assert (answer.error["code"], answer.error["param"], answer.error["message"]) == expected
        assert answer.error["type"] == "invalid_request_error"
        assert not [made for made in engine.requests if made.method == "POST"]
        assert served.metric("gateway_requests_total", model="small", outcome="client_error") == 1
        for other in ("large", "plain"):
            assert (await served.post(path, {"model": other, **body})).status == 200


@pytest.mark.parametrize(("path", "body"), [(path, body) for path, body, _ in REFUSED])
async def test_a_fallback_that_can_takes_over(path: str, body: dict[str, Any], tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["s", "l"], rules=SAYS) as engine,
        serving(tmp_path, CONFIG.format(url=engine.url, more=", fallback: [large]")) as served,
    ):
        answer = await served.post(path, {"model": "small", **body})
        assert (answer.status, answer.headers["x-gateway-model"], answer.json()["model"]) == (
            200,
            "large",
            "small",
        )
        assert answer.headers["x-gateway-attempts"] == "1"
        usual = await served.post("/v1/chat/completions", {"model": "small", **said("x")})
        assert usual.headers["x-gateway-model"] == "small"


TOO_LONG_THERE = {
    "match": {"model": "s"},
    "reply": {
        "status": 400,
        "body": {
            "error": {"message": "too long", "type": "x", "param": None, "code": "context_length_exceeded"}
        },
    },
}


@pytest.mark.parametrize(
    ("fallback", "served_by"),
    [
        ("[large]", "large"),
        ("[plain, large]", "large"),
        ("[plain]", ""),
        ("[tiny]", ""),
        ("[tiny, large]", "large"),
    ],
)
async def test_a_prompt_that_the_engine_finds_too_long(fallback: str, served_by: str, tmp_path: Path) -> None:
    text = CONFIG + "  tiny: {{targets: {{one: l}}, context: 50}}\n"
    async with (
        FakeEngine(models=["s", "l"], rules=[TOO_LONG_THERE, *SAYS]) as engine,
        serving(tmp_path, text.format(url=engine.url, more=f", fallback: {fallback}")) as served,
    ):
        answer = await served.post("/v1/chat/completions", {"model": "small", **said("x" * 150)})
        asked = [made.json()["model"] for made in engine.requests if made.method == "POST"]
        if served_by:
            assert (answer.status, answer.headers["x-gateway-model"], asked) == (200, served_by, ["s", "l"])
        else:
            assert (answer.status, answer.error["code"], asked) == (400, "context_length_exceeded", ["s"])
