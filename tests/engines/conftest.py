"""Real engines, installed by `tests/engines/install.py` and started once.

Only `make test-engines` runs these tests: they take minutes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.engines.hosts import Hosts


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `engines` unless the marker is asked for."""
    if "engines" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("engines")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hosts]:
    """Yield the engines; each starts when it is first asked for."""
    async with Hosts(tmp_path_factory.mktemp("hosts")) as started:
        yield started
