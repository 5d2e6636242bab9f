"""The pages of all engines, as recorded: what is read of them, and that the lines nobody reads are not missed."""

from __future__ import annotations

import pytest

from backends import registry
from backends.base import Engine
from backends.engines.triton.engine import TritonOptions
from backends.facts.metrics import measured
from backends.metrics import Buckets, Counted, Finish, Measured, Timing
from tests.conformance.measured import PAGES, body, engines, kept, of_page, told

EVERY = {engine.name: engine for engine in engines()}
RECORDED = [(engine, page) for engine, pages in PAGES.items() for page in pages]
WRITTEN = [("ray-serve", "metrics"), ("tensorrt-llm", "metrics"), ("triton-openai", "metrics")]
"""Pages that were written from source. They too must not lose a signal."""


@pytest.mark.parametrize("engine", EVERY.values(), ids=EVERY)
def test_the_page_is_one_of_those_that_tell_load(engine: Engine) -> None:
    page = engine.metrics()
    assert page is not None
    assert [call.path for call in engine.signal_calls() if call.method == "GET"].count(page.path) == 1


@pytest.mark.parametrize(("name", "recording"), [*RECORDED, *WRITTEN])
def test_signals_are_the_same_without_the_lines_that_nobody_reads(name: str, recording: str) -> None:
    variants = [EVERY.get(name)]
    if name.startswith("triton"):
        variants = [TritonOptions(backend=backend).engine() for backend in ("vllm", "tensorrtllm", "custom")]
    for engine in variants:
        assert engine is not None
        page, wanted = body(name, recording), engine.metrics()
        assert wanted is not None
        whole, sifted = (
            engine.signals_of(
                [answer if call.path == wanted.path else None for call in engine.signal_calls()]
            )
            for answer in (page, kept(engine, page))
        )
        assert whole == sifted
        assert len(kept(engine, page)) <= len(page) + 1


@pytest.mark.parametrize("engine", EVERY.values(), ids=EVERY)
def test_every_name_of_a_table_is_read(engine: Engine) -> None:
    """A page that has one name alone, each in turn, tells what that name stands for."""
    wanted = engine.metrics()
    assert wanted is not None
    table = wanted.table
    for count, metrics in table.counts.items():
        for metric in metrics:
            labels = ",".join(f'{label}="{value}"' for label, value in metric.labels.items())
            page = "".join(f"{name}{{{labels}}} 2\n" for name in (metric.name, metric.plus) if name)
            value = 2 if metric.plus is None else 4
            assert measured(kept(engine, page.encode()), table).counts[count] == value
    for counter in table.finished:
        for reason, finish in {**counter.reasons, "else": counter.other}.items():
            page = f'{counter.name}{{{counter.label or "x"}="{reason}"}} 3\n'
            assert measured(kept(engine, page.encode()), table) == Measured({}, {finish: 3})
    for timing, metrics in table.timings.items():
        for metric in metrics:
            labels = "".join(f'{label}="{value}",' for label, value in metric.labels.items())
            page = (
                f'{metric.name}_bucket{{{labels}le="1.0"}} 1\n{metric.name}_bucket{{{labels}le="+Inf"}} 3\n'
                f"{metric.name}_sum{{{labels}}} 4\n{metric.name}_count{{{labels}}} 3\n"
            )
            found = Measured({}, {}, {timing: Buckets((1.0,), (1, 2), 4)})
            assert measured(kept(engine, page.encode()), table).timings == found.timings


def test_a_real_page_shows_most_of_what_an_engine_tells() -> None:
    """How much of each table a recorded page shows; docs/engines.md says which. Fewer mean that a name is wrong."""
    seen = {name: sum(each.seen for each in told(EVERY[name])) for name in EVERY}
    assert seen == {
        "llamacpp": 5,
        "lmdeploy": 10,
        "ray-serve": 0,
        "sglang": 8,
        "tensorrt-llm": 0,
        "tgi": 7,
        "triton": 0,
        "vllm": 12,
    }


def test_values_of_real_pages() -> None:
    """Of servers that had something to do: what their pages say, added up by hand."""
    sglang = of_page(EVERY["sglang"], "metrics")
    assert sglang.counts == {
        Counted.PROMPT_TOKENS: 671, Counted.PROMPT_TOKENS_CACHED: 10, Counted.GENERATION_TOKENS: 152,
    }  # fmt: skip
    assert sglang.finished == {Finish.UNKNOWN: 15}
    assert sum(sglang.timings[Timing.REQUEST].counts) == 15
    assert sum(sglang.timings[Timing.FIRST_TOKEN].counts) == 1, "of whole answers it is another time"

    tgi = of_page(EVERY["tgi"], "metrics")
    assert tgi.counts == {
        Counted.PROMPT_TOKENS: 717, Counted.GENERATION_TOKENS: 1369, Counted.ACCEPTED_TOKENS: 0,
    }  # fmt: skip
    assert tgi.finished == {Finish.COMPLETE: 10, Finish.ABORT: 9}
    assert tgi.timings[Timing.QUEUE].sum == pytest.approx(13.694208111)

    llamacpp = of_page(EVERY["llamacpp"], "metrics")
    assert llamacpp.counts == {
        Counted.PROMPT_TOKENS: 98, Counted.PROMPT_TOKENS_CACHED: 75, Counted.GENERATION_TOKENS: 36,
        Counted.DRAFTED_TOKENS: 0, Counted.ACCEPTED_TOKENS: 0,
    }  # fmt: skip

    lmdeploy = of_page(EVERY["lmdeploy"], "metrics_served")
    assert lmdeploy.finished == {
        Finish.COMPLETE: 466, Finish.ABORT: 0, Finish.REJECTED: 0, Finish.ERROR: 0,
    }  # fmt: skip
    assert sum(lmdeploy.timings[Timing.REQUEST].counts) == 466

    vllm = of_page(EVERY["vllm"], "metrics_served")
    assert vllm.counts == {
        Counted.PROMPT_TOKENS: 147, Counted.PROMPT_TOKENS_CACHED: 0, Counted.GENERATION_TOKENS: 216,
        Counted.DRAFTED_TOKENS: 111, Counted.ACCEPTED_TOKENS: 0, Counted.PREEMPTIONS: 0,
    }  # fmt: skip
    assert vllm.finished == {
        Finish.STOP: 3, Finish.LENGTH: 4, Finish.ABORT: 0, Finish.ERROR: 0, Finish.REJECTED: 0,
    }  # fmt: skip
    assert sum(vllm.timings[Timing.FIRST_TOKEN].counts) == 7


def test_a_page_without_requests_tells_nothing_of_them() -> None:
    tgi = of_page(EVERY["tgi"], "metrics_fresh")
    assert (tgi.counts, tgi.finished, tgi.timings) == ({}, {}, {})


def test_engines_without_a_page_of_prometheus_say_so() -> None:
    without = {name for name in registry.ENGINES if registry.create(name).metrics() is None}
    assert without == {"llama-cpp-python", "ollama", "openai", "transformers"}


def test_no_bucket_of_a_real_page_is_lost() -> None:
    for name, recording in RECORDED:
        for timing, buckets in of_page(EVERY[name], recording).timings.items():
            assert isinstance(buckets, Buckets)
            assert len(buckets.bounds) >= 15, (name, timing)
