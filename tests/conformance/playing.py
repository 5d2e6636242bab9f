"""One check on one engine: a gateway is put in front of it, real or replayed, and the check is played.

Rules:
- The gateway is the real one, with nothing but the engine behind it. Checks that show a healthy engine what clients ask
  share one gateway for each engine; a check that is about faults, health or signals has a new one, and so has the next
  check after one that failed.
- After each check nothing is in flight, and the engine is ready and its breaker closed if the gateway is shared.
- After a replay nothing may be left that no recording answered, and nobody may have waited in vain.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from backends import registry
from backends.base import OLLAMA, Health, Operation
from backends.operation import GEMINI
from backends.surfaces.codecs import possible
from tests.conformance import gemini_api, ollama_api, operations, shapes
from tests.conformance.engines import ENGINES, Instead, Silent, not_supported, rejected
from tests.conformance.replay import ANY, Recording, Replay, in_order, recordings, replaying
from tests.conformance.shapes import MODEL
from tests.conformance.stage import CHECKS, Check, Stage, Watch
from tests.conformance.tap import Tap, tapping
from tests.conformance.unproven import ASKED
from tests.serving import Answer, Served, idle, serving

RECORDINGS = Path(__file__).resolve().parents[1] / "recordings"

CONFIG = """
defaults: {{timeouts: {{queue: {queue}, first_byte: 50s, first_token: 50s, idle: 50s}}}}
backends:
  engine: {{engine: {engine}, url: "{url}", api_key: known{more}}}
models:
  {public}: {{targets: {{engine: "{upstream}"}}}}
  missing: {{targets: {{engine: no-such-model}}}}
"""

TOOLS = """
      chat_template: tests/conformance/tools.jinja"""
"""What makes llama.cpp hold an answer to the form of a call. With that template, answers in words are no answers."""

SAID_AS = {
    "messages": "chat",
    "messages_stream": "chat_stream",
    "messages_tools": "chat_tools",
    "messages_tools_stream": "chat_tools_stream",
    "messages_thinking": "chat_reasoning",
    "messages_thinking_stream": "chat_reasoning_stream",
    "count_tokens": "tokenize",
    "input_tokens": "tokenize",
    "responses": "chat",
    "responses_stream": "chat_stream",
    "ollama_chat": "chat",
    "ollama_chat_stream": "chat_stream",
    "ollama_chat_tools": "chat_tools",
    "ollama_chat_tools_stream": "chat_tools_stream",
    "ollama_chat_thinking": "chat_reasoning",
    "ollama_generate": "chat",
    "ollama_generate_stream": "chat_stream",
    "ollama_generate_raw": "completions",
    "ollama_embed": "embeddings_list",
    "ollama_embeddings": "embeddings",
    "gemini_generate": "chat",
    "gemini_generate_stream": "chat_stream",
    "gemini_generate_list": "chat_stream",
    "gemini_tools": "chat_tools",
    "gemini_tools_stream": "chat_tools_stream",
    "gemini_thinking": "chat_reasoning",
    "gemini_count_tokens": "tokenize",
    "gemini_embed": "embeddings",
    "gemini_batch_embed": "embeddings_list",
}
"""The check whose recorded reply answers another one on engines that need a translation for it."""

HOST = """
backends:
  demo:
    engine: llamacpp
    api_key: known
    launch:
      model: models/demo.gguf{more}
      embeddings: true
      # More threads wait for each other by spinning: where other tests want the cores, for seconds a token.
      threads: 1
