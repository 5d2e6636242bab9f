"""`make bench`: start everything, measure every scenario, print the table. `--quick` takes less than a minute.

Rules:
- Everything listens on loopback, the load is bounded, and what was started is always stopped.
- A subject that does not start is reported and left out; the others are measured.
- Exit 0 when the gateway was measured without an error, 1 otherwise. Goals that were missed do not fail a run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench import chart, goals, peers, probe, report, scenarios
from bench.dialects import DIALECTS
from bench.scenarios import QUICK, Plan, Result
from bench.subjects import (
    ROOT,
    Collected,
    Direct,
    Gateway,
    HAProxy,
    Nginx,
    Spoken,
    StartError,
    Subject,
    start_upstream,
)

BENCH = ROOT / "bench"
CORES_FOR_WORKERS = 4
"""Two workers, the client and the upstream: with fewer cores they would share one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    options = _parser().parse_args(arguments)
    plan = QUICK if options.quick else Plan(rounds=options.rounds, seconds=options.seconds)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted: list[Subject] = [Direct(), HAProxy(), Nginx(), Gateway()]
    if not options.quick:
        wanted += [peers.VllmRouter(), peers.SglangRouter(), peers.LiteLLM()]
    if options.only:
        wanted = [
            subject for subject in wanted if subject.name in {"direct", "gateway", *options.only.split(",")}
        ]
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        data = uvloop.run(Bench(plan, wanted, Path(folder)).run())
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    page = report.markdown(data)
    print(page)
    _save(data, options.json)
    if options.write:
        _save(data, BENCH / "results.json")
        (BENCH / "results.svg").write_text(chart.svg(data))
        (BENCH / "RESULTS.md").write_text(
            page.replace("\n\n", "\n\n![CPU per request and per chunk](results.svg)\n\n", 1) + "\n"
        )
    ours = (goals.GATEWAY, goals.COLLECTED)
    return 1 if any(errors.get(name) for errors in data["errors"].values() for name in ours) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description="What the gateway costs, beside others.")
    parser.add_argument(
        "--quick", action="store_true", help="under a minute, without other gateways: does it run"
    )
    parser.add_argument(
        "--write", action="store_true", help="keep the result in bench/RESULTS.md and beside it"
    )
    parser.add_argument(
        "--json", type=Path, default=BENCH / "results" / "latest.json", help="where the figures go"
    )
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="windows per subject and scenario")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="length of a window")
    parser.add_argument(
        "--only", metavar="NAMES", help="compare with these subjects alone, e.g. HAProxy,nginx"
    )
    return parser


class Bench:
    """One run."""

    def __init__(self, plan: Plan, wanted: Sequence[Subject], folder: Path) -> None:
        self.plan = plan
        self.wanted = wanted
        self.folder = folder
        self.upstream = probe.free_port()
        # Taken now, so that the load it names is that before the run.
        self.machine = report.machine()
        self.results: dict[str, Result] = {}
        self.skipped: dict[str, str] = {}

    async def run(self) -> report.Run:
        """Measure every scenario."""
        process = start_upstream(self.upstream)
        here: list[Subject] = []
        try:
            await probe.until_up(self.upstream)
            here += [subject for subject in self.wanted if not subject.absent and await self._start(subject)]
            await self._measure(here)
        finally:
            for subject in here:
                subject.stop()
            process.terminate()
            process.wait()
        absent = [subject for subject in self.wanted if subject.absent]
        figures = {name: result.figures for name, result in self.results.items()}
        found = goals.goals(figures, compiled=self.machine["compiled"])
        return report.run(here, absent, self.plan, self.results, found, self.skipped, self.machine)

    async def _measure(self, here: Sequence[Subject]) -> None:
        plan, upstream = self.plan, self.upstream
        behind = [subject for subject in here if subject.pid]
        gateway = next((subject for subject in here if subject.name == goals.GATEWAY), None)
        if gateway is None:
            raise SystemExit("bench: without the gateway there is nothing to compare")
        _say("memory")
        self.results["memory"] = await scenarios.memory(behind, plan, upstream)
        _say("JSON requests")
        self.results["json"] = await scenarios.json_requests(here, plan, upstream)
        _say("streams")
        self.results["streams"] = await scenarios.streams(here, plan, upstream)
        _say("bursts of streams")
        self.results["burst"] = await scenarios.bursts(here, plan, upstream)
        _say("long prompts")
        self.results["prompt"] = await scenarios.json_requests(behind, plan, upstream, size=32_000)
        _say("a large config")
        large = Gateway("gateway, large config", models=plan.models, keys=plan.keys)
        await self._compare("scale", gateway, large)
        _say("two workers")
        await self._compare("workers", gateway, Gateway("gateway, 2 workers", workers=2))
        _say("streams in each dialect")
        await self._dialects()
        _say("objects left for the collector")
        await self._collector(Collected(goals.COLLECTED))
        if len(os.sched_getaffinity(0)) < CORES_FOR_WORKERS:
            self.skipped["workers: requests per second"] = f"needs {CORES_FOR_WORKERS} cores"
            for figures in self.results["workers"].figures.values() if "workers" in self.results else ():
                figures["requests_per_second"] = None

    async def _dialects(self) -> None:
        """Measure the gateway in each client dialect."""
        spoken = [Spoken(goals.SPOKEN.format(name), dialect) for name, dialect in DIALECTS.items()]
        try:
            if not all([await self._start(subject) for subject in spoken]):
                self.skipped["dialects"] = "did not start"
                return
            self.results["dialects"] = await scenarios.dialects(spoken, self.plan, self.upstream)
        finally:
            for subject in spoken:
                subject.stop()

    async def _collector(self, subject: Collected) -> None:
        if not await self._start(subject):
            self.skipped["collector"] = subject.absent
            return
        try:
            self.results["collector"] = await scenarios.collector(subject, self.plan, self.upstream)
        finally:
            subject.stop()

    async def _compare(self, scenario: str, gateway: Subject, other: Subject) -> None:
        """Measure the gateway as it is beside one that is configured in another way."""
        if not await self._start(other):
            self.skipped[scenario] = other.absent
            return
        try:
            self.results[scenario] = await scenarios.json_requests([gateway, other], self.plan, self.upstream)
        finally:
            other.stop()

    async def _start(self, subject: Subject) -> bool:
        _say(f"start {subject.name}")
        try:
            await subject.start(self.folder / subject.name.replace(" ", "-"), self.upstream)
        except StartError as error:
            print(error, file=sys.stderr)
            subject.absent = "did not start"
            return False
        subject.rest()
        return True


def _save(data: report.Run, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
