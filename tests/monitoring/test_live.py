"""The real Prometheus scrapes a gateway under load with faults: every panel and every rule gets data.

Rules:
- Load goes on until everything has data, so that a slow machine takes longer and fails nothing.
- What cannot have data here stands in a table with its reason.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.monitoring import promql
from tests.monitoring.panels import panels
from tests.monitoring.server import Prometheus, prometheus
from tests.monitoring.stage import Stage, stage
from tests.tools.debian import needed

OBJECTIVES: Final = {
    "gateway:objective:first_token_seconds": 0.01,
    "gateway:objective:queue_wait_seconds": 0.01,
    "gateway:objective:failed_ratio": 0.001,
    "gateway:objective:event_loop_lag_seconds": 0.000001,
    "gateway:objective:gpu_temperature_celsius": 50,
}
"""What the stage does not keep, so that the alerts see it."""
QUIET: Final = {
    "GatewayNoBackendUp": "some backends are up",
    "GatewayDown": "the gateway is scraped all the time",
    "GatewayBackendLoadsLong": "the launched engine is ready again at once",
    "GatewayEngineRestartLoop": "one restart is no loop",
    "GatewayFileDescriptorsShort": "few are open",
    "GatewayHostMemoryLow": "nobody knows how much the machine has left, but it is enough for tests",
}
"""Alerts that must not see anything on the stage. (That they can is shown by their unit tests.)"""
LIMIT: Final = 90.0
"""Seconds for everything to have data."""


APART = {
    "gateway-overview: Requests of batches": "tests/batches run some, which needs a store",
    "gateway-overview: Open batches": "the same",
}
"""Panels that get no data here, each with the reason."""


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_every_panel_and_every_rule_gets_data(tmp_path: Path) -> None:
    needed("prometheus")
    (tmp_path / "gateway").mkdir()
    (tmp_path / "prometheus").mkdir()
    async with (
        stage(tmp_path / "gateway") as at,
        prometheus(tmp_path / "prometheus", at.served.port, OBJECTIVES) as running,
    ):
        await until_everything_has_data(at, running)
        await rules_are_well(running)
        await no_traffic_is_no_data(running)
        await engines_are_scraped_through_the_gateway(running)


async def until_everything_has_data(at: Stage, running: Prometheus) -> None:
    """Load the gateway until every panel and rule has data; fail after `LIMIT` seconds with what has none."""
    queries = {
        f"{panel.place}: {legend}": query
        for panel in panels()
        if panel.place not in APART
        for query, legend in panel.queries
    }
    queries |= {rule["record"]: rule["record"] for rule in promql.rules() if "record" in rule}
    queries |= {name: rule["expr"] for name, rule in promql.alerts().items() if name not in QUIET}
    missing = queries
    try:
        async with asyncio.timeout(LIMIT):
            await at.round()
            await at.other_config()
            await at.round()
            await at.stop_engine()
            at.kill_engine()
            await at.wrong_config()
            while missing:
                await at.round()
                found = await asyncio.gather(*map(running.query, missing.values()))
                missing = {name: missing[name] for name, data in zip(missing, found, strict=True) if not data}
    except TimeoutError:
        pytest.fail(f"no data after {at.rounds} rounds:\n" + "\n".join(map(": ".join, missing.items())))


async def rules_are_well(running: Prometheus) -> None:
    """Hold that every rule was evaluated without an error, and that alerts see what there is and nothing else."""
    for _ in range(20):
        rules = await running.rules()
        assert len(rules) == len(promql.rules())
        assert [
            rule for rule in rules if rule["health"] not in ("ok", "unknown") or rule.get("lastError")
        ] == []
        states = {rule["name"]: rule["state"] for rule in rules if rule["type"] == "alerting"}
        quiet = {name for name, state in states.items() if state == "inactive"}
        if quiet == QUIET.keys():
            return
        # A rule is evaluated once a second, a little later than what it asks for is there.
        await asyncio.sleep(0.5)
    assert quiet == QUIET.keys()


async def no_traffic_is_no_data(running: Prometheus) -> None:
    """Hold that nothing is said of a model that nobody has asked for."""
    for name in promql.recorded():
        assert await running.query(f'{name}{{model="idle"}}') == []


async def engines_are_scraped_through_the_gateway(running: Prometheus) -> None:
    """Hold that an engine's own page is there under its own names, and labelled with the backend."""
    (found,) = await running.query('vllm:num_requests_running{job="engines"}')
    assert (found["metric"]["backend"], found["metric"]["engine"], found["value"][1]) == (
        "vllm-a",
        "vllm",
        "3",
    )
