"""How many values a body has: counted in pieces of any size, and never fooled by what stands in strings."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.surfaces.structure import Structure

TEXT = st.text('\\",[{]}: \n\u901a\U0001f999ab', max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def counted(text: bytes, size: int) -> int:
    structure = Structure()
    for start in range(0, len(text), size):
        structure.feed(text[start : start + size])
    structure.end()
    return structure.values


def expected(value: Any) -> int:
    """Return the items and members of a value; a list or an object counts one even if it is empty."""
    if isinstance(value, dict):
        value = list(value.values())
    return max(len(value), 1) + sum(map(expected, value)) if isinstance(value, list) else 0


@given(JSON, st.booleans(), st.integers(1, 9))
def test_values_are_counted_outside_of_strings(value: Any, escaped: bool, size: int) -> None:
    text = json.dumps(value, ensure_ascii=escaped).encode()
    assert counted(text, size) == expected(value)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("text", [b'["\xff"]', b'["\xe9\x80"]', b'["\xed\xa0\x80"]', b'["\xe9\x80'])
def test_what_is_not_utf8_is_told(text: bytes, size: int) -> None:
    with pytest.raises(UnicodeDecodeError):
        counted(text, size)
