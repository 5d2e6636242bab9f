"""Where requests go whose backend has an API under another version than `/v1`, or behind a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.address import api_prefix
from gateway.fake.engine import FakeEngine
from tests.faults.support import question
from tests.serving import serving

LISTED = {"object": "list", "data": [{"id": "m"}]}
ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
}


@pytest.mark.parametrize(
    ("path", "base", "version"),
    [
        ("", "", "/v1"),
        ("/", "", "/v1"),
        ("/v1", "", "/v1"),
        ("/a/v1/", "/a", "/v1"),
        ("/v3", "", "/v3"),
        ("/api/v3", "/api", "/v3"),
        ("/v1beta/openai/", "", "/v1beta/openai"),
        ("/v1/openai", "", "/v1/openai"),
        ("/x/v1alpha2", "/x", "/v1alpha2"),
        ("/openai", "/openai", "/v1"),
        ("/openai/v1", "/openai", "/v1"),
        ("/v3/models", "/v3/models", "/v1"),
        ("/vllm", "/vllm", "/v1"),
    ],
)
def test_prefixes(path: str, base: str, version: str) -> None:
    assert api_prefix(path) == (base, version)


@pytest.mark.parametrize(
    ("path", "base", "prefix"),
    [
        ("/v1", "", "/v1"),
        ("/v3", "", "/v3"),
        ("/api/v3", "/api", "/api/v3"),
        ("/v1beta/openai", "", "/v1beta/openai"),
        ("/some/where", "/some/where", "/some/where/v1"),
    ],
)
async def test_requests_go_to_the_backends_own_version(
    path: str, base: str, prefix: str, tmp_path: Path
) -> None:
    rules = [
        {"match": {"path": f"{base}/health"}, "reply": {"status": 200}},
        {"match": {"path": f"{prefix}/models"}, "reply": {"status": 200, "body": LISTED}},
        {"match": {"path": f"{prefix}/chat/completions"}, "reply": {"status": 200, "body": ANSWER}},
        {"match": {"path": "*"}, "reply": {"status": 404}},
    ]
    async with FakeEngine(rules=rules) as engine:
        config = f'backends: {{a: {{engine: vllm, url: "{engine.url}{path}"}}}}'
        async with serving(tmp_path, config) as served:
            answer = await served.post("/v1/chat/completions", question("m"))
            assert (answer.status, answer.json()["choices"][0]["message"]["content"]) == (200, "hi")
