"""`make residency`: more engines than fit into the memory there is, clients that want all of them, and kill -9.

Rules:
- The gateway is a real process, and so are the engines. There are two stages (`bench.stages`): llama.cpp as embedded,
  with five copies of the demo model, of which the budget (`server.engines.memory`) holds two; with `--gpus`, programs
  that play engines, on GPUs that NVML's stand-in tells of. All is on loopback; what is random has a fixed seed.
- Engines are killed at random, and the gateway once, in the middle, whereupon it is started again.
- A request may fail only if it was under way when the process that it needed was killed, or came within a second
  after: the gateway, or the engine of the model it asked for. It then counts as lost, not as failed. While no gateway
  runs, no client asks.
- Engines are the processes that have a model of the stage in their command line, wardens left out. In RAM their memory
  is that which the kernel calls resident. It is looked at every 50 ms, also while the gateway is down.
- Exit 1 if a request fails, memory exceeds the budget, 99 of 100 requests are not answered within `max_wait`, more
  engines were stopped for others than the time on loading and staying allows, or an engine is left afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import uvloop
import yaml

from bench import probe
from bench.load import Question
from bench.soak import ending
from bench.stages import InRam, OnGpus, Stage
from bench.subjects import KEY, ROOT, Subject
from bench.swaps import CLIENTS, MAX_WAIT, OK, Asked, Counted, Engines, Run, kept, page

PATIENCE = 90.0
"""Seconds a client waits for its answer. The gateway's own limits are shorter."""
LOOK = 0.05
"""Seconds between two looks at the engines' memory."""
KILLS = (5.0, 15.0)
"""Seconds between two engines that are killed, at least and at most."""
STOPPED = 20.0
"""Seconds that a gateway has to stop all its engines."""


class Resident(Subject):
    """The gateway with the engines."""

    def __init__(self, models: Sequence[Path], stage: Stage) -> None:
        super().__init__("gateway", model=models[0].stem)
        self.models = models
        self._stage = stage

    def environment(self) -> dict[str, str]:
        """Return what the stage needs."""
        return self._stage.environment()

    def command(self, folder: Path, upstream_port: int) -> Sequence[str]:
        """Write the config; return the command line."""
        file = folder / "gateway.yaml"
        config: dict[str, Any] = {
            "server": {
                "listen": f"127.0.0.1:{self.port}",
                "log": {"level": "info"},
                "engines": self._stage.engines(),
            },
            "backends": {
                path.stem: {
                    "engine": "llamacpp",
                    "launch": {
                        "model": str(path),
                        "name": path.stem,
                        "start": "on_demand",
                        **self._stage.launch(path.stem),
                        "max_wait": f"{MAX_WAIT:.0f}s",
                    },
                }
                for path in self.models
            },
        }
        file.write_text(yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False))
        return [sys.executable, "-m", "gateway", "serve", str(file)]

    def kill(self) -> None:
        """Kill the gateway's process, and nothing else."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None


class Bench:
    """One run."""

    def __init__(self, folder: Path, stage: Stage, seconds: float, seed: int = 1) -> None:
        (folder / "model").mkdir()
        models = [folder / "model" / f"{name}.gguf" for name in stage.models]
        for path in models:
            shutil.copy(ROOT / "models" / "demo.gguf", path)
        self.run = Run(stage.rules)
        self._stage = stage
        self._folder = folder
        self._seconds = seconds
        self._seed = seed
        self._subject = Resident(models, stage)
        self._engines = Engines(folder)
        self._up = asyncio.Event()
        self._until = 0.0
        self._life = Counted()
        """What the gateway that runs has counted."""

    async def go(self) -> None:
        """Run it all."""
        loop = asyncio.get_running_loop()
        try:
            await self._start("first")
            began = loop.time()
            self._until = began + self._seconds
            looking = asyncio.create_task(self._look())
            work = [self._client(Random(self._seed * 1000 + number)) for number in range(CLIENTS)]
            await asyncio.gather(*work, self._kill_engines(), self._kill_gateway(), self._count())
            self.run.seconds = loop.time() - began
            await self._scrape()
            self.run.counted += self._life
            looking.cancel()
            await asyncio.wait([looking])
        finally:
            await asyncio.to_thread(self._stop)
        await self._ends()

    def _stop(self) -> None:
        """Stop the gateway as an operator does."""
        process = self._subject.process
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(STOPPED)
            self._subject.process = None

    async def _start(self, name: str) -> None:
        await self._subject.start(self._folder / name, 0)
        self._life = Counted()
        self._up.set()

    async def _client(self, rng: Random) -> None:
        """Ask for models at random, one request after the other."""
        loop = asyncio.get_running_loop()
        while loop.time() < self._until:
            await self._up.wait()
            model, stream = rng.choice(self._subject.models).stem, rng.random() < 0.5
            question = Question.chat(
                self._subject.port, model, KEY, stream=stream, tokens=rng.randrange(1, 100), size=40
            )
            began = loop.time()
            end = await _ask(question)
            self.run.asked.append(Asked(model, began, loop.time(), end))
            await asyncio.sleep(rng.expovariate(2.0))

    async def _look(self) -> None:
        """Take note of the engines' memory, until cancelled."""
        while True:
            alive = self._engines.alive()
            self.run.memory.append(self._stage.memory(alive))
            self.run.most = max(self.run.most, len(alive))
            await asyncio.sleep(LOOK)

    async def _kill_engines(self) -> None:
        loop, rng = asyncio.get_running_loop(), Random(self._seed)
        while True:
            await asyncio.sleep(rng.uniform(*KILLS))
            if loop.time() > self._until:
                return
            if there := sorted(self._engines.look().items()):
                pid, model = rng.choice(there)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.run.engine_kills.append((loop.time(), model))

    async def _kill_gateway(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._seconds / 2)
        self._up.clear()
        self.run.counted += self._life
        killed = loop.time()
        self._subject.kill()
        await self._start("second")
        self.run.down = (killed, loop.time())

    async def _count(self) -> None:
        """Read the gateway's counters every second: a kill takes them with it."""
        loop = asyncio.get_running_loop()
        began, said = loop.time(), 0
        while loop.time() < self._until:
            await asyncio.sleep(1.0)
            if self._up.is_set():
                with contextlib.suppress(OSError):
                    await self._scrape()
            if (minutes := int((loop.time() - began) / 60)) > said:
                said = minutes
                print(f"{minutes:4} min  {len(self.run.asked)} requests", file=sys.stderr, flush=True)

    async def _scrape(self) -> None:
        page = (await probe.get(self._subject.port, "/metrics")).decode()
        loads = probe.by_label(page, "gateway_engine_loads_total", "result")
        stops = probe.by_label(page, "gateway_engine_stops_total", "reason")
        self._life = Counted(
            Counter({result: int(count) for result, count in loads.items()}),
            Counter({reason: int(count) for reason, count in stops.items()}),
            probe.total(page, "gateway_engine_load_duration_seconds_sum"),
        )

    async def _ends(self) -> None:
        """Wait until no engine runs, and take note of those that are left."""
        late = time.monotonic() + STOPPED
        # Nothing tells of the end of a process that is not a child.
        while (left := len(self._engines.alive())) and time.monotonic() < late:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        self.run.left = left


