"""Traces: the tree of spans that a collector gets, what engines are told, and collectors that do not do their job."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import tracing as settings
from gateway.config.file import load
from gateway.config.problems import ConfigError
from gateway.fake.engine import FakeEngine
from gateway.telemetry import collector
from gateway.telemetry.timeline import HOPS
from gateway.telemetry.trace import Sampler
from tests.faults.clients import CHAT, chat, until
from tests.serving import Served, serving
from tests.telemetry.receiver import Received, Receiver

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
CLIENT, SERVER = 3, 2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "DELAY", 0.02)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def config(
    receiver: Receiver, *engines: FakeEngine, tracing: str = "", model: str = "", more: str = ""
) -> str:
    backends = ", ".join(
        f'e{number}: {{engine: vllm, url: "{each.url}"}}' for number, each in enumerate(engines)
    )
    targets = ", ".join(f"e{number}: up" for number in range(len(engines)))
    return f"""
server: {{listen: "127.0.0.1:0", tracing: {{endpoint: "{receiver.url}"{tracing}}}{more}}}
backends: {{{backends}}}
models: {{m: {{targets: {{{targets}}}{model}}}}}
"""


async def told(receiver: Receiver, count: int) -> list[Received]:
    """Wait for the spans of so many requests, and return them."""
    await until(lambda: len(receiver.requests()) >= count, f"{count} requests are told")
    return receiver.requests()


def is_tree(receiver: Receiver, request: Received) -> None:
    """Hold all spans of a request to their times: each within the one above it, and the parts add up."""
    attempts = [span for span in receiver.below(request) if span.kind == CLIENT]
    for span in receiver.below(request):
        assert request.start <= span.start <= span.end <= request.end, span
    for attempt in attempts:
        for span in receiver.below(attempt):
            assert attempt.start <= span.start <= span.end <= attempt.end, span
    assert {span.trace_id for span in (*attempts, request)} == {request.trace_id}


ODD = {"x_twice": "1", "connection": "close"}


@pytest.mark.parametrize("headers", [{}, ODD], ids=["plain", "asgi"])
async def test_a_request_is_a_tree_of_spans(
    tmp_path: Path, receiver: Receiver, headers: dict[str, str]
) -> None:
    log = f', log: {{access: "{tmp_path}/log"}}'
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(receiver, engine, more=log)) as served,
    ):
        engine.set(rules=[{"first_token": 0.02, "gap": 0.005, "tokens": 4}])
        body = chat("hidden-prompt", stream=True, stream_options={"include_usage": True})
        answer = await served.post(
            CHAT, body, traceparent=PARENT, tracestate="a=b", authorization="Bearer hidden-key", **headers
        )
        assert answer.whole
        [request] = await told(receiver, 1)
        is_tree(receiver, request)
        assert (request.trace_id, request.parent, request.kind) == (TRACE, SPAN, SERVER)
        assert request.name == "POST /v1/chat/completions"
        expected = {
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "http.response.status_code": 200,
            "client.address": "127.0.0.1",
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "m",
            "gen_ai.request.stream": True,
            "gen_ai.response.model": "m",
            "gateway.request.id": answer.headers["x-request-id"],
            "gateway.decision": answer.headers["x-gateway-decision"],
            "gateway.backend": "e0",
            "gateway.outcome": "ok",
            "gateway.attempts": 1,
            "gateway.key": "anyone",
        }
        assert expected.items() <= request.attributes.items()
        assert request.attributes["gen_ai.usage.input_tokens"] > 0
        assert 0.02 <= request.attributes["gen_ai.response.time_to_first_chunk"] < request.duration / 1e9
        assert request.error is None

        [attempt] = [span for span in receiver.below(request) if span.kind == CLIENT]
        assert attempt.name == "chat up"
        assert attempt.attributes["gen_ai.provider.name"] == "vllm"
        assert (attempt.attributes["server.address"], attempt.attributes["server.port"]) == (
            "127.0.0.1",
            int(engine.url.rpartition(":")[2]),
        )
        hops = receiver.below(attempt)
        assert [span.name for span in hops][-3:] == ["first_byte", "first_token", "stream"]
        assert sum(span.duration for span in hops) == attempt.duration
        others = [span for span in receiver.below(request) if span.kind == 1]
        assert sum(span.duration for span in (*others, attempt)) == request.duration
        assert {span.name for span in (*hops, *others)} <= set(HOPS)

        [seen] = [each for each in engine.requests if each.path == CHAT]
        assert seen.headers["traceparent"] == f"00-{TRACE}-{attempt.span_id}-01"
        assert seen.headers["tracestate"] == "a=b"
        file = tmp_path / "log"
        await until(lambda: file.exists() and file.read_text().endswith("\n"), "the access log is written")
        line = json.loads(file.read_text())
        assert (line["trace"], line["id"]) == (TRACE, request.attributes["gateway.request.id"])
        assert request.duration / 1e6 == pytest.approx(line["milliseconds"], abs=0.01)
        assert {"service.name": "llm-serving-gateway"}.items() <= request.resource.items()
        assert not any(b"hidden" in body for body in receiver.bodies)
        assert receiver.paths == ["/v1/traces"] * len(receiver.paths)


async def test_each_attempt_is_a_span_and_the_engine_is_below_it(tmp_path: Path, receiver: Receiver) -> None:
    async with (
        FakeEngine(models=["up"]) as bad,
        FakeEngine(models=["up"]) as good,
        serving(tmp_path, config(receiver, bad, good, model=", balance: round_robin")) as served,
    ):
        bad.set(rules=[{"reply": {"status": 500}}])
        assert (await served.post(CHAT, chat())).status == 200
        [request] = await told(receiver, 1)
        is_tree(receiver, request)
        first, second = (span for span in receiver.below(request) if span.kind == CLIENT)
        assert (first.attributes["gateway.backend"], second.attributes["gateway.backend"]) == ("e0", "e1")
        assert (first.attributes["error.type"], first.attributes["http.response.status_code"]) == (
            "failed",
            500,
        )
        assert first.error is not None and second.error is None
        assert second.attributes["http.request.resend_count"] == 1
        assert request.attributes["gateway.attempts"] == 2
        for engine, attempt in ((bad, first), (good, second)):
            [seen] = [each for each in engine.requests if each.path == CHAT]
            assert seen.headers["traceparent"] == f"00-{request.trace_id}-{attempt.span_id}-01"
        assert not request.parent, "nobody else has begun this trace"


@pytest.mark.parametrize("loser", ["slow", "dies"])
async def test_an_attempt_beside_another_one_has_its_own_hops(
    tmp_path: Path, receiver: Receiver, loser: str
) -> None:
    model = ", balance: round_robin, hedge: {after: 30ms, budget: 100%}"
    async with (
        FakeEngine(models=["up"]) as slow,
        FakeEngine(models=["up"]) as quick,
        serving(tmp_path, config(receiver, slow, quick, model=model)) as served,
    ):
        if loser == "slow":
            slow.set(rules=[{"first_token": 30.0}])
        else:
            slow.set(
                rules=[
                    {
                        "faults": [
                            {"at": "request", "do": "hang", "duration": 0.1},
                            {"at": "request", "do": "close"},
                        ]
                    }
                ]
            )
            quick.set(rules=[{"first_token": 0.3}])
        answer = await served.post(CHAT, chat(stream=True))
        assert answer.headers["x-gateway-hedged"] == "won"
        [request] = await told(receiver, 1)
        is_tree(receiver, request)
        first, second = (span for span in receiver.below(request) if span.kind == CLIENT)
        assert first.start < second.start < first.end
        for attempt in (first, second):
            hops = receiver.below(attempt)
            assert hops[0].name in ("connect", "send", "first_byte")
            assert sum(span.duration for span in hops) == pytest.approx(attempt.duration, abs=1_000_000)
        assert receiver.below(second)[-1].name == "stream"


async def test_a_refused_request_is_told_and_is_no_fault(tmp_path: Path, receiver: Receiver) -> None:
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(receiver, engine)) as served:
        assert (await served.post(CHAT, chat(model="none"), traceparent=PARENT)).status == 404
        engine.set(rules=[{"reply": {"status": 500}}])
        assert (await served.post(CHAT, chat())).status == 502
        refused, failed = await told(receiver, 2)
        assert (refused.trace_id, refused.attributes["error.type"]) == (TRACE, "model_not_found")
        assert refused.error is None and failed.error == "upstream_error"
        assert failed.attributes["http.response.status_code"] == 502


async def test_who_began_a_trace_decides_whether_it_is_recorded(tmp_path: Path, receiver: Receiver) -> None:
    off = PARENT[:-1] + "0"
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(receiver, engine, tracing=", sample: 0%")) as served,
    ):
        await served.post(CHAT, chat())
        await served.post(CHAT, chat(), traceparent=off, tracestate="a=b")
        await served.post(CHAT, chat(), traceparent="00-nonsense", tracestate="a=b")
        await served.post(CHAT, chat(), traceparent=PARENT)
        [request] = await told(receiver, 1)
        assert request.trace_id == TRACE
        own, unchanged, odd, _ = (each.headers for each in engine.requests if each.path == CHAT)
        assert own["traceparent"].endswith("-00") and len(own["traceparent"]) == 55
        assert (unchanged["traceparent"], unchanged["tracestate"]) == (off, "a=b")
        assert odd["traceparent"].endswith("-00") and "tracestate" not in odd


def test_a_share_of_the_traces_is_recorded_the_same_in_all_processes() -> None:
    sampler = Sampler(0.25)
    recorded = sum(sampler.begin({}).is_sampled for _ in range(4000))
    assert 850 < recorded < 1150
    assert all(Sampler(1.0).begin({}).is_sampled for _ in range(100))
    assert not any(Sampler(0.0).begin({}).is_sampled for _ in range(100))


async def test_without_tracing_engines_get_what_clients_send(tmp_path: Path) -> None:
    async with FakeEngine(models=["up"]) as engine:
        text = (
            f'backends: {{e0: {{engine: vllm, url: "{engine.url}"}}}}\nmodels: {{m: {{targets: {{e0: up}}}}}}'
        )
        async with serving(tmp_path, text) as served:
            await served.post(CHAT, chat(), traceparent=PARENT, tracestate="a=b")
            await served.post(CHAT, chat())
            first, second = (each.headers for each in engine.requests if each.path == CHAT)
            assert (first["traceparent"], first["tracestate"]) == (PARENT, "a=b")
            assert "traceparent" not in second


async def test_a_reload_turns_traces_on_and_off(tmp_path: Path, receiver: Receiver) -> None:
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(receiver, engine)) as served:
        on, file = served.gateway.core.snapshot.config, tmp_path / "off.yaml"
        file.write_text(config(receiver, engine).replace("tracing:", "log: {level: info} #"))
        file.write_text(
            "\n".join(line for line in config(receiver, engine).splitlines() if "tracing" not in line)
        )
        await served.post(CHAT, chat())
        await told(receiver, 1)
        served.gateway.apply(load(file))
        await served.post(CHAT, chat())
        served.gateway.apply(on)
        await served.post(CHAT, chat(model="none"))
        statuses = [each.attributes["http.response.status_code"] for each in await told(receiver, 2)]
        assert statuses == [200, 404]


async def test_a_secret_header_reaches_the_collector(tmp_path: Path, receiver: Receiver) -> None:
    tracing = ', headers: {Authorization: "${env.COLLECTOR}", x-team: llm}, service_name: edge'
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(
            tmp_path, config(receiver, engine, tracing=tracing), {"COLLECTOR": "Bearer secret"}
        ) as served,
    ):
        await served.post(CHAT, chat())
        [request] = await told(receiver, 1)
        assert receiver.headers[0]["authorization"] == "Bearer secret"
        assert receiver.headers[0]["x-team"] == "llm"
        assert request.resource["service.name"] == "edge"
        assert "secret" not in repr(served.gateway.core.snapshot.config)


async def test_the_environment_of_opentelemetry_counts_where_the_config_is_silent(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-from=environment")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named-outside")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    async with FakeEngine(models=["up"]) as engine:
        text = config(receiver, engine).replace(f'endpoint: "{receiver.url}"', "")
        async with serving(tmp_path, text) as served:
            await served.post(CHAT, chat())
            [request] = await told(receiver, 1)
    assert receiver.headers[0]["x-from"] == "environment"
    assert request.resource["service.name"] == "named-outside"
    assert request.resource["deployment.environment.name"] == "test"


# collectors that do not do as they should


async def ask(served: Served, count: int) -> float:
    """Return the seconds that so many requests took, one after the other."""
    began = time.monotonic()
    for _ in range(count):
        assert (await served.post(CHAT, chat())).status == 200
    return time.monotonic() - began


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log says of the collector; the exporter's own log reaches nobody."""
    assert not logging.getLogger("opentelemetry").propagate
    return [record.getMessage() for record in caplog.records if record.name == "gateway.traces"]


