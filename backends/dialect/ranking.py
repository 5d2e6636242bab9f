"""Reranking in the forms of its three families of clients: Jina's and Cohere's, and Text Embeddings Inference's (TEI).

The canonical form is Jina's and Cohere's: `query`, `documents`, `top_n` and `return_documents`; `results` with `index`,
`relevance_score` and `document`. TEI takes `texts` and `return_text` and answers a bare list with `index`, `score` and
`text` (TEI 1.8's API reference).

Rules:
- Documents that are objects are sent as texts: their `text`, or of several `rank_fields` a line each, as Cohere's
  version 1 has it. An object with neither passes: vLLM ranks pictures so.
- What was asked for holds, whatever the engine makes of it: the best first, `top_n` of them, with or without documents.
  Where nothing is said of documents, they are as the engine has them. An answer that fits keeps its bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends.base import Request
from backends.dialect import rewrite
from backends.dialect.edits import Members

COHERES = ("max_tokens_per_doc", "max_chunks_per_doc", "priority")
"""Cohere's members without a counterpart. The first two shorten long documents."""
_SIGNS = (b'"texts"', b'"rank_fields"', b'"text"', *(b'"%b"' % name.encode() for name in COHERES))
_TEI = ("texts", "return_text", "raw_scores", "truncate", "truncation_direction")


class _Wish(msgspec.Struct):
    documents: list[Any] | msgspec.Raw | None = None
    texts: list[Any] | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    rank_fields: list[str] | None = None


class _Ranked(msgspec.Struct):
    index: int
    relevance_score: float
    document: msgspec.Raw = msgspec.Raw()


class _Answer(msgspec.Struct):
    results: list[msgspec.Raw]


_ranked = msgspec.json.Decoder(_Ranked)
_answer = msgspec.json.Decoder(_Answer)
_wish = msgspec.json.Decoder(_Wish)
_any = msgspec.json.Decoder()


def asked(request: Request, keeps: frozenset[str]) -> tuple[Request, tuple[str, ...]]:
    """Return a request as engines are asked, and the members of it that are not sent but could change the answer.

    `keeps` are members of Cohere's that the engine knows.
    """
    body = request.body
    if not any(sign in body for sign in _SIGNS):
        return request, ()
    members = rewrite.members(body)
    dropped = [name for name in COHERES if name not in keeps and members.pop(name, b"null") != b"null"]
    if "texts" in members:
        _from_tei(members)
    _plain_documents(members)
    dropped = [name for name in dropped if name != "priority"]
    return msgspec.structs.replace(request, body=rewrite.joined(members)), tuple(dropped)


def _from_tei(members: Members) -> None:
    """Say TEI's members in the canonical words. How it cuts long texts is left to the engine."""
    texts, wanted = members["texts"], members.get("return_text")
    for name in _TEI:
        members.pop(name, None)
    members["documents"] = texts
    if wanted is not None:
        members["return_documents"] = wanted


def _plain_documents(members: Members) -> None:
    """Have documents that are objects be texts."""
    fields = _names(members.pop("rank_fields", b"null"))
    value = members.get("documents", b"")
    if b"{" not in value or not value.startswith(b"["):
        return
    documents = _any.decode(value)
    members["documents"] = msgspec.json.encode([_text_of(document, fields) for document in documents])


def _names(value: bytes) -> list[str]:
    found = _any.decode(value)
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _text_of(document: Any, fields: list[str]) -> Any:
    """Return the text of a document by which it is ranked; what has none as it is."""
    if not isinstance(document, dict):
        return document
    if fields:
        return "\n".join(f"{name}: {document[name]}" for name in fields if name in document)
    text = document.get("text")
    return text if isinstance(text, str) else document


def answered(wanted: bytes, body: bytes) -> bytes:
    """Return an engine's ranking as the client's request `wanted` asks for it. Raise ValueError if it is none."""
    wish = _wish.decode(wanted)
    given = _answer.decode(body).results
    found = [_ranked.decode(raw) for raw in given]
    best = sorted(found, key=_by_relevance)[: _most(wish, len(found))]
    if wish.texts is not None:
        return msgspec.json.encode([_as_tei(ranked, wish) for ranked in best])
    if best == found and not _must_change(wish, found):
        return body
    raws = {id(ranked): raw for ranked, raw in zip(found, given, strict=True)}
    results = [_with_document(raws[id(ranked)], ranked, wish) for ranked in best]
    return rewrite.joined({**rewrite.members(body), "results": b"[" + b",".join(results) + b"]"})


def _by_relevance(ranked: _Ranked) -> float:
    return -ranked.relevance_score


def _most(wish: _Wish, count: int) -> int:
    """Return how many results are wanted; engines take a number below 1 for all."""
    return count if wish.top_n is None or wish.top_n < 1 else wish.top_n


def _must_change(wish: _Wish, found: list[_Ranked]) -> bool:
    """Tell whether documents are missing that are wanted, or there although they are not."""
    has = [bytes(ranked.document) not in (b"", b"null") for ranked in found]
    return not all(has) if wish.return_documents else wish.return_documents is False and any(has)


def _document(ranked: _Ranked, wish: _Wish) -> Any:
    """Return the client's own document of a result; None where there is none of this index."""
    documents = wish.texts if wish.texts is not None else wish.documents
    if not isinstance(documents, list) or not 0 <= ranked.index < len(documents):
        return None
    return documents[ranked.index]


def _as_tei(ranked: _Ranked, wish: _Wish) -> dict[str, Any]:
    told: dict[str, Any] = {"index": ranked.index, "score": ranked.relevance_score}
    return told | {"text": _document(ranked, wish)} if wish.return_text else told


def _with_document(raw: msgspec.Raw, ranked: _Ranked, wish: _Wish) -> bytes:
    """Return a result with its document, or without it, as is wanted."""
    if wish.return_documents is None:
        return bytes(raw)
    members = rewrite.members(bytes(raw))
    members.pop("document", None)
    if wish.return_documents:
        document = _document(ranked, wish)
        said = {"text": document} if isinstance(document, str) else document
        members["document"] = msgspec.json.encode(said)
    return rewrite.joined(members)
