"""Who may do what, asked in every way: each route with each key, models behind fallbacks, and words that must not leak.

The routes come from the application's own table, so that a route nobody decided on fails here.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from gateway.api.endpoints import HOT, NAMED
from gateway.api.ollama_models import PATHS as OLLAMA_FILES
from gateway.api.swagger import TYPES
from gateway.fake.engine import FakeEngine
from tests.faults.clients import CHAT, chat, client, config, http, rest, settled
from tests.serving import Served, serving

A, B, NEW = "sk-cuckoo-tenant-a", "sk-cuckoo-tenant-b", "sk-cuckoo-tenant-a-next"
TWO = """
  own-b: {targets: {engine-0: up}, fallback: [m]}
keys:
  a: {value: "${env.A}"}
  a-next: {value: "${env.NEW}"}
  b: {value: "${env.B}", models: [own-b]}
"""
ENVIRON = {"A": A, "B": B, "NEW": NEW}

OPEN = {"/", "/health", "/ping", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/api/version"}
"""What asks for no key: liveness, numbers, the reference. Everything else does."""
OPERATORS = set(OLLAMA_FILES)
"""What only operators may ask for, beside all below `/gateway`."""
SIMPLE = {CHAT, "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/models/m"}
"""What the engine of these tests can do with a plain body."""
PRESENTED = {
    "no key": (None, 401),
    "an unknown key": ("sk-cuckoo-unknown", 401),
    "a key's hash": (hashlib.sha256(A.encode()).hexdigest(), 401),
    "a key's hash as the config writes it": ("sha256:" + hashlib.sha256(A.encode()).hexdigest(), 401),
    "a backend's key": ("backend-secret", 401),
    "a key": (A, 200),
}


def routes(served: Served) -> set[tuple[str, str]]:
    """Return method and path of everything there is."""
    found = {("POST", path.format(model="m")) for path in HOT | NAMED}
    for route in served.gateway._web.routes:
        path = (
            str(getattr(route, "path", ""))
            .replace("{model:path}", "m")
            .replace("/docs/{name}", f"/docs/{next(iter(TYPES))}")
        )
        methods = route.methods if isinstance(route, APIRoute) else {"GET"}
        found |= {(method, path) for method in methods or ()}
    return found


async def test_every_route_asks_for_a_key_unless_it_is_on_the_list(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, extra=TWO), ENVIRON) as served,
    ):
        found = routes(served)
        assert {path for _, path in found} >= OPEN | set(HOT) | {"/v1/models"}
        bodies = {path: chat(input="x", prompt="x") for path in HOT}
        for method, path in sorted(found):
            for key, status in PRESENTED.values():
                answer = await served.ask(
                    method,
                    path,
                    bodies.get(path),
                    {"authorization": f"Bearer {key}" if key else "", "content_type": "application/json"},
                )
                seen = (method, path, key, answer.status)
                if path in OPEN or path.startswith("/docs/"):
                    assert answer.status == 200, seen
                elif path.startswith("/backends/") and "{rest" not in path:
                    # Open as `/metrics` is; no backend has the name of the template.
                    assert answer.status == (404 if "{" in path else 200), seen
                elif status == 401:
                    assert answer.status == 401, seen
                elif (
                    path.startswith(("/gateway/", "/api/blobs/", "/backends/", "/slots")) or path in OPERATORS
                ):
                    assert answer.status == 403, seen
                else:
                    # Let in. What the engine cannot do, or what the body lacks, is another matter.
                    assert answer.status == 200 or (path not in SIMPLE and answer.status not in (401, 403)), (
                        seen
                    )
                assert b"cuckoo" not in answer.body
                assert b"backend-secret" not in answer.body
        await rest(served)


async def test_who_may_use_a_model_may_use_its_fallbacks(tmp_path: Path) -> None:
    """The model fails, and its fallback answers, also for a key that may not name it: it is the operator's choice."""
    async with (
        FakeEngine(models=["up"]) as broken,
        FakeEngine(models=["up"], defaults={"say": "of m"}) as working,
    ):
        text = config(broken.url, working.url, extra=TWO).replace(
            "{engine-0: up, engine-1: up}", "{engine-1: up}"
        )
        async with serving(tmp_path, text, ENVIRON) as served:
            broken.set(models=["up"], defaults={"reply": {"status": 503}})
            for key in (A, B):
                body = {**chat(), "model": "own-b"}
                answer = await served.post(CHAT, body, authorization=f"Bearer {key}")
                assert (answer.status, answer.headers["x-gateway-model"]) == (200, "m")
            named = await served.post(CHAT, {**chat(), "model": "m"}, authorization=f"Bearer {B}")
            assert (named.status, named.error["code"]) == (404, "model_not_found")
            listed = (await served.get("/v1/models", authorization=f"Bearer {B}")).json()
            assert [entry["id"] for entry in listed["data"]] == ["own-b"]
            hidden = await served.post(CHAT, {**chat(), "model": "nm"}, authorization=f"Bearer {B}")
            assert hidden.error["message"].endswith("models here: own-b")
            await rest(served)


