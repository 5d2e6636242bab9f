"""The metrics page: what it shows is what happened, and the document lists exactly what it shows."""

import re
from pathlib import Path

from backends.base import Kind, Operation, Signal, Status
from gateway.errors import OUTCOMES, ROWS
from gateway.telemetry.cells import Histogram
from gateway.telemetry.metrics import Metrics

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
    cells.first_token.observe(0.02)
    page = metrics.page().decode()
    assert 'gateway_tokens_total{backend="b",direction="out",model="m"} 7.0' in page
    assert 'gateway_time_to_first_token_seconds_bucket{backend="b",le="0.025",model="m"} 1.0' in page
    assert 'gateway_build_info{version="1.2.3"} 1.0' in page
    assert "process_resident_memory_bytes" in page
    assert metrics.target("m", "b") is cells


def test_the_document_lists_every_metric_with_its_type_and_labels() -> None:
    metrics = Metrics("0")
    shown = {}
    for family in metrics.families:
        name = family.name + ("_total" if family.kind == "counter" else "")
        shown[name] = (family.kind, ", ".join(family.labels))
    rows = re.findall(r"^\| `(gateway_\w+)` \| (\w+) \| ([\w, ]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert {name: (kind, labels) for name, kind, labels in rows} == shown


def test_the_document_names_every_value_of_the_closed_sets() -> None:
    text = DOCUMENT.read_text()
    for word in (*OUTCOMES, *Kind, *Operation, *Signal, *Status):
        assert f"`{word}`" in text, word


def test_every_row_of_the_error_table_has_a_known_outcome() -> None:
    assert {row.outcome for row in ROWS.values()} <= set(OUTCOMES)
