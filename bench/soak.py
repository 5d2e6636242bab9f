"""`make soak`: run the gateway under mixed traffic and faults for a long time, and see whether it leaks.

Rules:
- There are two upstreams, one of them bad; clients read to the end or leave. The seeds are fixed.
- Memory, descriptors and requests in flight are sampled throughout. The slope of memory is a least-squares line through
  the samples after the warm-up.
- Exit 1 if afterwards a request is in flight or descriptors are left, or if a stream broke off without a word: neither
  `[DONE]` nor an error event. Memory is printed and not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from bench import accounting, load, probe, report, upstream
from bench.subjects import KEY, ROOT, Gateway, start_upstream

FAULTS = (0.02, 0.20)
"""Share of requests that end badly at each upstream."""
CLIENTS = 40
EVERY = 5.0
"""Seconds between two samples."""
PATIENCE = 30.0
"""Seconds a client waits for its answer. The gateway's own limits below are far shorter."""

UNTOLD = "stream broke off without a word"


class Soaked(Gateway):
    """The gateway with two upstreams and short timeouts, so that faults end quickly."""

    def __init__(self, upstreams: Sequence[int]) -> None:
        super().__init__()
        self.upstreams = upstreams

    def config(self, upstream_port: int) -> dict[str, Any]:
        config = dict(super().config(upstream_port))
        names = [f"upstream-{number}" for number in range(len(self.upstreams))]
        config["defaults"] = {
            "timeouts": {"queue": "5s", "connect": "1s", "first_token": "2s", "idle": "2s", "total": "20s"},
            "retry": {"attempts": 3},
        }
        config["backends"] = {
            name: {"engine": "openai", "url": f"http://127.0.0.1:{port}"}
            for name, port in zip(names, self.upstreams, strict=True)
        }
        config["models"] = {self.model: {"targets": dict.fromkeys(names, upstream.MODEL)}}
        return config


@dataclass(frozen=True)
class Sample:
    """The state of the gateway at one moment."""

    minutes: float
    rss_mb: float
    descriptors: int
    in_flight: int


async def client(port: int, model: str, rng: Random, ends: Counter[str], until: float) -> None:
    """Ask again and again, streamed or not, to the end or not, on a new connection each time."""
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        stream, leaves = rng.random() < 0.7, rng.random() < 0.2
        question = load.Question.chat(
            port,
            model,
            f"{KEY}-1",
            stream=stream,
            tokens=rng.randrange(2, 60),
            gap_ms=rng.choice((0, 5, 20)),
            size=rng.choice((200, 2000, 32_000)),
        )
        patience = rng.random() * 0.2 if leaves else PATIENCE
        ends[await _ask(question, patience, leaves)] += 1


async def _ask(question: load.Question, patience: float, leaves: bool) -> str:
    """Make one request; return in words how it ended."""
    data = question.data.replace(b"\r\nhost:", b"\r\nconnection: close\r\nhost:", 1)
    got = bytearray()
    writer = None
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection("127.0.0.1", question.port)
            writer.write(data)
            while piece := await reader.read(65536):
                got += piece
    except TimeoutError:
        return "client left on purpose" if leaves else "no answer"
    except OSError as error:
        if not got:
            return type(error).__name__
    finally:
        if writer is not None:
            writer.close()
    return ending(bytes(got), question.stream)


def ending(answer: bytes, stream: bool) -> str:
    """Return in words how an answer ended, from all its bytes."""
    status = answer[9:12].decode(errors="replace")
    if status != "200":
        return f"status {status}" if status else "closed without an answer"
    if not stream or b"data: [DONE]" in answer:
        return "ok"
    return "error event" if b'"error"' in answer else UNTOLD


async def sample(subject: Gateway, began: float) -> Sample:
    """Take one sample of the gateway."""
    page = (await probe.get(subject.port, "/metrics")).decode()
    return Sample(
        (time.monotonic() - began) / 60,
        accounting.usage(subject.pid).rss / 1e6,
        accounting.descriptors(subject.pid),
        int(probe.total(page, "gateway_requests_in_flight")),
    )


def slope(samples: Sequence[Sample]) -> float | None:
    """Return MB per hour, by least squares; None for too few samples."""
    if len(samples) < 3:
        return None
    hours = [one.minutes / 60 for one in samples]
    middle = sum(hours) / len(hours)
    mean = sum(one.rss_mb for one in samples) / len(samples)
    spread = sum((hour - middle) ** 2 for hour in hours)
    return (
        sum((hour - middle) * (one.rss_mb - mean) for hour, one in zip(hours, samples, strict=True)) / spread
    )


