"""One check on one engine: a gateway is put in front of it, real or replayed, and the check is played.

Rules:
- The gateway is the real one, new for each check, with nothing but the engine behind it.
- After a replay nothing may be left that no recording answered, and nobody may have waited in vain.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from backends.base import Health
from tests.conformance import shapes
from tests.conformance.engines import ENGINES, Silent
from tests.conformance.replay import recordings, replaying
from tests.conformance.shapes import MODEL
from tests.conformance.stage import CHECKS, Check, Stage, Watch
from tests.conformance.tap import Tap, tapping
from tests.serving import Served, serving

RECORDINGS = Path(__file__).resolve().parents[1] / "recordings"

CONFIG = """
defaults: {{timeouts: {{queue: {queue}, first_byte: 50s, first_token: 50s, idle: 50s}}}}
backends:
  engine: {{engine: {engine}, url: "{url}", api_key: known{more}}}
models:
  {public}: {{targets: {{engine: "{upstream}"}}}}
  missing: {{targets: {{engine: no-such-model}}}}
"""

HOST = """
backends:
  demo:
    engine: llamacpp
    api_key: known
    launch:
      model: models/demo.gguf
      embeddings: true
"""


async def play(engine: str, check: Check, watch: Watch, folder: Path, metrics_url: str = "") -> None:
    """Play the check, or what the engine's row says instead, with the gateway in front of `watch`. `metrics_url` is
    where its metrics are, if not there too."""
    row = ENGINES[engine]
    instead = row.instead.get(check.name)
    url = "http://127.0.0.1:9" if isinstance(instead, Silent) else watch.url
    more = "".join(
        f", {part}" for part in (row.backend, metrics_url and f'metrics_url: "{metrics_url}"') if part
    )
    # What is not ready is waited for, which these checks need not see.
    queue = "200ms" if check.name.startswith("health_") else "20s"
    text = CONFIG.format(engine=engine, url=url, more=more, queue=queue, public=MODEL, upstream=row.upstream)
    # A tapped engine belongs to a gateway of its own, which goes on in this loop.
    alone = not isinstance(watch, Tap)
    async with serving(folder, text, patient=False, alone=alone) as served:
        backend = served.gateway.pool.backends["engine"]
        stage = Stage(served, backend.engine, watch)
        if instead is None:
            await check.run(stage)
        elif isinstance(instead, Silent):
            shapes.error(await stage.ask("/readyz", None), 503, "no_healthy_backend")
            assert backend.health is Health.DOWN
        else:
            instead.reads(await stage.ask(check.path, check.body))


async def replay(engine: str, check: Check, folder: Path) -> None:
    """Play the check on the engine's recordings."""
    others = {name for name, other in CHECKS.items() if other.replayed}
    recorded = recordings(RECORDINGS / engine, check.name, others)
    async with replaying(recorded, hold=check.cancels) as replayed:
        try:
            await play(engine, check, replayed, folder)
        finally:
            assert not replayed.unmatched, "\n".join(replayed.unmatched)


class Hosts:
    """The real engines of this run, started when they are first asked for and stopped together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()
        self._host: Served | None = None

    async def __aenter__(self) -> Hosts:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def tap(self, engine: str, check: Check) -> AsyncIterator[Tap]:
        """A tap in front of the engine: the llama.cpp that a gateway has launched, or that gateway itself."""
        if self._host is None:
            self._host = await self._stack.enter_async_context(serving(self._folder, HOST, alone=False))
        upstream = self._host.gateway.pool.backends["demo"].upstream
        assert upstream is not None
        url = self._host.url if engine == "openai" else upstream.url
        async with tapping(int(url.rpartition(":")[2]), hold=check.cancels) as tap:
            yield tap
