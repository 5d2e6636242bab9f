"""Tests that share something dear run in one process."""

from __future__ import annotations

import pytest

pytest.importorskip("xdist")

from tests.spread import group_of


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/config/test_values.py::test_a[x::y]", "tests/config/test_values.py"),
        ("tests/faults/test_bodies.py::test_a", "tests/faults/test_bodies.py"),
        ("tests/faults/test_upstream.py::test_a[b]", "tests/faults/test_upstream.py::test_a[b]"),
        ("tests/test_cli.py::test_a", "tests/test_cli.py::test_a"),
        ("tests/conformance/test_conformance.py::test_recordings[ray-serve-chat_n]", "recordings of ray-serve"),
        ("tests/conformance/test_conformance.py::test_real[openai-chat]", "tests/conformance/test_conformance.py"),
    ],
)  # fmt: skip
def test_groups(nodeid: str, group: str) -> None:
    assert group_of(nodeid) == group