"""


async def play(engine: str, check: Check, watch: Watch, folder: Path, metrics_url: str = "") -> None:
    """Play the check, or what the engine's row says instead, with the gateway in front of `watch`.

    `metrics_url` is where the engine's metrics are, if not there too.
    """
    silent = isinstance(ENGINES[engine].instead.get(check.name), Silent)
    url = "http://127.0.0.1:9" if silent else watch.url
    # What is not ready is waited for, which these checks need not see.
    queue = "200ms" if check.name.startswith("health_") else "20s"
    # A tapped engine belongs to a gateway of its own, which goes on in this loop.
    alone = not isinstance(watch, Tap)
    text = _config(engine, url, queue, metrics_url, real=isinstance(watch, Tap))
    async with serving(folder, text, patient=False, alone=alone) as served:
        await _play(engine, check, _stage(served, watch))


def upstream_name(engine: str) -> str:
    """Return how a real engine calls its model: a folder by its absolute path, as the gateway has launched it."""
    name = ENGINES[engine].upstream
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def _config(engine: str, url: str, queue: str, metrics_url: str = "", real: bool = False) -> str:
    row = ENGINES[engine]
    upstream = upstream_name(engine) if real else row.upstream
    more = "".join(
        f", {part}" for part in (row.backend, metrics_url and f'metrics_url: "{metrics_url}"') if part
    )
    return CONFIG.format(
        engine=row.engine or engine, url=url, more=more, queue=queue, public=MODEL, upstream=upstream
    )


def _stage(served: Served, watch: Watch) -> Stage:
    return Stage(served, served.gateway.pool.backends["engine"].engine, watch)


async def _play(engine: str, check: Check, stage: Stage) -> None:
    other = said_as(engine, check)
    instead = ENGINES[engine].instead.get(other or check.name)
    if other is not None and isinstance(instead, Instead) and instead.reads not in REFUSALS:
        # What it says is said in the client's dialect, whatever it says.
        instead = Instead(_said(check), instead.why)
    # A real engine is asked what the check says.
    asked = None if isinstance(stage.watch, Tap) else ASKED.get(engine, {}).get(check.name)
    if asked is not None:
        check = dataclasses.replace(check, body={**check.body, **asked})
    if (
        instead is None
        and check.operation is not None
        and check.operation not in possible(stage.engine.operations)
    ):
        answer = await stage.ask(check.path, check.body)
        if check.operation in ESTIMATED:
            assert (answer.status, answer.headers["x-gateway-estimated"]) == (200, "input_tokens")
            await check.run(stage)
        else:
            _refused(check, not_supported)(answer)
    elif instead is None:
        await check.run(stage)
    elif isinstance(instead, Silent):
        shapes.error(await stage.ask("/readyz", None), 503, "no_healthy_backend")
        assert stage.served.gateway.pool.backends["engine"].health is Health.DOWN
    else:
        reads = _refused(check, instead.reads) if instead.reads in REFUSALS else instead.reads
        reads(await stage.ask(check.path, check.body))


def _said(check: Check) -> Callable[[Answer], None]:
    """Return what reads an answer in the dialect of a check, whatever it says."""
    if check.operation in GEMINI:
        return gemini_api.said
    return ollama_api.said if check.operation in OLLAMA else operations.said


def _refused(check: Check, reads: Callable[[Answer], object]) -> Callable[[Answer], object]:
    """Return what reads, in the dialect of a check, a refusal that `reads` would read in OpenAI's."""
    if check.operation in GEMINI:
        return gemini_api.refused
    return ollama_api.refused if check.operation in OLLAMA else reads