async def test_a_collector_that_hangs_delays_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver("hang") as hanging:
        async with FakeEngine(models=["up"]) as engine:
            async with serving(tmp_path, config(hanging, engine)) as served:
                await ask(served, 3)
                await until(lambda: bool(hanging.paths), "the collector is asked")
                assert await ask(served, 100) < 5
                began = time.monotonic()
            assert time.monotonic() - began < 4
    assert len(warnings(caplog)) <= 1


async def test_what_waits_for_a_collector_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(collector, "ROOM", 5)
    with Receiver("hang") as receiver:
        async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(receiver, engine)) as served:
            await ask(served, 1)
            await until(lambda: bool(receiver.paths), "the collector is asked")
            await ask(served, 30)
            sender = served.gateway._traces._collector
            assert isinstance(sender, collector.Collector)
            assert len(sender._waiting) == 5
            assert sender._lost == 25
            receiver.behaviour = "take"
            receiver._released.set()
            await told(receiver, 5)
            await until(lambda: bool(warnings(caplog)), "it is said")
    assert warnings(caplog) == ["the collector takes traces; it was not told of 25 requests"]


async def test_a_collector_that_refuses_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver("refuse") as receiver:
        async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(receiver, engine)) as served:
            for _ in range(3):
                asked = len(receiver.paths)
                await ask(served, 1)
                await until(lambda: len(receiver.paths) > asked, "it is asked")  # noqa: B023 (awaited here)
            await until(lambda: bool(warnings(caplog)), "it is said")
            assert len(warnings(caplog)) == 1 and "takes no traces" in warnings(caplog)[0]
            assert "400" in warnings(caplog)[0]
            receiver.behaviour = "take"
            await ask(served, 1)
            await told(receiver, 1)
            await until(lambda: len(warnings(caplog)) == 2, "it is said")
            assert warnings(caplog)[1] == "the collector takes traces; it was not told of 3 requests"


