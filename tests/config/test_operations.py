"""What a rule asks of engines must be something that one of them can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.file import load
from gateway.config.problems import ConfigError

TEXT = """
backends:
  a: {engine: ollama, url: "http://h:1"}
  b: {engine: llamacpp, url: "http://h:2"}
models:
  m: {targets: {a: x}, FALLBACK}
  o: {targets: {b: y}}
routes:
  - {name: r, match: {operation: [chat, infill]}, to: {warm: [m]}}
"""


def test_an_operation_that_no_engine_can_do_where_a_rule_leads_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(TEXT.replace("FALLBACK", ""))
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert str(caught.value).endswith(":9:41: no engine where this rule leads can do 'infill': ollama")
    file.write_text(TEXT.replace("FALLBACK", "fallback: [o]"))
    assert load(file, {}).routes
