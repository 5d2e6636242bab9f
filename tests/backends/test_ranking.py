"""Reranking: Jina's, Cohere's and TEI's forms, on engines that have one of them."""

from typing import Any

import msgspec
import pytest

from backends.base import Failure, Operation, Reply, Request
from backends.dialect import ranking
from backends.engines.openai import OpenAI
from backends.registry import create, engine, names

TEXTS = ["a river", "one URL", "a gate"]
RANKING = [
    {"index": 1, "relevance_score": 0.9},
    {"index": 0, "relevance_score": 0.5},
    {"index": 2, "relevance_score": 0.1},
]


def request(**members: Any) -> Request:
    body = {"model": "m", "query": "q", **members}
    return Request(Operation.RERANK, msgspec.json.encode(body), "m")


def sent(name: str, **members: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    call = create(name).call(request(**members), "own")
    return msgspec.json.decode(call.body), call.dropped


def answered(wanted: Request, results: list[dict[str, Any]], **beside: Any) -> Any:
    body = msgspec.json.encode({"results": results, **beside})
    reply = OpenAI().reply(wanted, "own", [], body)
    assert isinstance(reply, Reply), reply
    return msgspec.json.decode(reply.body)


RERANKING = [name for name in names() if Operation.RERANK in engine(name).operations]


@pytest.mark.parametrize("name", RERANKING)
def test_objects_and_teis_texts_are_sent_as_documents(name: str) -> None:
    body, _ = sent(name, documents=[{"text": "a river", "id": 3}, "one URL"], top_n=1)
    assert body == {"model": "own", "query": "q", "documents": ["a river", "one URL"], "top_n": 1}
    body, _ = sent(name, texts=TEXTS, return_text=True, raw_scores=False, truncate=True)
    assert body == {"model": "own", "query": "q", "documents": TEXTS, "return_documents": True}
    documents = [{"title": "t", "body": "b", "id": 1}]
    body, _ = sent(name, documents=documents, rank_fields=["title", "body", "other"])
    assert body["documents"] == ["title: t\nbody: b"]


@pytest.mark.parametrize("name", RERANKING)
def test_what_has_no_counterpart_is_left_out_and_named(name: str) -> None:
    known = {"vllm": {"max_tokens_per_doc"}, "openai": set(ranking.COHERES)}.get(name, set())
    asked = {"max_tokens_per_doc": 512, "max_chunks_per_doc": 10, "priority": 3}
    body, dropped = sent(name, documents=TEXTS, **asked)
    kept = {member: value for member, value in asked.items() if member in known}
    assert body == {"model": "own", "query": "q", "documents": TEXTS, **kept}
    assert set(dropped) == {"max_tokens_per_doc", "max_chunks_per_doc"} - known


def test_contents_of_vllm_pass_as_they_are() -> None:
    documents = [{"content": [{"type": "text", "text": "a"}]}]
    body, _ = sent("vllm", documents=documents, query={"content": []})
    assert (body["documents"], body["query"]) == (documents, {"content": []})


def test_an_answer_that_fits_keeps_its_bytes() -> None:
    body = msgspec.json.encode({"results": RANKING, "usage": {"total_tokens": 3}})
    for members in ({}, {"top_n": 3}, {"top_n": 0}, {"return_documents": False}):
        wanted = request(documents=TEXTS, **members)
        assert ranking.answered(wanted.body, body) is body


def test_the_best_come_first_and_as_many_as_were_asked_for() -> None:
    told = answered(request(documents=TEXTS, top_n=2), RANKING[::-1], model="own", id="x")
    assert told == {"results": RANKING[:2], "model": "m", "id": "x"}


def test_documents_are_there_or_not_as_was_asked() -> None:
    documents: list[Any] = ["a river", {"text": "one URL", "id": 3}, "a gate"]
    told = answered(request(documents=documents, return_documents=True), RANKING)
    assert [each["document"] for each in told["results"]] == [
        {"text": "one URL", "id": 3},
        {"text": "a river"},
        {"text": "a gate"},
    ]
    assert [each["index"] for each in told["results"]] == [1, 0, 2]
    named = [{**each, "document": {"text": "x", "multi_modal": None}} for each in RANKING]
    assert answered(request(documents=TEXTS, return_documents=False), named)["results"] == RANKING
    assert answered(request(documents=TEXTS), named)["results"] == named


def test_teis_clients_get_a_bare_list() -> None:
    told = answered(request(texts=TEXTS, return_text=True), RANKING[::-1])
    assert told == [
        {"index": 1, "score": 0.9, "text": "one URL"},
        {"index": 0, "score": 0.5, "text": "a river"},
        {"index": 2, "score": 0.1, "text": "a gate"},
    ]
    assert answered(request(texts=TEXTS), RANKING)[0] == {"index": 1, "score": 0.9}


@pytest.mark.parametrize("results", [[1], [{"index": 0}], [{"index": "a", "relevance_score": 1}]])
def test_what_is_no_ranking_is_the_engines_failure(results: Any) -> None:
    body = msgspec.json.encode({"results": results})
    assert isinstance(OpenAI().reply(request(documents=TEXTS), "own", [], body), Failure)
