"""The headers a key may come in: at the front door, behind it, at the model list and for operators. Ids of requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.fake.engine import FakeEngine
from tests.faults.clients import CHAT, chat, client, config, http
from tests.serving import Served, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY, OTHER = "sk-canary-key-one", "sk-canary-key-two"
KEYS = 'keys: {a: {value: "${env.A}"}, b: {value: "${env.B}", admin: true}}\n'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder: Path = tmp_path_factory.mktemp("keys")
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(folder, config(engine.url, extra=KEYS), {"A": KEY, "B": OTHER}) as made,
    ):
        yield made


async def status(served: Served, *headers: str, path: str = CHAT) -> tuple[int, str]:
    """Return the status and the error's code of a request with these header lines."""
    request = (
        http(chat(), *headers, path=path) if path == CHAT else http(None, *headers, path=path, method="GET")
    )
    async with client(served.port) as caller:
        await caller.send(request)
        answer = await caller.answer()
    assert b"canary" not in answer.body
    return answer.status, "" if answer.status == 200 else answer.error["code"]


PRESENTED = {
    "Bearer": (f"Authorization: Bearer {KEY}",),
    "x-api-key": (f"x-api-key: {KEY}",),
    "api-key": (f"api-key: {KEY}",),
    "any case, and spaces": (f"X-Api-KEY:   {KEY}  ",),
    "all three": (f"Authorization: Bearer {KEY}", f"x-api-key: {KEY}", f"api-key: {KEY}"),
    "Bearer before the others": (f"Authorization: Bearer {KEY}", "x-api-key: canary", "api-key: canary"),
    "x-api-key before api-key": (f"x-api-key: {KEY}", "api-key: canary"),
    "an empty Bearer": ("Authorization: Bearer ", f"x-api-key: {KEY}"),
    "another scheme": ("Authorization: Basic Y2FuYXJ5", f"x-api-key: {KEY}"),
    "an empty x-api-key": ("x-api-key:", f"api-key: {KEY}"),
}
"""Headers that hold the key."""
REFUSED = {
    "none": ((), 401, "missing_api_key"),
    "empty ones": (("x-api-key:", "api-key: "), 401, "missing_api_key"),
    "an unknown one": (("x-api-key: canary",), 401, "invalid_api_key"),
    "a wrong one before a right one": (("x-api-key: canary", f"api-key: {KEY}"), 401, "invalid_api_key"),
    "a wrong Bearer": (("Authorization: Bearer canary", f"x-api-key: {KEY}"), 401, "invalid_api_key"),
    "a scheme in x-api-key": ((f"x-api-key: Bearer {KEY}",), 401, "invalid_api_key"),
    "x-api-key twice": ((f"x-api-key: {KEY}", f"x-api-key: {OTHER}"), 400, "invalid_http"),
    "api-key twice": ((f"api-key: {KEY}", f"Api-Key: {KEY}"), 400, "invalid_http"),
}


@pytest.mark.parametrize("odd", [(), ("X-Odd: 1", "X-Odd: 2")], ids=["front door", "full protocol"])
@pytest.mark.parametrize("name", PRESENTED)
async def test_a_key_comes_in_any_of_three_headers(name: str, odd: tuple[str, ...], served: Served) -> None:
    assert await status(served, *PRESENTED[name], *odd) == (200, "")
    assert await status(served, *PRESENTED[name], *odd, path="/v1/models") == (200, "")


@pytest.mark.parametrize("path", [CHAT, "/v1/models"])
@pytest.mark.parametrize("name", REFUSED)
async def test_the_first_header_with_a_key_decides(name: str, path: str, served: Served) -> None:
    headers, expected, code = REFUSED[name]
    assert await status(served, *headers, path=path) == (expected, code)


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
async def test_operators_may_use_them_too(name: str, served: Served) -> None:
    assert await status(served, f"{name}: {OTHER}", path="/gateway/backends") == (200, "")
    assert await status(served, f"{name}: {KEY}", path="/gateway/backends") == (403, "admin_required")
    twice = (f"{name}: {OTHER}", f"{name}: {OTHER}")
    assert await status(served, *twice, path="/gateway/backends") == (400, "invalid_http")


async def test_ids_of_requests_are_random(served: Served) -> None:
    """No id can be told from others: neither how many requests there are, nor the ids of other people's."""
    ids = [served.gateway.core.request_id(None).decode() for _ in range(500)]
    assert len(set(ids)) == 500
    assert all(len(each) == len("req-") + 24 for each in ids)
    assert len({each[4:8] for each in ids}) > 400
    assert sorted(ids) != ids