class Replays:
    """The engines as their recordings have them, one at a time, each with a gateway that its checks share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()
        self._engine = ""
        self._replay: Replay
        self._served: Served
        self.started = 0
        """How many gateways were started to be shared."""

    async def __aenter__(self) -> Replays:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._close()

    async def play(self, engine: str, check: Check) -> None:
        """Play the check on the engine's recordings."""
        recorded = _recorded(engine, check)
        if not shares(engine, check):
            # What the check's own gateway leaves behind could not be told from what the shared one does meanwhile.
            await self._close()
            async with replaying(recorded, hold=check.cancels) as replayed:
                try:
                    await play(engine, check, replayed, self._folder)
                finally:
                    assert not replayed.unmatched, "\n".join(replayed.unmatched)
            return
        try:
            await self._play_shared(engine, check, recorded)
        except BaseException:
            await self._close()
            raise

    async def _play_shared(self, engine: str, check: Check, recorded: list[Recording]) -> None:
        if self._engine != engine:
            await self._close()
            self._replay = await self._stack.enter_async_context(replaying(recorded))
            text = _config(engine, self._replay.url, "20s")
            self._served = await self._stack.enter_async_context(serving(self._folder, text))
            self._engine = engine
            self.started += 1
        self._replay.begin(recorded, hold=check.cancels)
        try:
            await _play(engine, check, _stage(self._served, self._replay))
            await idle(self._served.gateway)
        finally:
            assert not self._replay.unmatched, "\n".join(self._replay.unmatched)
        backend = self._served.gateway.pool.backends["engine"]
        assert not self._replay.busy
        assert backend.health is Health.READY and not backend.breaker.open

    async def _close(self) -> None:
        self._engine = ""
        await self._stack.aclose()


ESTIMATED = (Operation.COUNT_TOKENS, Operation.INPUT_TOKENS, Operation.GEMINI_COUNT_TOKENS)
"""The operations that are answered with an estimate where no engine counts."""
REFUSALS = (not_supported, rejected)
ALONE = ("health_", "signals")
"""How names of checks begin that look at what a gateway finds out in its first moments."""


def shares(engine: str, check: Check) -> bool:
    """Return whether the check leaves a gateway as it was, and needs nothing that only a new one shows."""
    silent = isinstance(ENGINES[engine].instead.get(check.name), Silent)
    return not (check.replayed or silent or check.name.startswith(ALONE))


def said_as(engine: str, check: Check) -> str | None:
    """Return the check that shows what the engine answers to this one, where it has to be translated; else None."""
    operations = registry.engine(ENGINES[engine].engine or engine).operations
    if (
        check.operation is None
        or check.operation in operations
        or check.operation not in possible(operations)
    ):
        return None
    return SAID_AS.get(check.name)


def is_replayed(engine: str, check: Check) -> bool:
    """Return whether the engine, with the model that it has here, does not do on command what the check asks for."""
    shown = {check.name, said_as(engine, check)}
    return check.replayed or bool(shown & set(ENGINES[engine].replayed))


def _recorded(engine: str, check: Check) -> list[Recording]:
    """Return the engine's recordings in the order in which they are tried for this check.

    What a translated request asks for is not what was asked when the reply was recorded: any body may ask for it.
    """
    found = _recordings(engine)
    other = said_as(engine, check)
    if other is not None:
        # Some engines are asked for a stream whatever the client wants, and some for a whole answer.
        answering = {other, other.removesuffix("_stream")}
        found = [dataclasses.replace(one, body=ANY) if one.name in answering else one for one in found]
    last = {name for name, other in CHECKS.items() if other.replayed}
    return in_order(found, other or check.name, last - {other})


@functools.cache
def _recordings(engine: str) -> list[Recording]:
    return recordings(RECORDINGS / engine)


class Hosts:
    """The real engines of this run, started when they are first asked for and stopped together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()
        self._hosts: dict[str, Served] = {}
        """Those that run, by what is special in their config."""

    async def __aenter__(self) -> Hosts:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def tap(self, engine: str, check: Check) -> AsyncIterator[Tap]:
        """Yield a tap in front of the engine: the llama.cpp that a gateway has launched, or that gateway itself."""
        forced = isinstance(check.body, dict) and any(map(check.body.get, ("tool_choice", "toolConfig")))
        more = TOOLS if forced else ""
        if more not in self._hosts:
            text = HOST.format(more=more)
            self._hosts[more] = await self._stack.enter_async_context(
                serving(self._folder, text, alone=False)
            )
        host = self._hosts[more]
        upstream = host.gateway.pool.backends["demo"].upstream
        assert upstream is not None
        url = host.url if engine == "openai" else upstream.url
        async with tapping(int(url.rpartition(":")[2]), hold=check.cancels) as tap:
            yield tap
