"""One gateway with the demo model for all client tests, started and stopped once as a user would."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.clients import scripted as engines
from tests.clients.process import Running, running


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a running gateway whose model is ready. Its end is a test of its own: exit 0, in time, nothing left."""
    with running(tmp_path_factory.mktemp("gateway")) as started:
        started.wait_ready()
        yield started


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a gateway with keys in front of three engines, two of which say what the tests tell them to."""
    with engines.scripted(tmp_path_factory.mktemp("scripted")) as started:
        yield started


@pytest.fixture(scope="session")
def client(gateway: Running) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK as its users have it, but for repeating: a request that fails once has failed."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def async_client(gateway: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    """Yield the same, asynchronous."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0) as sdk:
        yield sdk
