"""The metrics page: what it shows is what happened, and the document lists exactly what it shows."""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

from backends.base import Kind, Operation, Signal, Status
from backends.metrics import Finish
from gateway.config.outcome import RESULTS
from gateway.errors import OUTCOMES, ROWS
from gateway.telemetry.cells import Histogram
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.page import CELLS, Pages
from gateway.telemetry.timeline import HOPS
from gateway.wire.checks import REASONS

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"


def test_a_histogram_counts_up_to_and_including_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert list(histogram.buckets()) == [("1.0", 2), ("2.0", 4), ("+Inf", 5)]
    assert histogram.sum == 14.0


def test_cells_show_on_the_page() -> None:
    metrics = Metrics("1.2.3")
    cells = metrics.target("m", "b")
    cells.output_tokens.value += 7
    metrics.requests.first_token.cell("m", "b", "e", "-").observe(0.02)
    page = "".join(metrics.pieces())
    assert 'gateway_tokens_total{backend="b",direction="out",engine="-",model="m"} 7.0' in page
    assert (
        'gateway_time_to_first_token_seconds_bucket{backend="b",engine="e",le="0.025",model="m",route="-"} 1.0'
        in page
    )
    assert 'gateway_build_info{version="1.2.3"} 1.0' in page
    assert "process_resident_memory_bytes" in page
    assert metrics.target("m", "b") is cells


def test_the_document_names_every_value_of_the_closed_sets() -> None:
    text = DOCUMENT.read_text()
    for word in (*OUTCOMES, *REASONS, *RESULTS, *Kind, *Operation, *Signal, *Status, *HOPS, *Finish):
        assert f"`{word}`" in text, word


def test_every_row_of_the_error_table_has_a_known_outcome() -> None:
    assert {row.outcome for row in ROWS.values()} <= set(OUTCOMES)


def test_only_cells_that_were_used_are_shown_and_those_stay() -> None:
    metrics = Metrics("1")
    for backend in "abc":
        metrics.target("m", backend)
    used = metrics.target("m", "b")
    metrics.backends.up.cell("c", "vllm").value = 0
    assert not [piece for piece in metrics.pieces() if 'model="m"' in piece]
    used.in_flight.value = 1
    assert 'gateway_requests_in_flight{backend="b",model="m"} 1.0' in "".join(metrics.pieces())
    used.in_flight.value = 0
    page = "".join(metrics.pieces())
    assert 'gateway_requests_in_flight{backend="b",model="m"} 0.0' in page
    assert "_bucket" not in page and 'backend="a"' not in page
    assert 'gateway_backend_up{backend="c",engine="vllm"} 0.0' in page


def test_what_others_are_told_is_what_was_used() -> None:
    metrics = Metrics("1")
    metrics.target("m", "a")
    metrics.target("m", "b").token_gap.observe(1)
    assert {entry[2] for entry in metrics.dump()} == {("m", "b", "-"), ("1",)}


def test_label_values_are_escaped() -> None:
    metrics = Metrics("1")
    metrics.routes.hedges.cell('a "b"\\\n', "won").value = 1
    shown = 'gateway_hedges_total{model="a \\"b\\"\\\\\\n",result="won"} 1.0\n'
    assert shown in "".join(metrics.pieces())


def test_no_piece_of_a_page_has_many_cells() -> None:
    metrics = Metrics("1")
    for model in range(300):
        metrics.requests.duration.cell(f"m{model}", "b", "e", "-", "ok").observe(1)
    pieces = list(metrics.pieces())
    assert max(piece.count("_count{") for piece in pieces) == CELLS
    assert "".join(pieces).count("gateway_request_duration_seconds_count{") == 300
    told = list(Metrics("1").pieces_of(metrics.dump()))
    assert max(piece.count("_count{") for piece in told) == CELLS
    assert "".join(told).count("gateway_request_duration_seconds_count{") == 300


async def test_pages_are_made_one_at_a_time_and_others_go_on_meanwhile() -> None:
    """A page is made from what is true after the question; the loop turns between any two pieces."""
    made, turns = 0, 0

    def pieces() -> Iterator[str]:
        number = made
        for _ in range(50):
            yield ""
        yield f"page {number}"

    async def make() -> Iterable[str]:
        nonlocal made
        made += 1
        return pieces()

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    pages = Pages(make)
    other = asyncio.create_task(others())
    first = asyncio.create_task(pages.page())
    await asyncio.sleep(0)
    late = [asyncio.create_task(pages.page()) for _ in range(20)]
    gives_up = late.pop(0)
    while made < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    gives_up.cancel()
    assert await first == (b"page 1",)
    assert {await task for task in late} == {(b"page 3",)}
    assert made == 3 and turns > 100
    other.cancel()
    assert pages._last == ()
