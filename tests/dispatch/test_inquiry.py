"""A stream that ends before its first content without a reason: the engine is asked once more, briefly, for the reason.

Real replies of vLLM are played by the replay server; what no engine does on command is done by a fake one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.base import Operation, Request
from backends.dialect.brief import asked_briefly
from gateway.fake.engine import FakeEngine
from gateway.fake.journal import Exchange
from tests.backends.recorded import recorded
from tests.conformance.replay import Recording, Replay, replaying
from tests.faults.clients import CHAT, chat, client, config, http, rest, until
from tests.serving import Served, serving

RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
ASKED: dict[str, Any] = {"model": "m", "max_tokens": 300, "messages": [{"role": "user", "content": "x"}]}
ANSWERED: dict[str, Any] = {"model": "m", "input": "x", "max_output_tokens": 40}


def to(name: str, body: dict[str, Any]) -> Recording:
    """Return a real reply of vLLM, as the answer to this body."""
    return dataclasses.replace(recorded("vllm", name), body=json.dumps(body | {"model": "up"}).encode())


def played(path: str, stream: str, whole: str) -> tuple[dict[str, Any], list[Recording]]:
    """Return a client's request, and the real replies to it and to the short question that follows."""
    asked, limit = (ANSWERED, "max_output_tokens") if path == RESPONSES else (ASKED, "max_tokens")
    body = asked | {"stream": True}
    return body, [to(stream, body), to(whole, asked | {limit: 1})]


@asynccontextmanager
async def one(folder: Path, rules: list[dict[str, Any]]) -> AsyncIterator[tuple[Served, FakeEngine]]:
    """Yield a gateway with one model on one fake engine."""
    async with (
        FakeEngine(models=["up"], rules=rules) as engine,
        serving(folder, config(engine.url)) as served,
    ):
        yield served, engine
        await rest(served)


@asynccontextmanager
async def two(folder: Path, recordings: list[Recording]) -> AsyncIterator[tuple[Served, list[Replay]]]:
    """Yield a gateway with one model on two vLLMs that answer so."""
    probes = [recorded("vllm", name) for name in ("health", "is_sleeping", "metrics", "models")]
    async with AsyncExitStack() as stack:
        replays = [await stack.enter_async_context(replaying([*probes, *recordings])) for _ in range(2)]
        text = config(*(replay.url for replay in replays), kind="vllm")
        served = await stack.enter_async_context(serving(folder, text))
        yield served, replays
        await rest(served)
        assert [replay.unmatched for replay in replays] == [[], []]


def posted(engine: FakeEngine) -> list[Exchange]:
    """Return the requests that the engine got, without probes."""
    return [request for request in engine.requests if request.method == "POST"]


def breakers(served: Served) -> list[bool]:
    return [backend.breaker.open for backend in served.gateway.pool.backends.values()]


def attempts(served: Served) -> float:
    return served.metric("gateway_attempts_total")


@pytest.mark.parametrize(
    ("path", "stream", "whole", "words", "tried"),
    [
        (
            RESPONSES,
            "responses_failed_stream",
            "responses_failed",
            'Grammar error: Unimplemented keys: ["',
            1,
        ),
        (
            RESPONSES,
            "responses_background_null_stream",
            "responses_background_null",
            "background: Input should be a valid boolean",
            1,
        ),
        (
            MESSAGES,
            "messages_thinking_refused_stream",
            "messages_thinking_refused",
            "a budget for thinking needs a 'reasoning_parser' at the engine",
            2,
        ),
        (
            MESSAGES,
            "messages_thinking_refused_stream",
            "messages_overflow",
            "This model's maximum context length is",
            1,
        ),
    ],
    ids=["responses", "responses, nothing at all", "messages", "messages, too long"],
)
async def test_what_vllm_refuses_in_a_stream_is_told_with_its_words(
    path: str, stream: str, whole: str, words: str, tried: int, tmp_path: Path
) -> None:
    """And it is the client's mistake: no breaker opens, and no other backend is tried unless it may be able to."""
    body, recordings = played(path, stream, whole)
    async with two(tmp_path, recordings) as (served, _):
        for _ in range(6):
            answer = await served.post(path, body)
            assert answer.status == 400, answer.body
            assert answer.error["message"].startswith(words)
        assert breakers(served) == [False, False]
        assert attempts(served) == 6 * tried
        assert served.metric("gateway_attempts_total", result="reset") == 0


@pytest.mark.parametrize(
    ("path", "stream", "whole"),
    [
        (RESPONSES, "overloaded_responses_in_stream", "overloaded_responses"),
        (MESSAGES, "overloaded_messages_in_stream", "overloaded_messages"),
    ],
)
async def test_a_full_vllm_is_told_as_full(path: str, stream: str, whole: str, tmp_path: Path) -> None:
    body, recordings = played(path, stream, whole)
    async with two(tmp_path, recordings) as (served, _):
        answer = await served.post(path, body)
        expected = 529 if path == "/v1/messages" else 503
        assert (answer.status, answer.error["code"]) == (expected, "overloaded")
        assert breakers(served) == [False, False]
        assert served.metric("gateway_attempts_total", result="overloaded") == attempts(served) == 2


