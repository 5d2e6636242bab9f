"""Google's Gemini API over real sockets: paths, keys, streams that break, and the lists of models."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.fake.engine import FakeEngine
from tests.conformance import gemini_types
from tests.serving import Answer, Served, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY, LIMITED = "sk-canary-key-one", "sk-canary-key-two"
ENVIRON = {"A": KEY, "B": LIMITED}
CONFIG = """
backends: {{e: {{engine: openai, url: "{url}"}}}}
models:
  m: {{targets: {{e: up}}, context: 4096, aliases: [nick], capabilities: {{tools: true, reasoning: true}}}}
  org/m:1b: {{targets: {{e: up}}}}
  beating: {{targets: {{e: up}}, heartbeat: 100ms}}
keys: {{a: {{value: "${{env.A}}"}}, b: {{value: "${{env.B}}", models: [m]}}}}
"""
HI: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
GENERATE, STREAM = "/v1beta/models/m:generateContent", "/v1beta/models/m:streamGenerateContent"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[FakeEngine, Served]]:
    folder: Path = tmp_path_factory.mktemp("gemini")
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(folder, CONFIG.format(url=engine.url), ENVIRON) as served,
    ):
        yield engine, served


async def ask(served: Served, path: str, body: Any = HI, **headers: str) -> Answer:
    return await served.post(path, body, **{"x_goog_api_key": KEY, **headers})


def refused(answer: Answer, status: int, word: str) -> str:
    """Hold an error to Google's shape; return its message."""
    assert answer.status == status and answer.headers["content-type"] == "application/json"
    error = gemini_types.read(answer.json(), gemini_types.Refused).error
    assert (error.code, error.status) == (status, word)
    return error.message


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (GENERATE, "m"),
        ("/v1/models/m:generateContent", "m"),
        ("//v1beta/models/nick:generateContent", "nick"),
        ("/v1beta/models/org%2Fm%3A1b:generateContent", "org/m:1b"),
        ("/v1beta/models/org/m:1b:generateContent", "org/m:1b"),
    ],
)
async def test_the_path_names_the_model(pair: tuple[FakeEngine, Served], path: str, model: str) -> None:
    engine, served = pair
    answer = await ask(served, path, HI | {"model": "models/other", "stream": True})
    assert answer.status == 200, answer.body
    gemini_types.fits_whole(answer.json())
    assert answer.json()["modelVersion"] == model
    sent = json.loads(engine.requests[-1].text)
    assert sent["model"] == "up" and "stream" not in sent


async def test_streams_have_two_forms(pair: tuple[FakeEngine, Served]) -> None:
    _, served = pair
    events = await ask(served, f"{STREAM}?alt=sse")
    assert events.whole and events.headers["content-type"].startswith("text/event-stream")
    listed = await ask(served, STREAM)
    assert listed.whole and listed.headers["content-type"] == "application/json"
    texts = []
    for found in (events.events, listed.json()):
        for piece in found:
            gemini_types.fits(piece)
        assert found[-1]["candidates"][0]["finishReason"] == "STOP" and len(found) > 4
        texts.append("".join(one["candidates"][0]["content"]["parts"][0]["text"] for one in found))
    assert texts[0] == texts[1] != ""


async def test_a_stream_that_breaks_off_ends_in_an_error_and_without_its_end(
    pair: tuple[FakeEngine, Served],
) -> None:
    engine, served = pair
    engine.set(models=["up"], defaults={"faults": [{"at": "event 3", "do": "close"}]})
    try:
        events, listed = await ask(served, f"{STREAM}?alt=sse"), await ask(served, STREAM)
    finally:
        engine.set(models=["up"])
    assert not events.whole and not listed.whole
    for found in (events.events, listed.json()):
        assert len(found) > 1
        error = gemini_types.read(found[-1], gemini_types.Refused).error
        assert (error.code, error.status) == (502, "UNAVAILABLE")


async def test_errors_have_googles_shape(pair: tuple[FakeEngine, Served]) -> None:
    _, served = pair
    unknown = await ask(served, "/v1beta/models/no:generateContent")
    assert "there is no model 'no'" in refused(unknown, 404, "NOT_FOUND")
    (listed,) = (await ask(served, "/v1beta/models/no:streamGenerateContent")).json()
    assert listed["error"]["status"] == "NOT_FOUND"
    refused(await ask(served, GENERATE, b"{"), 400, "INVALID_ARGUMENT")
    refused(await ask(served, GENERATE, b"[]"), 400, "INVALID_ARGUMENT")
    refused(await ask(served, GENERATE, {"contents": []}), 400, "INVALID_ARGUMENT")
    refused(await ask(served, GENERATE, content_type="text/plain"), 415, "INVALID_ARGUMENT")
    refused(await ask(served, "/v1beta/models/m:predict"), 405, "UNIMPLEMENTED")
    refused(await served.get("/v1beta/nothing", x_goog_api_key=KEY), 404, "NOT_FOUND")
    refused(await ask(served, GENERATE, x_goog_api_key="sk-wrong"), 401, "UNAUTHENTICATED")
    refused(
        await served.post("/v1beta/models/org%2Fm:1b:generateContent", HI, x_goog_api_key=LIMITED),
        404,
        "NOT_FOUND",
    )


