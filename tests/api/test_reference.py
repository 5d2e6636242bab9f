"""The page of the API and the served reference say what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from backends.base import Operation
from gateway.api.endpoints import ENDPOINTS, FORM, HOT, NAMED
from tests.api import reference
from tests.serving import serving

CONFIG = 'backends: {nowhere: {engine: openai, url: "http://127.0.0.1:9"}}'


def test_the_page_is_what_the_code_makes() -> None:
    text = reference.PAGE.read_text(encoding="utf-8")
    assert reference.page(text) == text, "run: python -m tests.api.reference"
    for path in HOT | NAMED:
        assert f"`{path}`" in text


def test_every_operation_has_its_paths() -> None:
    assert [endpoint.operation for endpoint in ENDPOINTS] != []
    assert {*HOT.values(), *NAMED.values(), Operation.REALTIME} == set(Operation), "a WebSocket is no POST"
    assert len(HOT) + len(NAMED) == sum(len(endpoint.paths) for endpoint in ENDPOINTS), (
        "a path leads to two operations"
    )


@pytest.fixture
async def described(tmp_path: Path) -> dict[str, Any]:
    """Return what `/openapi.json` answers."""
    async with serving(tmp_path, CONFIG) as served:
        page: dict[str, Any] = (await served.get("/openapi.json")).json()
        return page


async def test_the_reference_shows_every_path(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    names = [page["post"]["operationId"] for page in described["paths"].values() if "post" in page]
    assert len(names) == len(set(names))
    for endpoint in ENDPOINTS:
        for path in endpoint.paths:
            post = described["paths"][path]["post"]
            (kind,) = post["requestBody"]["content"]
            assert kind == endpoint.takes
            shape = schemas[post["requestBody"]["content"][kind]["schema"]["$ref"].rpartition("/")[2]]
            if path in NAMED:
                assert [one["name"] for one in post["parameters"]] == ["model"]
            else:
                assert "model" in shape["required"]
            assert bool({"file", "image"} & set(shape.get("required", ()))) is (kind == FORM)
            answers = post["responses"]
            assert set(endpoint.gives) <= set(answers["200"]["content"])
            assert {"400", "404", "415", "503"} <= set(answers)


async def test_no_reference_leads_nowhere(described: dict[str, Any]) -> None:
    known = set(described["components"]["schemas"])
    used = set(re.findall(r"#/components/schemas/(\w+)", str(described)))
    assert used <= known
