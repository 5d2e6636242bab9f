"""What no engine of a model can do: refused with a typed error that names who can, never asked of those who cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends import registry
from backends.base import Operation
from gateway.errors import ROWS
from gateway.fake.engine import FakeEngine
from gateway.fake.script import Rule
from tests.api.asking import ASKED, answering, config
from tests.serving import serving

SCORE = {"model": "public", **ASKED["score"].asks}
RERANK = {"model": "public", **ASKED["rerank"].asks}
NO_RERANK = {"error": {"message": "start it with --reranking", "type": "not_supported_error", "code": 501}}
ALL_WELL = answering("/v1/score", {"model": "private", **ASKED["score"].says})


def posts(engine: FakeEngine) -> list[str]:
    return [exchange.path for exchange in engine.requests if exchange.method == "POST"]


async def test_an_operation_no_engine_has_is_refused_before_any_is_asked(tmp_path: Path) -> None:
    async with FakeEngine() as engine, serving(tmp_path, config(engine, kinds=("llamacpp",))) as served:
        answer = await served.post("/v1/score", SCORE)
        assert (answer.status, answer.error["code"]) == (400, "not_supported")
        assert answer.error["type"] == "invalid_request_error"
        assert (
            answer.error["message"]
            == "no backend of the model 'public' can do 'score'; no other model here can"
        )
        outcome = {"model": "public", "operation": "score", "outcome": "client_error"}
        assert served.metric("gateway_requests_total", **outcome) == 1
        assert posts(engine) == []


async def test_the_error_names_the_callers_models_that_can(tmp_path: Path) -> None:
    key = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # of "test"
    async with FakeEngine() as engine:
        text = config(engine, engine, kinds=("llamacpp",)).partition("models:")[0] + (
            "models:\n  public: {targets: {e0: a}}\n  judge: {aliases: [referee], targets: {e1: b}}\n"
            f"  hidden: {{targets: {{e1: c}}}}\nkeys:\n  k: {{hash: 'sha256:{key}', models: [public, judge]}}\n"
        )
        async with serving(tmp_path, text) as served:
            answer = await served.post("/v1/score", SCORE, authorization="Bearer test")
            assert answer.status == 400
            assert answer.error["message"].endswith("can do 'score'; models here that can: judge, referee")


async def test_only_backends_that_can_are_chosen(tmp_path: Path) -> None:
    async with FakeEngine() as unable, FakeEngine(rules=[ALL_WELL]) as able:
        async with serving(tmp_path, config(unable, able, kinds=("llamacpp",))) as served:
            answers = [await served.post("/v1/score", SCORE) for _ in range(8)]
            assert [answer.headers.get("x-gateway-backend") for answer in answers] == ["e1"] * 8
            assert {answer.headers["x-gateway-attempts"] for answer in answers} == {"1"}
        assert posts(unable) == []


async def test_a_fallback_stands_in_for_what_its_model_cannot_do(tmp_path: Path) -> None:
    async with FakeEngine() as unable, FakeEngine(rules=[ALL_WELL]) as able:
        text = config(unable, able, kinds=("llamacpp",)).partition("models:")[0] + (
            "models:\n  public: {targets: {e0: a}, fallback: [judge]}\n  judge: {targets: {e1: private}}\n"
        )
        async with serving(tmp_path, text) as served:
            answer = await served.post("/v1/score", SCORE)
            assert (answer.status, answer.headers["x-gateway-model"]) == (200, "judge")
        key = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        keyed = f"{text}keys:\n  k: {{hash: 'sha256:{key}', models: [public]}}\n"
        async with serving(tmp_path, keyed) as served:
            answer = await served.post("/v1/score", SCORE, authorization="Bearer test")
            assert (answer.status, answer.error["code"]) == (400, "not_supported")
            assert "judge" not in answer.error["message"]


async def test_an_engine_that_says_so_itself_is_passed_over(tmp_path: Path) -> None:
    refusing = answering("/v1/rerank", NO_RERANK, status=501)
    able = answering("/v1/rerank", {"model": "private", **ASKED["rerank"].says})
    async with FakeEngine(rules=[refusing]) as first, FakeEngine(rules=[able]) as second:
        async with serving(tmp_path, config(first, second)) as served:
            answers = [await served.post("/v1/rerank", RERANK) for _ in range(6)]
            assert {answer.status for answer in answers} == {200}
        second.set(rules=[refusing])
        async with serving(tmp_path, config(first, second)) as served:
            answer = await served.post("/v1/rerank", RERANK)
            assert (answer.status, answer.error["code"]) == (400, "not_supported")
            assert answer.error["message"] == "start it with --reranking"


@pytest.mark.parametrize(
    "rule",
    [
        answering("/v1/rerank", {"detail": "Not Found"}, status=404),
        answering("/v1/rerank", {"detail": "Method Not Allowed"}, status=405),
        answering("/v1/rerank", "404 page not found", "text/plain", status=404),
        answering("/v1/rerank", {"error": {"message": "File Not Found", "code": 404}}, status=404),
    ],
)  # fmt: skip
async def test_a_path_an_engine_does_not_have_is_an_operation_it_cannot_do(
    rule: Rule, tmp_path: Path
) -> None:
    async with FakeEngine(rules=[rule]) as engine, serving(tmp_path, config(engine)) as served:
        answer = await served.post("/v1/rerank", RERANK)
        assert (answer.status, answer.error["code"]) == (400, "not_supported")
        assert answer.error["message"] in ("the engine does not offer this operation", "Method Not Allowed")


async def test_a_request_an_engine_has_no_words_for_goes_to_another(tmp_path: Path) -> None:
    """llama.cpp gives the tokens of a prompt, not of messages."""
    asked = {"model": "public", "messages": [{"role": "user", "content": "hi"}]}
    able = answering("/tokenize", {"count": 1, "tokens": [5]})
    async with FakeEngine(rules=[able]) as llama, FakeEngine(rules=[able]) as other:
        async with serving(tmp_path, config(llama, other, kinds=("llamacpp",))) as served:
            answers = [await served.post("/tokenize", asked) for _ in range(6)]
            assert {answer.status for answer in answers} == {200}
        assert posts(llama) == []
        async with serving(tmp_path, config(llama, kinds=("llamacpp",))) as served:
            answer = await served.post("/tokenize", asked)
            assert (answer.status, answer.error["code"], answer.error["param"]) == (
                400,
                "not_supported",
                "messages",
            )
        assert posts(llama) == []


def test_what_a_client_got_wrong_is_never_a_5xx_which_client_libraries_repeat() -> None:
    mistakes = [row for row in ROWS.values() if row.outcome == "client_error"]
    assert mistakes and all(400 <= row.status < 500 for row in mistakes)
    assert not any(row.status == 501 for row in ROWS.values())


def test_every_engine_says_what_it_can_do() -> None:
    for name in registry.names():
        assert registry.engine(name).operations <= set(Operation)
        assert registry.engine(name).operations