@pytest.mark.parametrize("name", ["..%2Fm", "..%2F..%2Fetc%2Fpasswd", "a/../m", "%2e%2e/m", "./m", ""])
async def test_a_name_with_steps_of_a_path_is_refused(pair: tuple[FakeEngine, Served], name: str) -> None:
    engine, served = pair
    asked = len(engine.requests)
    refused(await ask(served, f"/v1beta/models/{name}:generateContent"), 400, "INVALID_ARGUMENT")
    assert len(engine.requests) == asked


KEYS = {
    "a header": ("", {"x_goog_api_key": KEY}, 200),
    "Bearer": ("", {"authorization": f"Bearer {KEY}"}, 200),
    "the query": (f"?key={KEY}", {}, 200),
    "the query beside another member": (f"?alt=json&key={KEY}&x=", {}, 200),
    "a header before the query": (f"?key={KEY}", {"x_goog_api_key": "sk-canary-wrong"}, 401),
    "a wrong one in the query": ("?key=sk-canary-wrong", {}, 401),
    "an empty one": ("?key=", {}, 401),
    "none": ("", {}, 401),
}


@pytest.mark.parametrize("how", KEYS)
async def test_where_a_key_may_stand(
    pair: tuple[FakeEngine, Served], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine, served = pair
    query, headers, status = KEYS[how]
    with caplog.at_level(logging.DEBUG):
        for answer in (
            await served.post(GENERATE + query, HI, **headers),
            await served.get("/v1beta/models" + query, **headers),
        ):
            assert answer.status == status, answer.body
            assert b"canary" not in answer.body
    assert "canary" not in caplog.text
    assert all("canary" not in f"{one.path} {one.headers} {one.text}" for one in engine.requests)


async def test_a_key_in_the_query_is_no_key_elsewhere(pair: tuple[FakeEngine, Served]) -> None:
    _, served = pair
    assert (await served.get(f"/v1/models?key={KEY}")).status == 401


async def test_the_list_of_models_in_googles_form(pair: tuple[FakeEngine, Served]) -> None:
    _, served = pair
    whole = (await served.get("/v1beta/models", x_goog_api_key=KEY)).json()
    names = [one["name"] for one in whole["models"]]
    assert set(names) == {"models/m", "models/nick", "models/org/m:1b", "models/beating"}
    found: list[str] = []
    token = ""
    while not found or token:
        page = (await served.get(f"/v1beta/models?pageSize=3&pageToken={token}", x_goog_api_key=KEY)).json()
        found += [one["name"] for one in page["models"]]
        token = page.get("nextPageToken", "")
    assert found == names
    one = (await served.get("/v1beta/models/m", x_goog_api_key=KEY)).json()
    assert one in whole["models"] and (one["inputTokenLimit"], one["thinking"]) == (4096, True)
    assert (await served.get("/v1beta/models/org%2Fm:1b", x_goog_api_key=KEY)).json()[
        "displayName"
    ] == "org/m:1b"
    limited = (await served.get("/v1beta/models", x_goog_api_key=LIMITED)).json()
    assert {entry["name"] for entry in limited["models"]} == {"models/m", "models/nick"}
    for query in ("pageSize=x", "pageToken=no"):
        refused(await served.get(f"/v1beta/models?{query}", x_goog_api_key=KEY), 400, "INVALID_ARGUMENT")
    refused(await served.get("/v1beta/models/no", x_goog_api_key=KEY), 404, "NOT_FOUND")


async def test_googles_sdk_gets_its_form_where_openais_clients_ask(pair: tuple[FakeEngine, Served]) -> None:
    _, served = pair
    headers = {"x_goog_api_key": KEY, "x_goog_api_client": "google-genai-sdk/3.6.1"}
    assert (await served.get("/v1/models", **headers)).json()["models"]
    assert (await served.get("/v1/models/m", **headers)).json()["name"] == "models/m"
    refused(await served.get("/v1/models/no", **headers), 404, "NOT_FOUND")
    assert (await served.get("/v1/models", x_goog_api_key=KEY)).json()["object"] == "list"


async def test_counts_and_embeddings(pair: tuple[FakeEngine, Served]) -> None:
    _, served = pair
    counted = await ask(served, "/v1beta/models/m:countTokens")
    gemini_types.read(counted.json(), gemini_types.Counted)
    one = {"content": {"parts": [{"text": "a"}]}}
    embedded = await ask(served, "/v1beta/models/m:embedContent", one)
    gemini_types.read(embedded.json(), gemini_types.Embedded)
    both = await ask(served, "/v1beta/models/m:batchEmbedContents", {"requests": [one, one]})
    assert len(gemini_types.read(both.json(), gemini_types.AllEmbedded).embeddings) == 2


async def test_a_heartbeat_is_an_empty_line(pair: tuple[FakeEngine, Served]) -> None:
    engine, served = pair
    engine.set(models=["up"], defaults={"first_token": 0.6})
    try:
        answer = await ask(served, "/v1beta/models/beating:streamGenerateContent?alt=sse")
    finally:
        engine.set(models=["up"])
    assert answer.whole and answer.body.startswith(b"\n") and b"\n:" not in answer.body
    assert answer.body.lstrip(b"\n").startswith(b"data: {")
