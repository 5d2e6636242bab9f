"""A store in each of the two kinds of databases, and the server that one of them takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.config.data import Data
from tests.store import postgres


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Data:
    """Where an empty store is to be."""
    if request.param == "sqlite":
        return Data(folder=str(tmp_path / "data"))
    found: postgres.Server = request.getfixturevalue("server")
    return Data(folder=str(tmp_path / "data"), database=SecretStr(found.database()))
