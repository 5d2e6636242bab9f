"""What is at which path: every way to write one, HEAD as GET, the page at `/`, and the names of liveness probes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from starlette.routing import Route

from gateway.api.endpoints import HOT
from gateway.api.paths import Paths
from gateway.fake.engine import FakeEngine
from tests.faults.clients import client, config, http
from tests.serving import Served, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = Paths([*HOT, "/", "/v1/models", "/v1/models/{model:path}", "/healthz", "/docs", "/docs/{name}"])
MEANT = {
    "//v1/chat/completions": "/v1/chat/completions",
    "/v1/chat/completions/": "/v1/chat/completions",
    "/chat/completions": "/v1/chat/completions",
    "/v1/v1/chat/completions": "/v1/chat/completions",
    "/models": "/v1/models",
    "/v1/v1/models/": "/v1/models",
    "/models/org/name": "/v1/models/org/name",
    "/v1/models/org/name": "/v1/models/org/name",
    "/v1/models/": "/v1/models",
    "/v1/healthz": "/healthz",
    "/v1/v2/rerank": "/v2/rerank",
    "/v1/infill/": "/infill",
    "/v1": "/",
    "/v1/": "/",
    "//": "/",
    "/rerank": "/rerank",
    "/docs/": "/docs",
}
UNKNOWN = [
    "/v1/none",
    "/v2/chat/completions",
    "/v2",
    "*",
    "/V1/models",
    "/v1/./models",
    "/v1models",
    "/v1/v1x/models",
]


@pytest.mark.parametrize("path", MEANT)
async def test_a_path_means(path: str) -> None:
    assert PATHS.meant(path) == MEANT[path]


@pytest.mark.parametrize("path", UNKNOWN)
async def test_what_is_not_plain_stays_as_it_is(path: str) -> None:
    assert PATHS.meant(path) == path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path_factory.mktemp("paths"), config(engine.url)) as made,
    ):
        yield made


async def test_what_answers_get_answers_head(served: Served) -> None:
    """For every route of the application: the same head, no body, and the connection goes on."""
    templates = [
        route.path
        for route in served.gateway._web.routes
        if isinstance(route, Route) and "GET" in (route.methods or ())
    ]
    assert {"/", "/v1/models", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"} <= set(templates)
    for template in templates:
        if (
            "id}" in template
            or template in ("/v1/files", "/v1/batches")
            or "{digest}" in template
            or ("{name}" in template and not template.startswith("/docs/"))
        ):
            # Nothing was decided yet, nothing is kept, and the engine has no log, metrics or files.
            continue
        if template in ("/props", "/slots"):
            continue  # of llama.cpp's models
        path = template.replace("{model:path}", "m").replace("{name}", "swagger-ui.css")
        async with client(served.port) as caller:
            await caller.send(http(None, "X-Request-Id: r", path=path, method="GET"))
            got = await caller.answer()
            await caller.send(
                http(None, "X-Request-Id: r", path=path, method="HEAD")
                + http(None, path="/ping", method="GET")
            )
            await caller.until(b"\r\n\r\n")
            head, _, caller.received = caller.received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), (path, head)
            names = [line.partition(b":")[0].decode() for line in head.split(b"\r\n")[1:]]
            assert sorted(names) == sorted(got.headers), path
            assert (await caller.answer()).json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/healthz", "/health", "/ping", "/health/", "/v1/health"])
async def test_probes_may_use_any_of_the_usual_names(path: str, served: Served) -> None:
    assert (await served.get(path)).json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/", "/v1"])
async def test_the_page_at_the_root_leads_to_the_rest(path: str, served: Served) -> None:
    page = await served.get(path, accept="text/html")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(rb'href="([^"]+)"', page.body)
    assert len(links) == 4
    for link in links:
        assert (await served.get("/" + link.decode())).status == 200


async def test_the_reference_shows_each_path_once(served: Served) -> None:
    shown = (await served.get("/openapi.json")).json()["paths"]
    assert not {"/health", "/ping", "/"} & set(shown)
    assert "head" not in {method for page in shown.values() for method in page}
