"""The commands that start nothing, called in this process: what they print and return.

tests/test_cli.py runs them as users do, each as a process of its own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.keys import hash_key


def test_a_new_key_fits_the_line_for_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "team-a"]) == 0
    shown = capsys.readouterr().out
    [plain] = re.findall(r"gw-[\w-]{43}", shown)
    assert f'team-a: {{hash: "{hash_key(plain)}"}}' in shown


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["key", "new", "no name"])
    assert caught.value.code == 2
    assert "'no name' is no name" in capsys.readouterr().err


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"


def test_a_number_of_workers_has_a_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for workers in ("0", "257", "many"):
        with pytest.raises(SystemExit):
            main(["serve", str(tmp_path / "none.yaml"), "--workers", workers])
        assert "is not a number from 1 to 256" in capsys.readouterr().err


def test_a_config_that_is_wrong_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("backend: {}\n")
    for command in ("check", "serve"):
        assert main([command, str(file)]) == 1
        assert f"{file}:1:1" in capsys.readouterr().err


def test_an_interrupt_ends_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.__main__._version", interrupted)
    assert main(["version"]) == 130
