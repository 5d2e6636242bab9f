"""The operators' endpoints: who gets in, what is shown, and what an engine does with its models.

Rules:
- The gateway is the real one; the engine is a fake one with an adapter of the tests' own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends import registry
from gateway.fake.engine import FakeEngine
from gateway.fake.script import Fault, Match, Reply, Rule
from tests.serving import Answer, Served, serving
from tests.toy_engine import ROW, page

LINES = b'{"status":"pulling","total":10,"completed":4}\n{"status":"success"}\n'
PULL = "/gateway/backends/a/pull"


@pytest.fixture(autouse=True)
def orchard_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENGINES, "orchard", ROW)


def rule(path: str, body: Any, status: int = 200, kind: str = "application/json", **more: Any) -> Rule:
    """Return what the engine answers at a path."""
    times = more.pop("times", None)
    reply = Reply(status=status, body=body, headers={"content-type": kind})
    return Rule(match=Match(path=path, times=times), reply=reply, **more)


def lines(body: bytes, **more: Any) -> Rule:
    """Lines of progress at `/pull`."""
    return rule("/pull", body, kind="application/x-ndjson", **more)


def config(url: str, more: str = "", keys: str = "") -> str:
    return f'backends: {{a: {{engine: orchard, url: "{url}"{more}}}}}\n{keys}'


def key(name: str, secret: str, **more: Any) -> str:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return f"  {name}: {json.dumps({'hash': f'sha256:{digest}', **more})}\n"


KEYS = "keys:\n" + key("boss", "sk-boss", admin=True) + key("team", "sk-team")


@contextlib.asynccontextmanager
async def gateway(folder: Path, *rules: Rule) -> AsyncIterator[tuple[FakeEngine, Served]]:
    """Yield a fake engine with these rules, and a gateway in front of it."""
    async with FakeEngine(rules=rules) as engine, serving(folder, config(engine.url)) as served:
        yield engine, served


async def pull(served: Served, **headers: str) -> Answer:
    return await served.post(PULL, {"model": "m"}, **headers)


async def test_every_backend_is_listed_with_what_is_known_of_it(tmp_path: Path) -> None:
    rules = [rule("/metrics", page(running=2, kv="0.5"), kind="text/plain")]
    async with FakeEngine(models=["m"], rules=rules) as engine:
        text = config(engine.url, ", labels: {gpu: h200}")
        text = text.replace("}}\n", '}, b: {engine: openai, url: "http://127.0.0.1:9", models: [x]}}\n')
        async with serving(tmp_path, text) as served:
            await served.gateway.fleet.poll("a").ask()
            a, b = (await served.get("/gateway/backends")).json()
    running, waiting = a["signals"].pop("running"), a["signals"].pop("waiting")
    assert 0 <= running.pop("age") < 60
    assert running == {"status": "ok", "value": 2.0, "names": [], "source": "orchard_running"}
    assert (waiting["status"], waiting["value"], waiting["age"]) == ("missing", None, None)
    assert a["signals"].keys() == {"kv_use", "loras"}
    del a["signals"]
    assert a.pop("models_age") >= 0
    assert a == {
        "name": "a",
        "engine": "orchard",
        "url": engine.url,
        "launched": None,
        "state": "ready",
        "reason": "",
        "orders": {"drained": False, "drained_left": None, "weight": 1.0, "weight_left": None},
        "breaker": "closed",
        "in_flight": 0,
        "models": [{"id": "m", "context": None}],
        "last_error": None,
        "labels": {"gpu": "h200"},
        "actions": ["list", "pull", "show"],
        "checked": "orchard 2 (here)",
    }
    assert (b["state"], b["signals"], b["models"]) == ("down", {}, [{"id": "x", "context": None}])
    assert "could not be reached" in b["reason"] and b["last_error"]["message"] == b["reason"]
    assert b["last_error"]["time"].endswith("Z")


async def test_what_goes_wrong_with_a_request_is_the_last_error_without_the_engine_s_words(
    tmp_path: Path,
) -> None:
    secret = {"error": {"message": "the prompt was: hunter2"}}
    async with gateway(tmp_path, rule("/v1/chat/completions", secret, 500)) as (_, served):
        body = {"model": "fake", "messages": [{"role": "user", "content": "hunter2"}]}
        assert (await served.post("/v1/chat/completions", body)).status == 502
        [view] = (await served.get("/gateway/backends")).json()
        assert "status 500" in view["last_error"]["message"]
        assert "hunter2" not in json.dumps(view)
        assert view["in_flight"] == 0


async def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        more = ', api_key: "${env.KEY}", headers: {x-team: "${env.KEY}"}'
        keys = "keys: {boss: {value: '${env.BOSS}', admin: true}}"
        environ = {"KEY": "sk-engine-123", "BOSS": "sk-boss"}
        async with serving(tmp_path, config(engine.url, more, keys), environ) as served:
            answer = await served.get("/gateway/backends", authorization="Bearer sk-boss")
            assert answer.status == 200
            assert b"sk-" not in answer.body
            asked = [dict(exchange.headers) for exchange in engine.requests if exchange.path == "/metrics"]
            assert all(headers["authorization"] == "Bearer sk-engine-123" for headers in asked)


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        ("", 401, "missing_api_key"),
        ("Bearer sk-nobody", 401, "invalid_api_key"),
        ("Bearer sk-team", 403, "admin_required"),
        ("Bearer sk-boss", 200, None),
    ],
)
@pytest.mark.parametrize("auth", ["keys", "none"])
async def test_with_keys_only_an_admin_gets_in(
    tmp_path: Path, token: str, status: int, code: str | None, auth: str
) -> None:
    async with FakeEngine(rules=[lines(LINES)]) as engine:
        text = f'server: {{listen: "127.0.0.1:0", auth: {auth}}}\n' + config(engine.url, keys=KEYS)
        async with serving(tmp_path, text) as served:
            for answer in (
                await served.get("/gateway/backends", authorization=token),
                await pull(served, authorization=token),
            ):
                assert answer.status == status
                assert code is None or answer.error["code"] == code
            pulled = [exchange for exchange in engine.requests if exchange.path == "/pull"]
            assert len(pulled) == (status == 200)


async def test_without_keys_only_this_machine_gets_in(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        text = 'server: {listen: "0.0.0.0:0", auth: none}\n' + config(engine.url)
        async with serving(tmp_path, text) as served:
            answer = await served.get("/gateway/backends")
            assert (answer.status, answer.error["code"]) == (403, "admin_required")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:{port}"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
    ],
)
async def test_a_browser_on_behalf_of_another_site_never_gets_in(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with gateway(tmp_path, lines(LINES)) as (_, served):
        sent = {name: value.replace("{port}", str(served.port)) for name, value in headers.items()}
        assert (await served.get("/gateway/backends", **sent)).status == status
        assert (await pull(served, **sent)).status == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:{port}", 200),
        ("[::1]:1", 200),
        ("evil.example:{port}", 403),
        ("localhost.evil.example", 403),
    ],
)
async def test_a_foreign_name_for_this_machine_does_not_help(tmp_path: Path, host: str, status: int) -> None:
    async with gateway(tmp_path) as (_, served):
        name = host.replace("{port}", str(served.port))
        request = f"GET /gateway/backends HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n"
        assert Answer.read(await served.raw(request.encode())).status == status


async def test_progress_comes_as_lines_and_then_the_models_are_known(tmp_path: Path) -> None:
    async def listed() -> list[str]:
        return sorted(model["id"] for model in (await served.get("/v1/models")).json()["data"])

    async with gateway(tmp_path) as (engine, served):
        engine.set(models=["fake", "new"], rules=[lines(LINES)])
        assert await listed() == ["fake"]
        answer = await pull(served)
        assert (answer.status, answer.body, answer.whole) == (200, LINES, True)
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["x-request-id"]
        assert await listed() == ["fake", "new"]
        sent = next(each for each in engine.requests if each.path == "/pull")
        assert (sent.method, sent.json()) == ("POST", {"model": "m"})


async def test_a_line_is_there_before_the_next_and_who_leaves_is_noticed(tmp_path: Path) -> None:
    first = LINES.splitlines(keepends=True)[0]
    hang = Fault(at=f"body byte {len(first)}", do="hang")
    async with gateway(tmp_path, lines(LINES, faults=(hang,))) as (engine, served):
        reader, writer = await served.connect()
        head = f"POST {PULL} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        writer.write(head.encode() + b'content-length: 13\r\n\r\n{"model":"m"}')
        assert (await asyncio.wait_for(reader.readuntil(first), 10)).endswith(first)
        writer.close()
        await engine.until(lambda: any(each.outcome == "aborted" for each in engine.requests))


async def test_an_error_among_the_lines_has_openai_s_shape(tmp_path: Path) -> None:
    body = b'{"status":"pulling"}\n{"error":"pull model manifest: file does not exist"}\n'
    async with gateway(tmp_path, lines(body)) as (_, served):
        first, second = (await pull(served)).body.splitlines()
        assert first == b'{"status":"pulling"}'
        error = json.loads(second)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"] == "pull model manifest: file does not exist"


async def test_an_answer_that_breaks_off_says_so_and_does_not_end(tmp_path: Path) -> None:
    reset = Fault(at=f"body byte {LINES.index(b'{', 1)}", do="reset")
    async with gateway(tmp_path, lines(LINES, faults=(reset,))) as (_, served):
        answer = await pull(served)
        assert not answer.whole
        first, *_, last = answer.body.splitlines()
        assert first == LINES.splitlines()[0]
        assert json.loads(last)["error"]["code"] == "upstream_reset"


async def test_an_answer_that_is_no_stream_is_passed_on_and_never_as_a_page(tmp_path: Path) -> None:
    rules = [rule("/list", {"models": []}), rule("/show", b"<script>", kind="text/html")]
    async with gateway(tmp_path, *rules) as (_, served):
        listed = await served.post("/gateway/backends/a/list", None)
        assert (listed.status, listed.json()) == (200, {"models": []})
        assert listed.headers["content-type"] == "application/json"
        shown = await served.post("/gateway/backends/a/show", {"model": "m"})
        assert (shown.status, shown.body) == (200, b"<script>")
        assert shown.headers["content-type"] == "text/plain"
        assert shown.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "words"),
    [
        ("b/pull", {"model": "m"}, 404, "backend_not_found", "no backend 'b'"),
        ("a/delete", {"model": "m"}, 400, "not_supported", "it has list, pull, show"),
        ("a/nonsense", {}, 400, "not_supported", "no action 'nonsense'"),
        ("a/pull", {"name": "m"}, 400, "invalid_value", "needs the argument 'model'"),
        ("a/pull", b"[]", 400, "invalid_value", "JSON object"),
        ("a/pull", b'{"model":', 400, "invalid_value", "JSON object"),
        ("a/pull", b"\xff", 400, "invalid_value", "JSON object"),
        ("a/pull", b" " * (1 << 20) + b"{}", 413, "request_too_large", "larger than"),
    ],
)
async def test_what_cannot_be_done_is_refused_before_the_engine_hears_of_it(
    tmp_path: Path, path: str, body: Any, status: int, code: str, words: str
) -> None:
    async with gateway(tmp_path, lines(LINES)) as (engine, served):
        answer = await served.post(f"/gateway/backends/{path}", body)
        assert (answer.status, answer.error["code"]) == (status, code)
        assert words in answer.error["message"]
        assert not [each for each in engine.requests if each.path == "/pull"]


async def test_a_form_is_no_argument(tmp_path: Path) -> None:
    async with gateway(tmp_path, lines(LINES)) as (_, served):
        answer = await served.post(PULL, b'{"model":"m"}', content_type="text/plain")
        assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")


async def test_an_engine_s_refusal_has_openai_s_shape_and_its_own_words(tmp_path: Path) -> None:
    refusal = {"error": {"message": "model 'm' not found", "code": "model_not_found"}}
    async with gateway(tmp_path, rule("/pull", refusal, 404)) as (_, served):
        answer = await pull(served)
        assert answer.status == 404
        assert "model 'm' not found" in answer.error["message"]


async def test_an_engine_that_is_gone_is_an_error(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (engine, served):
        await engine.stop()
        answer = await pull(served)
        assert (answer.status, answer.error["code"]) == (502, "upstream_connect_error")


async def test_an_engine_whose_process_ends_is_noticed_at_once(tmp_path: Path) -> None:
    hang = Fault(at="request", do="hang")
    async with gateway(tmp_path, lines(LINES, faults=(hang,))) as (engine, served):
        asked = asyncio.create_task(pull(served))
        await engine.until(lambda: any(each.path == "/pull" for each in engine.requests))
        # What the launcher does when the process has ended.
        served.gateway.pool.backends["a"].locate(None)
        answer = await asyncio.wait_for(asked, 10)
        assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
        answer = await pull(served)
        assert (answer.status, answer.error["code"]) == (503, "no_healthy_backend")


async def test_who_did_what_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "gateway.api")
    async with gateway(tmp_path, lines(LINES)) as (_, served):
        await pull(served, x_request_id="req-7")
    assert "backend 'a': pull, asked for by 'anyone' (req-7)" in caplog.messages


async def test_other_methods_are_refused(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (_, served):
        assert (await served.get(PULL)).status == 405
        assert (await served.post("/gateway/backends", {})).status == 405


async def test_the_reference_describes_them(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (_, served):
        paths = (await served.get("/openapi.json")).json()["paths"]
        assert "get" in paths["/gateway/backends"]
        assert "post" in paths["/gateway/backends/{name}/{action}"]


# --- actions of more than one request

PAUSE, RELEASE = "/pause_generation", "/release_memory_occupation"


async def sleep(folder: Path, *rules: Rule) -> tuple[Answer, list[str]]:
    """Put an SGLang to sleep; return the answer, and the paths that were asked."""
    async with FakeEngine(rules=rules) as engine:
        text = config(engine.url).replace("orchard", "sglang")
        async with serving(folder, text) as served:
            answer = await served.post("/gateway/backends/a/sleep", {})
        asked = [exchange.path for exchange in engine.journal.exchanges if exchange.method == "POST"]
        return answer, asked


async def test_an_action_of_two_requests_answers_as_the_last_one(tmp_path: Path) -> None:
    answer, asked = await sleep(tmp_path, rule(PAUSE, {"status": "ok"}), rule(RELEASE, {"done": True}))
    assert (answer.status, answer.json(), asked) == (200, {"done": True}, [PAUSE, RELEASE])


async def test_an_action_ends_where_its_first_request_is_refused(tmp_path: Path) -> None:
    answer, asked = await sleep(tmp_path, rule(PAUSE, {"message": "not now"}, status=400), rule(RELEASE, {}))
    assert answer.status == 400 and "not now" in answer.error["message"] and asked == [PAUSE]
