"""The model list as Anthropic's clients ask for it, and the ids of requests in their answers and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import ErrorResponse, ModelInfo
from pydantic import TypeAdapter

from gateway.fake.engine import FakeEngine
from tests.serving import Served, serving

CONFIG = """
backends: {{one: {{engine: openai, url: "{url}", models: [up]}}}}
models:
  a: {{targets: {{one: up}}, context: 4096}}
  b/b: {{targets: {{one: up}}}}
  c: {{targets: {{one: up}}}}
"""


def client(served: Served) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=served.url, api_key="any", max_retries=0)


async def test_anthropics_client_lists_models_page_by_page(tmp_path: Path) -> None:
    async with (
        FakeEngine() as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
        client(served) as asks,
    ):
        assert [model.id async for model in asks.models.list(limit=2)] == ["a", "b/b", "c"]
        first = await asks.models.list(limit=2)
        assert (first.has_more, first.first_id, first.last_id) == (True, "a", "b/b")
        back = await asks.models.list(before_id="c", limit=1)
        assert [model.id for model in back.data] == ["b/b"] and back.has_more
        assert [model.id async for model in asks.models.list(before_id="c", limit=1)] == ["b/b", "a"]
        assert (await asks.models.list(after_id="c")).data == []
        one = await asks.models.retrieve("b/b")
        assert (one.id, one.display_name, one.type, one.lifecycle) == ("b/b", "b/b", "model", "active")
        assert one.created_at.year == 2025
        with pytest.raises(anthropic.NotFoundError) as caught:
            await asks.models.retrieve("d")
        assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]


async def test_the_list_has_both_shapes(tmp_path: Path) -> None:
    async with FakeEngine() as engine, serving(tmp_path, CONFIG.format(url=engine.url)) as served:
        for path in ("/v1/models", "/v1/models/a"):
            plain = (await served.get(path)).json()
            assert plain["object"] in ("list", "model") and "has_more" not in plain
        told = (await served.get("/v1/models", anthropic_version="2023-06-01")).json()
        for entry in told["data"]:
            TypeAdapter(ModelInfo).validate_json(json.dumps(entry), strict=True)
        assert told["data"][0]["max_input_tokens"] == 4096 and told["data"][1]["max_input_tokens"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1001", "after_id=d", "before_id="])
async def test_a_wrong_page_is_refused(tmp_path: Path, query: str) -> None:
    async with FakeEngine() as engine, serving(tmp_path, CONFIG.format(url=engine.url)) as served:
        answer = await served.get(f"/v1/models?{query}", anthropic_version="2023-06-01")
        error = answer.json()["error"]
        assert (answer.status, error["type"]) == (400, "invalid_request_error")
        assert error["param"] == query.partition("=")[0]


async def test_answers_and_errors_have_the_id_of_the_request(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": "a", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    async with (
        FakeEngine() as engine,
        serving(tmp_path, CONFIG.format(url=engine.url)) as served,
        client(served) as asks,
    ):
        found = await asks.with_options(default_headers={"x-gateway-translate": "always"}).messages.create(
            **asked
        )
        assert found._request_id is not None and found._request_id.startswith("req-")
        for way in (asks.messages.create(**asked | {"model": "d"}), asks.models.retrieve("d")):
            with pytest.raises(anthropic.NotFoundError) as caught:
                await way
            error = TypeAdapter(ErrorResponse).validate_python(caught.value.body)
            assert error.request_id == caught.value.request_id and error.request_id
        plain = await served.get("/v1/models")
        assert "request-id" not in plain.headers and plain.headers["x-request-id"]
