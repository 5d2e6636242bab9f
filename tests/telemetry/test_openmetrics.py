"""The page as OpenMetrics is what its own parser reads, with exemplars that lead from a bucket to a trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as read_text

from gateway.fake.engine import FakeEngine
from gateway.telemetry.merging import merge
from gateway.telemetry.metrics import Metrics, wants_openmetrics
from tests.faults.clients import CHAT, chat, config, rest
from tests.serving import serving

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.3"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (ACCEPT, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; version=0.0.1, text/plain;q=0.5", True),
        ("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        ("text/plain, application/openmetrics-text", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_it_is_made_for_those_who_prefer_it(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted


def parsed(text: str) -> Iterator[Metric]:
    """Return the families of a page."""
    yield from text_string_to_metric_families(text)  # type: ignore[no-untyped-call]


def exemplars(text: str) -> dict[str, set[str]]:
    """Return the traces of the exemplars on a page, by the name of the histogram."""
    found: dict[str, set[str]] = {}
    for family in parsed(text):
        for sample in family.samples:
            if sample.exemplar is not None:
                assert sample.exemplar.value <= float(sample.labels["le"])
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


async def test_a_bucket_leads_to_a_trace_that_fell_in_it(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        assert (await served.post(CHAT, chat(stream=True))).status == 200
        await rest(served)
        answer = await served.get("/metrics", accept=ACCEPT)
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert exemplars(answer.body.decode()) == {}
        for header in (PARENT, "00-nonsense-01"):
            assert (await served.post(CHAT, chat(stream=True), traceparent=header)).status == 200
        await rest(served)
        text = (await served.get("/metrics", accept=ACCEPT)).body.decode()
        names = "gateway_request_duration_seconds", "gateway_time_to_first_token_seconds"
        assert exemplars(text) == {name: {TRACE} for name in names}
        assert text.endswith("# EOF\n") and text.count("# EOF") == 1
        plain = (await served.get("/metrics")).body.decode()
        assert TRACE not in plain and "# EOF" not in plain


async def test_both_pages_say_the_same(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["up"]) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        assert (await served.post(CHAT, chat(stream=True))).status == 200
        await rest(served)
        metrics = served.gateway.metrics
        open_page = parsed("".join(metrics.pieces(openmetrics=True)))
        told = {(s.name, frozenset(s.labels.items())) for family in open_page for s in family.samples}
        plain = read_text("".join(metrics.pieces()))
        ours = {(s.name, frozenset(s.labels.items())) for family in plain for s in family.samples}
        assert {key for key in ours if key[0].startswith("gateway_")} <= told


def test_exemplars_of_several_workers_are_the_last_of_each_bucket() -> None:
    dumps = []
    for number in (2, 1):
        metrics = Metrics("9")
        cell = metrics.requests.duration.cell("m", "b", "e", "-", "ok")
        cell.observe_traced(0.02, f"{number:032x}")
        cell.exemplars = {
            bucket: (value, trace, number) for bucket, (value, trace, _) in cell.exemplars.items()
        }
        dumps.append(metrics.dump())
    merged = merge(dumps, Metrics("9").across)
    text = "".join(Metrics("9").pieces_of(merged, openmetrics=True))
    assert exemplars(text) == {"gateway_request_duration_seconds": {f"{2:032x}"}}
    [count] = [
        line for line in text.splitlines() if line.startswith("gateway_request_duration_seconds_count")
    ]
    assert count.endswith(" 2.0")
