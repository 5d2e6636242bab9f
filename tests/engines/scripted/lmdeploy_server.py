"""LMDeploy's own command line and HTTP server, with a scripted model in place of both of its engines.

`python lmdeploy_server.py serve api_server MODEL --server-port N ...`, with the arguments of `lmdeploy`. Written for
LMDeploy 0.18.0; it runs in the environment that `tests/engines/install.py` makes.

Rules:
- Only the engine is replaced, at the place where the server builds it: `AsyncEngine._build_turbomind` and
  `_build_pytorch`. Tokenizer, templates, parsers, requests and answers are the server's own.
- The scripted engine ends, counts, stops and cancels as the PyTorch engine does.
- The checks for a GPU are left out.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import script  # type: ignore[import-not-found]
from lmdeploy.messages import (  # type: ignore[import-not-found]
    EngineEvent,
    EngineOutput,
    EventType,
    RequestMetrics,
    ResponseType,
    ScheduleMetrics,
)

PROBABLE = -0.25
"""The log probability of every token that is said."""
FAILURES = {
    400: ResponseType.INPUT_LENGTH_ERROR,
    409: ResponseType.SESSION_REPEAT,
    503: ResponseType.ENGINE_STOP_ERROR,
}
"""How the engine fails, by the status that the server makes of it; any other is an internal error."""


class Handle:
    """What runs requests, one at a time; the server keeps a pool of them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cancelled: set[int] = set()

    async def async_cancel(self, session_id: int) -> None:
        """Stop a request at its next token."""
        self._cancelled.add(session_id)

    async def async_end(self, session_id: int) -> None:
        """Forget a request; nothing is kept of it."""

    async def async_stream_infer(
        self, session_id: int, input_ids: Sequence[int] = (), gen_config: Any = None, **_: Any
    ) -> AsyncIterator[EngineOutput]:
        """Yield what the engine does with each step of a request."""
        engine = self._engine
        self._cancelled.discard(session_id)
        prompt = engine.tokenizer.decode(list(input_ids), skip_special_tokens=False)
        said = script.line(prompt)
        tokens = engine.tokens(said, prompt, gen_config.ignore_eos)
        stops = () if gen_config.ignore_eos else tuple(gen_config.stop_token_ids or ())
        engine.running += 1
        try:
            await asyncio.sleep(said.wait)
            for count in range(gen_config.max_new_tokens):
                while count == said.stall and session_id not in self._cancelled:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                if session_id in self._cancelled:
                    yield EngineOutput(ResponseType.CANCEL, [], req_metrics=RequestMetrics(time.time()))
                    return
                if count == said.fail:
                    yield EngineOutput(FAILURES.get(said.status, ResponseType.INTERNAL_ENGINE_ERROR), [])
                    return
                await asyncio.sleep(said.pace)
                token = next(tokens)
                at_stop = token in stops and count >= (gen_config.min_new_tokens or 0)
                ended = at_stop or count + 1 == gen_config.max_new_tokens
                engine.steps += 1
                yield EngineOutput(
                    ResponseType.FINISH if ended else ResponseType.SUCCESS,
                    [token],
                    logprobs=_probabilities(token, gen_config.logprobs),
                    req_metrics=RequestMetrics(time.time(), _begun() if count == 0 else []),
                )
                if ended:
                    return
        finally:
            engine.running -= 1


class Engine:
    """The scripted engine, with the methods of LMDeploy's that its server calls."""

    def __init__(self, tokenizer: Any, config: Any) -> None:
        self.tokenizer = tokenizer
        self.engine_config = config
        self.running = 0
        self.steps = 0

    def tokens(self, said: script.Line, prompt: str, endless: bool) -> Any:
        """Yield the tokens of an answer, its end token, and filler from then on."""
        yield from self.tokenizer.encode(said.text(prompt), add_bos=False)
        if said.ends and not endless:
            yield self.tokenizer.eos_token_id
        while True:
            yield from self.tokenizer.encode(script.FILLER, add_bos=False)

    def create_instance(self, *_: Any, **__: Any) -> Handle:
        """Return one more runner of requests."""
        return Handle(self)

    def get_schedule_metrics(self) -> ScheduleMetrics:
        """Return the load, which the server puts on its metrics page."""
        return ScheduleMetrics(
            active_seqs=self.running,
            waiting_seqs=0,
            cache_usage=min(1.0, self.running / 10),
            prefix_cache_hit_rate=0.5,
            scheduler_tick=self.steps,
        )

    async def get_health_status(self) -> dict[str, Any]:
        """Return what the engine says of its health."""
        return {"alive": True, "message": "", "schedule_metrics": self.get_schedule_metrics()}

    def start_loop(self) -> bool:
        """Begin to work; there is nothing to begin."""
        return True

    def close(self) -> None:
        """End the work; there is nothing to end."""

    async def sleep(self, level: int) -> None:
        """Release the memory; there is none."""

    def wakeup(self, tags: Sequence[str] | None) -> None:
        """Take the memory again; there is none."""

    def end_session(self, session_id: int) -> bool:
        """Forget a session."""
        return True


def _begun() -> list[EngineEvent]:
    """Return the events that come with the first token of a request."""
    return [EngineEvent.new_event(EventType.QUEUED), EngineEvent.new_event(EventType.SCHEDULED)]


def _probabilities(token: int, wanted: int | None) -> list[dict[int, float]] | None:
    """Return the most probable tokens of one step, the one that is said among them, as the PyTorch engine does."""
    if not wanted:
        return None
    others = [other for other in range(100, 130) if other != token][: wanted - 1]
    return [{token: PROBABLE} | {other: -2.0 - place for place, other in enumerate(others)}]


def main() -> None:
    """Run LMDeploy's command line."""
    server = importlib.import_module("lmdeploy.serve.core.async_engine").AsyncEngine

    def build(self: Any, model_path: str, backend_config: Any = None, **_: Any) -> Engine:
        return Engine(self.tokenizer, backend_config)

    server._build_pytorch = server._build_turbomind = build
    checks = importlib.import_module("lmdeploy.pytorch.check_env")
    for name in dir(checks):
        if name.startswith("check_"):
            setattr(checks, name, lambda *_, **__: None)
    sys.argv[0] = "lmdeploy"
    importlib.import_module("lmdeploy.cli.entrypoint").run()


if __name__ == "__main__":
    main()
