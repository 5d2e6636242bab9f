"""Every test here knows one more engine, `toy`, whose launch options hold a field of every kind."""

from __future__ import annotations

import pytest

from backends import registry


@pytest.fixture(autouse=True)
def toy_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the toy engine for one test."""
    monkeypatch.setitem(registry.ENGINES, "toy", "tests.config.toy:Toy")