@pytest.mark.parametrize("engine_is_well", [True, False])
async def test_where_the_engine_gives_no_reason_the_failure_stays_what_it_was(
    engine_is_well: bool, tmp_path: Path
) -> None:
    """An engine that answers the short question, or fails it too, has broken off the stream itself."""
    whole = "responses" if engine_is_well else "chat_grammar_conflict"
    body, recordings = played(RESPONSES, "responses_failed_stream", whole)
    recordings[1] = dataclasses.replace(recordings[1], path=RESPONSES)
    async with two(tmp_path, recordings) as (served, _):
        answer = await served.post(RESPONSES, body)
        assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
        assert served.metric("gateway_attempts_total", result="reset") == attempts(served) == 2


ABORTED: dict[str, Any] = {
    "match": {"stream": True},
    "faults": [
        {
            "at": "event 1",
            "do": "event",
            "data": '{"choices":[{"index":0,"delta":{},"finish_reason":"abort"}]}',
        }
    ],
}


async def test_an_abort_in_a_stream_is_explained_by_whoever_told_it(tmp_path: Path) -> None:
    refusing = {
        "match": {"stream": False},
        "reply": {"status": 400, "body": json.dumps({"error": {"message": "the grammar is wrong"}})},
    }
    async with one(tmp_path, [ABORTED, refusing]) as (served, engine):
        answer = await served.post(CHAT, chat(stream=True, max_tokens=50))
        assert (answer.status, answer.error["message"]) == (400, "the grammar is wrong")
        first, second = (json.loads(request.body) for request in posted(engine))
        assert second == {"model": "up", "messages": first["messages"], "max_tokens": 1}


@pytest.mark.parametrize("what", ["reset", "close"])
async def test_an_engine_that_is_gone_is_asked_in_vain(what: str, tmp_path: Path) -> None:
    async with one(tmp_path, [{"faults": [{"at": "event 1", "do": what}]}]) as (served, _):
        answer = await served.post(CHAT, chat(stream=True))
        assert (answer.status, answer.error["code"]) == (502, "upstream_reset")


async def test_a_client_that_leaves_ends_the_question_too(tmp_path: Path) -> None:
    hanging = {"match": {"stream": False}, "faults": [{"at": "request", "do": "hang"}]}
    async with one(tmp_path, [ABORTED, hanging]) as (served, engine):
        async with client(served.port) as caller:
            await caller.send(http(chat(stream=True)))
            await until(lambda: len(posted(engine)) == 2, "the engine is asked for the reason")
            caller.leave()
            await until(lambda: not served.gateway.pool.backends["engine-0"].in_flight, "the lease is closed")
        assert served.metric("gateway_requests_total", outcome="client_gone") == 1


async def test_an_answer_that_is_not_streamed_is_not_asked_for_twice(tmp_path: Path) -> None:
    aborted = {"reply": {"status": 200, "body": '{"choices":[{"index":0,"finish_reason":"abort"}]}'}}
    async with one(tmp_path, [aborted]) as (served, engine):
        answer = await served.post(CHAT, chat())
        assert answer.status == 502
        assert len(posted(engine)) == 1


# --- the question


def brief(operation: Operation, **body: Any) -> dict[str, Any]:
    given = Request(operation, json.dumps({"model": "m", "stream": True, **body}).encode(), "m", stream=True)
    found = asked_briefly(given)
    assert found is not None and not found.stream
    said: dict[str, Any] = json.loads(found.body)
    assert said.pop("model") == "m" and "stream" not in said
    return said


def test_the_question_is_the_request_for_a_whole_answer_of_one_token() -> None:
    chats = {"messages": [], "stream_options": {"include_usage": True}, "min_tokens": 5, "seed": 3}
    assert brief(Operation.CHAT, **chats) == {"messages": [], "seed": 3, "max_tokens": 1}
    both = brief(Operation.CHAT, messages=[], max_tokens=9, max_completion_tokens=8)
    assert both == {"messages": [], "max_tokens": 1, "max_completion_tokens": 1}
    assert brief(Operation.CHAT, messages=[], max_completion_tokens=8) == {
        "messages": [],
        "max_completion_tokens": 1,
    }
    assert brief(Operation.COMPLETIONS, prompt="x") == {"prompt": "x", "max_tokens": 1}
    assert brief(Operation.RESPONSES, input="x") == {"input": "x", "max_output_tokens": 1}
    assert brief(Operation.MESSAGES, max_tokens=9) == {"max_tokens": 1}


def test_the_question_has_room_for_the_thoughts_that_were_asked_for() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    assert brief(Operation.MESSAGES, max_tokens=9, thinking=thinking)["max_tokens"] == 1025
    assert brief(Operation.MESSAGES, max_tokens=9, thinking={"type": "adaptive"})["max_tokens"] == 1
    assert brief(Operation.MESSAGES, max_tokens=9, thinking="x")["max_tokens"] == 1


@pytest.mark.parametrize("operation", [Operation.TRANSCRIPTIONS, Operation.INFILL, Operation.SPEECH])
def test_other_operations_have_no_such_question(operation: Operation) -> None:
    assert asked_briefly(Request(operation, b"{}", "m", stream=True)) is None
