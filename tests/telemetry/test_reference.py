"""The page of the metrics says what the code does."""

from __future__ import annotations

import pytest

from gateway.telemetry.metrics import Metrics
from gateway.telemetry.registry import Families
from tests.telemetry import reference


def test_the_page_is_what_the_code_makes() -> None:
    text = reference.PAGE.read_text(encoding="utf-8")
    assert reference.page(text) == text, "run: python -m tests.telemetry.reference"
    for family in Metrics("").families:
        assert f"| `{family.name}" in text


def test_every_metric_is_told_in_one_line_of_plain_words() -> None:
    for family in Metrics("").families:
        assert family.name.startswith(("gateway_", "gen_ai_")) and not family.name.endswith("_total")
        assert family.help.endswith(".") and not set("\n|\\") & set(family.help), family.name


def test_a_name_is_registered_once() -> None:
    topic = Families().topic("Fruit")
    topic.counter("gateway_apples", "Apples.")
    with pytest.raises(ValueError, match="gateway_apples"):
        topic.gauge("gateway_apples", "Apples.")
