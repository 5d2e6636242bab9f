"""Models that engines list: kept fresh, asked for when somebody names a new one, at single backends, and defaults."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from gateway.fleet import discovery
from gateway.fleet.discovery import Discovery
from tests.serving import Answer, Served, serving

SAYS = [{"say": "yes"}]
ALONE = 'backends: {{one: {{engine: openai, url: "{url}"}}}}'
TYPE = "multipart/form-data; boundary=B"


def chat(name: str | None) -> dict[str, Any]:
    named = {} if name is None else {"model": name}
    return {**named, "messages": [{"role": "user", "content": "x"}]}


async def ask(served: Served, name: str, key: str = "") -> Answer:
    return await served.post("/v1/chat/completions", chat(name), authorization=f"Bearer {key}" if key else "")


def lists(engine: FakeEngine) -> int:
    return sum(made.path == "/v1/models" for made in engine.requests)


async def test_a_model_that_was_just_pulled_works_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "EVERY", 0.0)
    async with (
        FakeEngine(models=["a"], rules=SAYS) as engine,
        serving(tmp_path, ALONE.format(url=engine.url)) as served,
    ):
        assert (await ask(served, "b")).status == 404
        engine.set(models=["a", "b"], rules=SAYS)
        assert (await ask(served, "b")).status == 200
        engine.set(models=["a", "b", "org/c"], rules=SAYS)
        assert (await served.get("/v1/models/org/c")).json()["id"] == "org/c"
        engine.set(models=["a", "b", "d"], rules=SAYS)
        large = {**chat("d"), "pad": "x" * 300_000}
        assert (await served.post("/v1/chat/completions", large)).status == 200


async def test_all_who_ask_share_one_round(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["a"], rules=SAYS) as engine,
        serving(tmp_path, ALONE.format(url=engine.url)) as served,
    ):
        before = lists(engine)
        answers = await asyncio.gather(*(ask(served, f"new-{number}") for number in range(20)))
        assert {answer.status for answer in answers} == {404}
        assert (await ask(served, "another")).status == 404
        assert lists(engine) == before + 1, "the next round is not due yet"


async def test_an_engine_that_does_not_answer_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LONGEST", 0.05)
    async with (
        FakeEngine(models=["a"], rules=SAYS) as engine,
        serving(tmp_path, ALONE.format(url=engine.url)) as served,
    ):
        silent = {"match": {"path": "/v1/models"}, "faults": [{"at": "request", "do": "hang"}]}
        engine.set(models=["a"], rules=[silent])
        answer = await ask(served, "b")
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert (await ask(served, "b")).status == 404


async def test_a_client_that_leaves_takes_nothing_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LONGEST", 0.2)
    async with (
        FakeEngine(models=["a"], rules=SAYS) as engine,
        serving(tmp_path, ALONE.format(url=engine.url)) as served,
    ):
        silent = {"match": {"path": "/v1/models"}, "faults": [{"at": "request", "do": "hang"}]}
        engine.set(models=["a"], rules=[silent])
        body = b'{"model":"b","messages":[{"role":"user","content":"x"}]}'
        _, writer = await served.connect()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        before = lists(engine)
        async with asyncio.timeout(5):
            while lists(engine) == before:  # noqa: ASYNC110 (the engine tells nobody)
                await asyncio.sleep(0.005)
        writer.close()
        assert (await ask(served, "c")).status == 404
        while served.gateway.core.register.running:
            await served.gateway.core.register.empty()
        assert served.metric("gateway_requests_total", outcome="client_gone") == 1


async def test_a_round_is_due_again_after_a_while() -> None:
    rounds: list[int] = []

    async def once() -> None:
        rounds.append(1)

    loop = asyncio.get_running_loop()
    made = Discovery(once, loop.create_task)
    now = loop.time()
    assert made.worthwhile(now)
    await asyncio.gather(made.asked(), made.asked())
    assert rounds == [1]
    assert not made.worthwhile(now + discovery.EVERY / 2)
    assert made.worthwhile(loop.time() + discovery.EVERY)


async def test_a_config_with_models_asks_nobody(tmp_path: Path) -> None:
    async with FakeEngine(models=["a", "b"], rules=SAYS) as engine:
        text = f'backends: {{one: {{engine: openai, url: "{engine.url}"}}}}\nmodels: {{m: {{targets: {{one: a}}}}}}'
        async with serving(tmp_path, text) as served:
            before = lists(engine)
            assert (await ask(served, "b")).status == 404
            assert lists(engine) == before


async def test_which_of_the_listed_models_are_offered(tmp_path: Path) -> None:
    models = ["qwen-35b", "Qwen-9b", "qwen-9b-draft", "llama"]
    async with (
        FakeEngine(models=models, rules=SAYS) as engine,
        FakeEngine(models=["llama"], rules=SAYS) as other,
    ):
        text = (
            f'backends:\n  one: {{engine: openai, url: "{engine.url}", include: ["?wen-*"], exclude: ["*-draft"]}}\n'
            f'  two: {{engine: openai, url: "{other.url}"}}\n'
        )
        async with serving(tmp_path, text) as served:
            listed = [entry["id"] for entry in (await served.get("/v1/models")).json()["data"]]
            assert listed == ["llama", "Qwen-9b", "qwen-35b"]
            assert (await ask(served, "llama")).headers["x-gateway-backend"] == "two"
            assert (await ask(served, "qwen-9b-draft")).status == 404
            assert (await ask(served, "one/qwen-9b-draft")).status == 404
            assert (await ask(served, "one/llama")).status == 404
            assert (await ask(served, "one/Qwen-9b")).status == 200


def key(name: str, more: str) -> str:
    return f"  {name}: {{hash: 'sha256:{hashlib.sha256(name.encode()).hexdigest()}'{more}}}\n"


async def test_exactly_one_backend_for_those_who_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "EVERY", 0.0)
    async with (
        FakeEngine(models=["org/x"], rules=SAYS) as one,
        FakeEngine(models=["org/x"], rules=SAYS) as two,
    ):
        open_to_all = (
            f'backends:\n  one: {{engine: openai, url: "{one.url}"}}\n  two: {{engine: openai, url: "{two.url}"}}\n'
            "models: {m: {targets: {one: org/x, two: org/x}}, two/org/x: {targets: {one: org/x}}}\n"
        )
        async with serving(tmp_path, open_to_all) as served:
            for _ in range(4):
                assert (await ask(served, "one/org/x")).headers["x-gateway-backend"] == "one"
            assert one.requests[-1].json()["model"] == "org/x"
            assert (await ask(served, "two/org/x")).headers["x-gateway-backend"] == "one", (
                "a model's name wins"
            )
            assert [entry["id"] for entry in (await served.get("/v1/models")).json()["data"]] == [
                "m",
                "two/org/x",
            ]
            assert (await ask(served, "one/new")).status == 404
            one.set(models=["org/x", "new"], rules=SAYS)
            answer = await ask(served, "one/new")
            assert (answer.status, answer.headers["x-gateway-model"]) == (200, "one/new")
            assert (await ask(served, "new")).status == 404
            assert (await ask(served, "three/org/x")).status == 404
        keys = (
            open_to_all.replace(", two/org/x: {targets: {one: org/x}}", "")
            + "keys:\n"
            + key("chief", ", admin: true")
            + key("all", "")
            + key("any", ", models: ['*']")
            + key("one", ", models: ['one/*', m]")
            + key("two", ", models: ['two/org/x']")
        )
        async with serving(tmp_path, keys) as served:
            may = {
                holder: [
                    name
                    for name in ("one/org/x", "two/org/x")
                    if (await ask(served, name, holder)).status == 200
                ]
                for holder in ("chief", "all", "any", "one", "two")
            }
            both = ["one/org/x", "two/org/x"]
            assert may == {"chief": both, "all": [], "any": [], "one": both[:1], "two": both[1:]}
            listed = await served.get("/v1/models", authorization="Bearer one")
            assert [entry["id"] for entry in listed.json()["data"]] == ["m", "one/new", "one/org/x"]


DEFAULTS = """
defaults: {{model: small, unknown_model: large}}
backends: {{one: {{engine: openai, url: "{url}", models: [s, l]}}}}
models: {{small: {{targets: {{one: s}}}}, large: {{targets: {{one: l}}}}}}
"""


@pytest.mark.parametrize(
    ("body", "upstream"),
    [
        (
            b'{ "messages":[{"role":"user","content":"x"}]}',
            b'{ "model":"s","messages":[{"role":"user","content":"x"}]}',
        ),
        (
            b'{"model" : "", "messages":[{"role":"user","content":"x"}]}',
            b'{"model" : "s", "messages":[{"role":"user","content":"x"}]}',
        ),
        (
            b'{"messages":[{"role":"user","content":"x"}],"model":null}',
            b'{"messages":[{"role":"user","content":"x"}],"model":"s"}',
        ),
        (
            b'{"model" : "gpt-9", "messages":[{"role":"user","content":"x"}]}',
            b'{"model" : "l", "messages":[{"role":"user","content":"x"}]}',
        ),
    ],
)
async def test_default_models(body: bytes, upstream: bytes, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["s", "l"], rules=SAYS) as engine,
        serving(tmp_path, DEFAULTS.format(url=engine.url)) as served,
    ):
        answer = await served.post("/v1/chat/completions", body)
        assert answer.status == 200
        assert engine.requests[-1].body == upstream
        assert answer.json()["model"] == answer.headers["x-gateway-model"] in ("small", "large")


def form(*names: str) -> bytes:
    head = '--B\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    values = [("model", name) for name in names]
    return ("".join(head.format(*pair) for pair in [*values, ("file", "abc")]) + "--B--\r\n").encode()


@pytest.mark.parametrize(
    ("names", "upstream"), [((), b"s"), (("",), b"s"), (("gpt-9",), b"l"), (("large",), b"l")]
)
async def test_default_models_of_forms(names: tuple[str, ...], upstream: bytes, tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["s", "l"], rules=SAYS) as engine,
        serving(tmp_path, DEFAULTS.format(url=engine.url)) as served,
    ):
        await served.post("/v1/audio/transcriptions", form(*names), content_type=TYPE)
        made = next(one for one in engine.requests if one.method == "POST")
        assert made.body == form(upstream.decode())


async def test_no_default_is_the_error_it_was(tmp_path: Path) -> None:
    async with FakeEngine(models=["s", "l"], rules=SAYS) as engine:
        text = DEFAULTS.replace("defaults: {{model: small, unknown_model: large}}\n", "")
        async with serving(tmp_path, text.format(url=engine.url)) as served:
            answer = await served.post("/v1/chat/completions", chat(None))
            assert (answer.status, answer.error["param"], answer.error["code"]) == (
                400,
                "model",
                "missing_field",
            )
            assert (await ask(served, "gpt-9")).status == 404
        limited = DEFAULTS + "keys:\n" + key("k", ", models: [small]").replace("{", "{{").replace("}", "}}")
        async with serving(tmp_path, limited.format(url=engine.url)) as served:
            answer = await ask(served, "gpt-9", "k")
            assert answer.status == 404 and "'gpt-9'" in answer.error["message"]
            assert "large" not in answer.error["message"]