async def test_the_model_that_was_checked_is_the_model_that_is_asked(tmp_path: Path) -> None:
    """A body with two `model`s: whichever counts, the engine gets one, and the key was checked for that one."""
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, extra=TWO), ENVIRON) as served,
    ):
        for first, second in (("own-b", "m"), ("m", "own-b")):
            body = f'{{"model": "{first}", "messages": [{{"role": "user", "content": "x"}}], "model": "{second}"}}'
            asked = len(engine.requests)
            answer = await served.post(CHAT, body.encode(), authorization=f"Bearer {B}")
            if answer.status == 200:
                assert engine.requests[-1].text.count('"model"') == 1
                assert engine.requests[-1].json()["model"] == "up"
                assert answer.headers["x-gateway-model"] == "own-b"
            else:
                assert answer.status in (400, 404)
                assert len(engine.requests) == asked
        await settled_for(served)


async def settled_for(served: Served) -> None:
    """Check that the next request works, with a key."""
    await rest(served)
    assert (await served.post(CHAT, chat(), authorization=f"Bearer {A}")).status == 200
    await rest(served)


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
async def test_an_engines_inner_life_stays_inside(
    status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stack traces, addresses and keys in an engine's error go to no client; keys not even to the log."""
    told = (
        f"Traceback (most recent call last): File /srv/engine.py, http://10.0.0.7:8000, tenant cuckoo-b {B}"
    )
    reply = {"status": status, "body": {"error": {"message": told, "type": "x", "code": "x", "param": told}}}
    async with (
        FakeEngine(models=["up"], defaults={"reply": reply}) as engine,
        serving(tmp_path, config(engine.url, extra=TWO), ENVIRON) as served,
    ):
        caplog.set_level(logging.DEBUG, "gateway")
        for stream in (False, True):
            answer = await served.post(CHAT, chat(stream=stream), authorization=f"Bearer {A}")
            assert answer.status >= 400
            for word in (b"Traceback", b"/srv/", b"10.0.0.7", b"cuckoo", engine.url.encode()):
                assert word not in answer.body
            assert answer.headers["x-request-id"]
        assert A not in caplog.text
        assert "backend-secret" not in caplog.text
        engine.set(models=["up"])
        await settled_for(served)


async def test_a_key_is_in_no_log_and_no_metric(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, extra=TWO), ENVIRON) as served,
    ):
        for key in (A, "sk-cuckoo-wrong"):
            for body in (chat("cuckoo of the prompt"), {**chat(), "model": "cuckoo-model"}, b"cuckoo"):
                answer = await served.post(CHAT, body, authorization=f"Bearer {key}", x_cuckoo="cuckoo")
                if answer.status != 404:
                    assert b"cuckoo" not in answer.body
        await engine.down()
        assert (await served.post(CHAT, chat("cuckoo"), authorization=f"Bearer {A}")).status == 502
        assert "cuckoo" not in "".join(served.gateway.metrics.pieces())
        await engine.up()
    assert "cuckoo" not in "".join(
        r.getMessage() for r in caplog.records if r.name.startswith(("gateway", "uvicorn"))
    )


async def test_an_old_key_and_its_successor_are_both_good(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url, extra=TWO), ENVIRON) as served,
    ):
        for key in (A, NEW) * 10:
            assert (await served.post(CHAT, chat(), authorization=f"Bearer {key}")).status == 200
        await settled_for(served)


def of_requests(served: Served) -> int:
    """Return the number of lines of metrics, without those of the machine: some come with its second reading."""
    lines = "".join(served.gateway.metrics.pieces()).split("\n")
    return len([line for line in lines if "gateway_host_" not in line])


async def test_what_clients_make_up_makes_nothing_grow(tmp_path: Path) -> None:
    """Names, ids and paths by the thousand: no metric series, no cache entry that stays."""
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(engine.url)) as served:
        machine = served.gateway.machine
        assert machine is not None
        # How busy the processors are is told from the second look on.
        await machine.look()
        await machine.look()
        async with client(served.port) as caller:
            series = 0
            for number in range(1500):
                body = {**chat(user=f"u{number}"), "model": f"made-up-{number}"}
                path = CHAT if number % 3 else f"/v1/made-up/{number}"
                await caller.send(http(body, f"X-Request-Id: id-{number}", f"X-{number}: x", path=path))
                assert (await caller.answer()).status == 404
                if number == 10:
                    series = of_requests(served)
            assert of_requests(served) == series
        await settled(served, engine)
