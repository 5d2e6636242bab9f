"""What `check` warns of in a file that can be used: secrets in clear text, fallbacks that take less."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.config import notes
from gateway.config.file import read
from tests.config.files import config, written

TEXT = """
backends:
  a:
    engine: openai
    url: http://h:1
    api_key: canary-5e1f
    headers: {X-Api-Key: canary-5e1f, OpenAI-Organization: org-1, x-auth-token: "Bearer ${env.KEY}"}
  b: {engine: openai, url: http://h:2, api_key: "${env.KEY}"}
models:
  big: {targets: {a: x}, context: 8192, fallback: [mini, same, open]}
  small: {targets: {a: x}, context: 4096, aliases: [mini], fallback: [big]}
  same: {targets: {a: x}, context: 8192}
  open: {targets: {a: x}, fallback: [same]}
"""


def test_secrets_in_clear_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TEXT.replace(", fallback: [big]", "")
    file = written(tmp_path, text)
    found = [str(warning).removeprefix(f"{file}:") for warning in read(file, {"KEY": "canary-77"}).warnings]
    advice = "stands in the file in clear text: better ${env.NAME} or ${file:/path}"
    assert found == [f"6:14: this key {advice}", f"7:26: the value of 'X-Api-Key' {advice}"]
    assert main(["check", str(written(tmp_path, text.replace("${env.KEY}", "${env.KEY:-x}")))]) == 0
    told = capsys.readouterr().err
    assert f"note: {file}:6:14: this key {advice}\n" in told and "canary" not in told


def test_fallbacks_that_take_shorter_prompts(tmp_path: Path) -> None:
    found = list(notes.everything(config(tmp_path, TEXT.replace(", fallback: [big]", ""), {"KEY": "x"})))
    assert found == [
        "'small' takes 4096 tokens, fewer than the 8192 of 'big', whose fallback it is: longer prompts have none"
    ]
