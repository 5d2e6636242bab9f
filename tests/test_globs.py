"""Patterns of names: what they fit, and that none takes long."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.globs import Globs, is_wild

CASES = [
    ("a", "a", True),
    ("a", "ab", False),
    ("*", "", True),
    ("?", "", False),
    ("a*", "a", True),
    ("a?", "a", False),
    ("*a*b", "xaxb", True),
    ("*a*b", "xbxa", False),
    ("**?**", "x", True),
    ("**?**", "", False),
    ("[ab]", "a", False),
    ("[ab]", "[ab]", True),
    ("[!a]*", "[!a]b", True),
    ("a.c", "abc", False),
    ("通?千*", "通义千问", True),
    ("?", "🦙", True),
]


@pytest.mark.parametrize(("pattern", "name", "fits"), CASES)
def test_what_a_pattern_fits(pattern: str, name: str, fits: bool) -> None:
    assert Globs([pattern]).fits(name) == fits
    assert Globs(["other", "o*", pattern, "*other"]).fits(name) == fits


def plain(pattern: str) -> re.Pattern[str]:
    """Return the meaning of a pattern in the plainest way."""
    return re.compile(
        "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in pattern), re.DOTALL
    )


@given(st.lists(st.text("ab[*?", max_size=6), max_size=4), st.text("ab[", max_size=6))
def test_many_patterns_fit_what_one_of_them_fits(patterns: list[str], name: str) -> None:
    assert Globs(patterns).fits(name) == any(plain(pattern).fullmatch(name) for pattern in patterns)


def test_no_pattern_goes_over_a_name_again_and_again() -> None:
    """Without the rule this would take longer than anybody waits: 256 over 100 ways."""
    name = "a" * 256
    assert not Globs(["*a" * 100 + "b"]).fits(name)
    assert not Globs(["*?" * 100 + "b"]).fits(name)
    assert not Globs(["**" * 100 + "b"]).fits(name)


def test_only_patterns_that_begin_like_a_name_are_tried() -> None:
    globs = Globs(
        [f"model-{number}-*" for number in range(3000)] + [f"other-{number}-*x" for number in range(3000)]
    )
    assert globs.fits("model-7-b") and not globs.fits("model-7")
    assert sum(len(found) for begin, found in globs._wild.items() if "other-7-bx".startswith(begin)) == 1
    assert globs.fits("other-7-bx") and not globs.fits("other-7-b")


def test_what_is_wild() -> None:
    assert [is_wild(pattern) for pattern in ("a", "[a]", "a*", "?")] == [False, False, True, True]
