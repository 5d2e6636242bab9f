"""Real engines, installed by `tests/engines/install.py` and started once.

Only `make test-engines` runs these tests: they take minutes (tests/conftest.py leaves them out elsewhere).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.engines.hosts import Hosts


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hosts]:
    """Yield the engines; each starts when it is first asked for."""
    async with Hosts(tmp_path_factory.mktemp("hosts")) as started:
        yield started
