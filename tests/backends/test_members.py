"""Edits of JSON that leave every other byte as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.dialect.members import Items, Members

SPACES = st.sampled_from([b"", b" ", b"\n\t", b"  \r\n"])
NAMES = st.sampled_from(["a", "b", "c", "model", "x.y", 'q"\\', "é", "\n"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\,:{}[] é', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, dict[str, bytes]]:
    """Return an object as some client might write it, and the text of each of its members with its key."""
    found: dict[str, bytes] = {}
    parts: list[bytes] = []
    for name, value in draw(st.dictionaries(NAMES, VALUES, max_size=5)).items():
        key = json.dumps(name, ensure_ascii=draw(st.booleans())).encode()
        separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
        text = json.dumps(value, separators=separators, ensure_ascii=draw(st.booleans())).encode()
        found[name] = key + draw(SPACES) + b":" + draw(SPACES) + text
        parts.append(draw(SPACES) + found[name] + draw(SPACES))
    return draw(SPACES) + b"{" + b",".join(parts) + b"}" + draw(SPACES), found


@given(objects(), st.lists(NAMES), st.dictionaries(NAMES, VALUES, max_size=3))
def test_an_object_is_edited_in_place(
    made: tuple[bytes, dict[str, bytes]], drop: list[str], put: dict[str, Any]
) -> None:
    body, written = made
    members = Members(body)
    assert members.body() == body and not members.changed
    for name in drop:
        members.drop(name)
        assert members.get(name) is None
    for name, value in put.items():
        members.put(name, json.dumps(value).encode())
        found = members.get(name)
        assert found is not None and json.loads(found) == value
    edited = members.body()
    kept = {name: text for name, text in json.loads(body).items() if name not in drop}
    assert json.loads(edited) == {**kept, **put}
    assert members.changed == (edited != body)
    for name, text in written.items():
        if name in kept and name not in put:
            assert text in edited


@given(st.lists(VALUES, max_size=4), SPACES, st.booleans())
def test_a_list_is_edited_in_place(values: list[Any], space: bytes, drop: bool) -> None:
    texts = [json.dumps(value).encode() for value in values]
    body = space + b"[" + b",".join(space + text + space for text in texts) + b"]" + space
    items = Items(body)
    assert items.body() == body and items.first == (texts[0] if texts else None)
    if drop:
        items.drop_first()
        assert json.loads(items.body()) == values[1:]
    items.insert(b'"new"')
    assert json.loads(items.body()) == ["new", *(values[1:] if drop else values)]
    items.put_first(b"7")
    rest = values[1:] if drop else values
    assert json.loads(items.body()) == ["new", *([7, *rest[1:]] if rest else [])]


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"a":1, "a":2}', b'{"a":2}'),
        (b'{"a":12,"a":1}', b'{"a":1}'),
        (b'{"a":1,"b":3,"\\u0061":1}', b'{"a":1,"b":3}'),
    ],
)
def test_of_a_repeated_key_only_the_value_that_counts_remains(body: bytes, kept: bytes) -> None:
    members = Members(body)
    assert members.body() == kept and members.changed


def test_the_bytes_of_an_edit() -> None:
    members = Members(b' { "a" : 1.50 , "b\\u0063":[1, 2] , "d":3 }\n')
    members.drop("a")
    members.put("d", b"4")
    members.put("new", b"[]")
    assert members.body() == b' { "new":[],"b\\u0063":[1, 2] , "d":4 }\n'
