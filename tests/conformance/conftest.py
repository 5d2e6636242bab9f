"""The real engines of the conformance run, once for the whole session."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conformance.playing import Hosts


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hosts]:
    """Engines that run here, without an installation of their own."""
    async with Hosts(tmp_path_factory.mktemp("hosts")) as started:
        yield started
