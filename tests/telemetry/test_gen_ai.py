"""The second set of metrics has the names that OpenTelemetry's conventions give them, and appears by a switch only."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics as names
from opentelemetry.semconv.attributes import error_attributes

from gateway.fake.engine import FakeEngine
from gateway.telemetry.metrics import Metrics
from tests.faults.clients import CHAT, chat, config, rest
from tests.serving import serving

ON = "metrics: {gen_ai: true}"


def spelled(name: str, unit: str = "") -> str:
    """Return a name of the conventions as Prometheus spells it."""
    return name.replace(".", "_") + unit


def test_names_and_labels_are_the_conventions() -> None:
    ours = {
        family.name: set(family.labels) for family in Metrics("").families if family.name.startswith("gen_ai")
    }
    where = {
        spelled(name)
        for name in (
            attributes.GEN_AI_OPERATION_NAME,
            attributes.GEN_AI_PROVIDER_NAME,
            attributes.GEN_AI_REQUEST_MODEL,
        )
    }
    failing = where | {spelled(error_attributes.ERROR_TYPE)}
    assert ours == {
        spelled(names.GEN_AI_CLIENT_OPERATION_DURATION, "_seconds"): failing,
        spelled(names.GEN_AI_CLIENT_TOKEN_USAGE): where | {spelled(attributes.GEN_AI_TOKEN_TYPE)},
        spelled(names.GEN_AI_SERVER_REQUEST_DURATION, "_seconds"): failing,
        spelled(names.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN, "_seconds"): where,
        spelled(names.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN, "_seconds"): where,
    }


@pytest.mark.parametrize("server", ["", ON], ids=["off", "on"])
async def test_they_are_counted_by_a_switch_only(server: str, tmp_path: Path) -> None:
    broken = [{"match": {"path": CHAT, "stream": False}, "reply": {"status": 500}}]
    async with (
        FakeEngine(models=["up"], defaults={"tokens": 5, "gap": 0.01}) as engine,
        serving(tmp_path, config(engine.url, server=server)) as served,
    ):
        assert (await served.post(CHAT, chat(stream=True))).status == 200
        engine.set(models=["up"], rules=[{"match": {"path": CHAT}, "reply": broken[0]["reply"]}])
        assert (await served.post(CHAT, chat())).status == 502
        await rest(served)
        if not server:
            assert "gen_ai_" not in "".join(served.gateway.metrics.pieces())
            return
        where = {
            "gen_ai_operation_name": "chat",
            "gen_ai_provider_name": "openai",
            "gen_ai_request_model": "m",
        }

        def counted(name: str, **labels: str) -> float:
            return served.metric(f"gen_ai_{name}", **where, **labels)

        assert counted("client_operation_duration_seconds_count", error_type="") == 1
        assert counted("client_operation_duration_seconds_count", error_type="failed") == 1
        assert counted("server_request_duration_seconds_count", error_type="") == 1
        assert counted("server_request_duration_seconds_count", error_type="upstream_error") == 1
        assert counted("client_token_usage_sum", gen_ai_token_type="output") == 5
        assert counted("client_token_usage_count", gen_ai_token_type="input") == 1
        assert counted("server_time_to_first_token_seconds_count") == 1
        assert counted("server_time_per_output_token_seconds_count") == 1
        assert counted("server_time_per_output_token_seconds_sum") >= 0.01
