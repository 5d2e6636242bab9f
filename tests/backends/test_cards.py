"""Lists of models as engines give them: one odd card is left out, one odd member is not known, the rest counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends import registry
from backends.base import ModelCard
from backends.facts import cards

GOOD = {"id": "good", "max_model_len": 4096}


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (
            {"id": "a", "max_model_len": "4096"},
            ModelCard("a", None, "its max_model_len is no number of tokens"),
        ),
        ({"id": "a", "max_model_len": 1.5}, ModelCard("a", None, "its max_model_len is no number of tokens")),
        (
            {"id": "a", "max_model_len": True},
            ModelCard("a", None, "its max_model_len is no number of tokens"),
        ),
        ({"id": "a", "max_model_len": -1}, ModelCard("a", None, "its max_model_len is no number of tokens")),
        (
            {"id": "a", "max_model_len": 10**30},
            ModelCard("a", None, "its max_model_len is no number of tokens"),
        ),
        ({"id": "a", "max_model_len": 8192.0}, ModelCard("a", 8192)),
        ({"id": "a", "max_model_len": 0}, ModelCard("a")),
        ({"id": "a", "max_model_len": None}, ModelCard("a")),
        ({"id": "a", "parent": {"x": 1}}, ModelCard("a")),
        ({"id": "a", "parent": "good"}, ModelCard("a", 4096)),
        ({"id": 7}, ModelCard("", None, "it has no name")),
        ({"name": "a"}, ModelCard("", None, "it has no name")),
        ("a", ModelCard("", None, "it is no object")),
        (None, ModelCard("", None, "it is no object")),
    ],
)
def test_an_odd_card_costs_only_itself(odd: Any, told: ModelCard) -> None:
    for listed in ([odd, GOOD], [GOOD, odd]):
        found = cards.openai(json.dumps({"object": "list", "data": listed}).encode())
        assert set(found) == {told, ModelCard("good", 4096)}


def test_what_json_itself_cannot_hold_costs_only_itself() -> None:
    body = b'{"data":[{"id":"a","max_model_len":1e999},{"id":"\xff"},{"id":"good","max_model_len":4096}]}'
    first, second, third = cards.openai(body)
    assert (first.id, first.context, second.id, third) == ("a", None, "", ModelCard("good", 4096))
    assert first.odd and second.odd


@pytest.mark.parametrize(
    "body", [b"[]", b" [ ] ", b'{"data":[]}', b'{"data":null}', b'{"data": null, "x": 1}']
)
def test_an_empty_list_is_a_list(body: bytes) -> None:
    assert cards.openai(body) == ()


def test_a_bare_array_is_a_list() -> None:
    assert cards.openai(json.dumps([GOOD]).encode()) == (ModelCard("good", 4096),)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"7", b"{}", b"<html>", b'{"error":"no"}', b'{"data":{}}', b"[" * 99_999]
)
def test_what_is_no_list_is_told(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a list of models"):
        cards.openai(body)


LISTS = {
    "llamacpp": {
        "data": [{"id": "a", "meta": {"n_ctx": "x"}}, {"id": 7}, {"id": "b", "meta": {"n_ctx": 512}}]
    },
    "ollama": {"models": [{"name": "a"}, {"name": 7}, {"model": "x"}, {"name": "b"}]},
    "triton": [
        {"name": "a", "state": "READY"},
        {"name": 7, "state": "READY"},
        5,
        {"name": "b", "state": "READY"},
    ],
}
OTHER_LIST = {"data": [{"id": "a", "max_model_len": "x"}, {"id": 7}, {"id": "b", "max_model_len": 512}]}


@pytest.mark.parametrize("name", sorted(set(registry.ENGINES) - {"tgi"}))
def test_every_engines_list_is_read_so(name: str) -> None:
    engine = registry.create(name, None)
    found = engine.models_of(json.dumps(LISTS.get(name, OTHER_LIST)).encode())
    assert [card.id for card in found if card.id] == ["a", "b"]
    assert any(card.odd for card in found if not card.id), "what was left out is told"