async def soak(subject: Soaked, minutes: float) -> tuple[list[Sample], Sample, Counter[str]]:
    """Load the gateway; return the samples meanwhile, the one afterwards, and how the requests ended."""
    loop = asyncio.get_running_loop()
    ends: Counter[str] = Counter()
    began, until = time.monotonic(), loop.time() + minutes * 60
    clients = [
        asyncio.create_task(client(subject.port, subject.model, Random(number), ends, until))
        for number in range(CLIENTS)
    ]
    samples = []
    while loop.time() < until:
        await asyncio.sleep(min(EVERY, max(0.1, until - loop.time())))
        samples.append(await sample(subject, began))
        print(f"{samples[-1].minutes:6.1f} min  {samples[-1].rss_mb:6.1f} MB", file=sys.stderr, flush=True)
    await asyncio.gather(*clients)
    for port in subject.upstreams:
        await _quiet(port)
    return samples, await _settled(subject, began), ends


async def _quiet(port: int) -> None:
    for _ in range(100):
        if not (await probe.counts(port))["streams"]:
            return
        await asyncio.sleep(0.1)


async def _settled(subject: Gateway, began: float) -> Sample:
    """Take a sample when the last requests have reached their limits."""
    for _ in range(100):
        last = await sample(subject, began)
        if not last.in_flight:
            break
        await asyncio.sleep(0.1)
    return last


def page(samples: Sequence[Sample], before: Sample, after: Sample, ends: Counter[str]) -> str:
    """Return the result as Markdown."""
    warm = samples[len(samples) // 5 :]
    found = slope(warm)
    it = report.machine()
    rows = [
        ("minutes", f"{samples[-1].minutes:.1f}"),
        ("requests", str(sum(ends.values()))),
        (
            "memory before, at the end of the warm-up, at the end, afterwards, MB",
            _memory(before, warm, after),
        ),
        ("slope of memory after the warm-up, MB per hour", "–" if found is None else f"{found:+.1f}"),
        ("descriptors before, most, afterwards", _course(before, samples, after, "descriptors")),
        ("requests in flight before, most, afterwards", _course(before, samples, after, "in_flight")),
        *((f"ended: {kind}", str(count)) for kind, count in ends.most_common()),
    ]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    return (
        f"# Soak\n\n{it['cpu']}, {it['cores']} cores, Linux {it['kernel']}, {it['python']} · {CLIENTS} clients, "
        f"streams and plain requests, a fifth of them left early; two upstreams, at which {FAULTS[0]:.0%} and "
        f"{FAULTS[1]:.0%} of the requests end badly.\n\n| | |\n|---|---:|\n{table}\n"
    )


def _memory(before: Sample, warm: Sequence[Sample], after: Sample) -> str:
    return ", ".join(f"{one.rss_mb:.1f}" for one in (before, warm[0], warm[-1], after))


def _course(before: Sample, samples: Sequence[Sample], after: Sample, what: str) -> str:
    most = max(getattr(one, what) for one in samples)
    return f"{getattr(before, what)}, {most}, {getattr(after, what)}"


async def run(minutes: float) -> tuple[str, bool]:
    """Run it; return the page, and whether the checks passed."""
    ports = [probe.free_port() for _ in FAULTS]
    upstreams = [
        start_upstream(port, "--faults", str(share), "--seed", str(number))
        for number, (port, share) in enumerate(zip(ports, FAULTS, strict=True), start=1)
    ]
    subject = Soaked(ports)
    try:
        for port in ports:
            await probe.until_up(port)
        with tempfile.TemporaryDirectory(prefix="gateway-soak-") as folder:
            await subject.start(Path(folder), ports[0])
            before = await sample(subject, time.monotonic())
            samples, after, ends = await soak(subject, minutes)
    finally:
        subject.stop()
        for process in upstreams:
            process.terminate()
            process.wait()
    # Idle connections to the upstreams may be kept, nothing else.
    kept = after.descriptors <= before.descriptors + CLIENTS
    return page(samples, before, after, ends), kept and not after.in_flight and not ends[UNTOLD]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="make soak", description="Mixed traffic and faults for a long time."
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--write", action="store_true", help="keep the result in bench/SOAK.md")
    options = parser.parse_args(arguments)
    text, well = uvloop.run(run(options.minutes))
    print(text)
    if options.write:
        (ROOT / "bench" / "SOAK.md").write_text(text)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
