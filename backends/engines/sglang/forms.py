"""Translate between SGLang's forms of reranking, scoring and detokenizing and the canonical ones.

Facts are those of SGLang 0.5.23 (`serving_rerank.py`, `serving_score.py`, `serving_tokenize.py`).

Rules:
- A client's other parameters are kept, also SGLang's own, such as the `label_token_ids` by which a text model scores.
- What SGLang's form cannot express is refused before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from backends.base import Failure, Kind, Operation, Request, RequestError
from backends.dialect.edits import Members


class _Ranked(msgspec.Struct):
    index: int
    score: float
    document: Any = None
    meta_info: dict[str, Any] | None = None


class _Scored(msgspec.Struct):
    scores: list[list[float]]
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _Text(msgspec.Struct):
    text: msgspec.Raw


_ranking = msgspec.json.Decoder(list[_Ranked])
_scored = msgspec.json.Decoder(_Scored)
_text = msgspec.json.Decoder(_Text)
_list = msgspec.json.Decoder(list[msgspec.Raw])


def score(members: Members) -> Members:
    """Return a score request in SGLang's form, one text against others.

    Raise RequestError if each text has a partner of its own, which SGLang cannot score in one request.
    """
    if "text_1" not in members or "text_2" not in members:
        return members
    query, items = members.pop("text_1"), members.pop("text_2")
    if query.startswith(b"["):
        texts = _list.decode(query)
        if len(texts) != 1:
            raise RequestError(Failure(Kind.UNSUPPORTED, "the engine scores one text_1 at a time"))
        query = bytes(texts[0])
    return {**members, "query": query, "items": items}


def detokenize(members: Members) -> Members:
    """Return a detokenize request for all tokens, as in vLLM: by default SGLang leaves out special ones."""
    return {"skip_special_tokens": b"false", **members}


def _ranking_of(request: Request, body: bytes) -> bytes:
    """Return a ranking, which SGLang sends as a sorted list, with token counts for each document."""
    ranked = _ranking.decode(body)
    results = [
        {
            "index": found.index,
            **({} if found.document is None else {"document": {"text": found.document}}),
            "relevance_score": found.score,
        }
        for found in ranked
    ]
    counts = [(found.meta_info or {}).get("prompt_tokens") for found in ranked]
    tokens = sum(count for count in counts if type(count) is int)
    usage = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if tokens else {}
    return msgspec.json.encode({"model": request.model, "results": results, **usage})


def _scores_of(request: Request, body: bytes) -> bytes:
    """Return the scores, one for each text; with several labels (`label_token_ids`) that of the first one."""
    answer = _scored.decode(body)
    data = [
        {"index": place, "object": "score", "score": row[0]} for place, row in enumerate(answer.scores) if row
    ]
    return msgspec.json.encode(
        {"object": "list", "model": request.model, "data": data, "usage": answer.usage}
    )


def _text_of(request: Request, body: bytes) -> bytes:
    """Return the text of detokenized tokens."""
    return msgspec.json.encode({"prompt": _text.decode(body).text})


REPLIES: Mapping[Operation, Callable[[Request, bytes], bytes]] = {
    Operation.RERANK: _ranking_of,
    Operation.SCORE: _scores_of,
    Operation.DETOKENIZE: _text_of,
}
