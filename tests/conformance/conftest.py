"""What the checks of a conformance run share: the real engines, and the gateway in front of an engine's recordings."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conformance.playing import Hosts, Replays


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hosts]:
    """Engines that run here, without an installation of their own."""
    async with Hosts(tmp_path_factory.mktemp("hosts")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replays(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replays]:
    """Yield the engines as their recordings have them."""
    async with Replays(tmp_path_factory.mktemp("replays")) as started:
        yield started