async def test_a_stop_sends_what_waits(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "DELAY", 30.0)
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(receiver, engine)) as served:
        await ask(served, 3)
        assert not receiver.spans
    assert len(receiver.requests()) == 3


def test_a_missing_package_is_a_mistake_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text('server:\n  tracing: {}\nbackends: {b: {engine: openai, url: "http://h:1"}}\n')
    load(file)
    monkeypatch.setattr(settings, "is_installed", lambda: False)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert "gateway.yaml:2:3" in str(caught.value)
    assert "pip install 'llm-serving-gateway[otel]'" in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("https://c/otlp", "https://c/otlp/v1/traces"),
        ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
    ],
)
def test_where_traces_are_sent(endpoint: str, url: str) -> None:
    found: Any = settings.Tracing.model_validate({"endpoint": endpoint})
    assert found.way.endpoint == url
    assert found.way.service is None


async def test_several_requests_at_once_are_not_mixed(tmp_path: Path, receiver: Receiver) -> None:
    async with FakeEngine(models=["up"]) as engine, serving(tmp_path, config(receiver, engine)) as served:
        engine.set(rules=[{"gap": 0.002, "tokens": 5}])
        contexts = [f"00-{number:032x}-{SPAN}-01" for number in range(1, 41)]
        await asyncio.gather(*(served.post(CHAT, chat(stream=True), traceparent=each) for each in contexts))
        requests = await told(receiver, 40)
        assert sorted(span.trace_id for span in requests) == [each[3:35] for each in contexts]
        for request in requests:
            is_tree(receiver, request)
            [attempt] = [span for span in receiver.below(request) if span.kind == CLIENT]
            assert sum(span.duration for span in receiver.below(attempt)) == attempt.duration