async def _ask(question: Question) -> str:
    """Make one request; return in words how it ended."""
    data = question.data.replace(b"\r\nhost:", b"\r\nconnection: close\r\nhost:", 1)
    got, writer = bytearray(), None
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", question.port)
            writer.write(data)
            while piece := await reader.read(65536):
                got += piece
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return type(error).__name__
    finally:
        if writer is not None:
            writer.close()
    end, body = ending(bytes(got), question.stream), bytes(got).partition(b"\r\n\r\n")[2]
    if end == OK and not question.stream:
        return OK if b'"choices"' in body and body.endswith(b"}") else "cut"
    return end if end == OK else f"{end}: {_message(body)}"


def _message(body: bytes) -> str:
    """Return what the error in an answer says."""
    start = body.rfind(b'{"error"')
    try:
        value, _ = json.JSONDecoder().raw_decode(body[start:].decode(errors="replace"))
        return str(value["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[-100:].decode(errors="replace")


async def go(minutes: float, on_gpus: bool) -> Run:
    """Run it."""
    with tempfile.TemporaryDirectory(prefix="gateway-residency-") as folder:
        stage = OnGpus(Path(folder)) if on_gpus else InRam()
        bench = Bench(Path(folder), stage, minutes * 60)
        await bench.go()
    return bench.run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="make residency", description="More engines than fit, and kill -9.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--gpus", action="store_true", help="on GPUs that are made up, instead of in RAM")
    parser.add_argument("--write", action="store_true", help="keep the result in bench/RESIDENCY.md")
    options = parser.parse_args(arguments)
    run = uvloop.run(go(options.minutes, options.gpus))
    text, broken = page(run), run.broken()
    print(text)
    for line in broken:
        print(f"broken: {line}", file=sys.stderr)
    if options.write:
        results = ROOT / "bench" / "RESIDENCY.md"
        results.write_text(kept(results.read_text(), text))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
