"""docker/keys.sh: keys are made once, given ones win, and nobody reads them in the log."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "keys.sh"


def keys(folder: Path, **env: str) -> tuple[dict[str, str], str]:
    """Run the script. Return the files it has written, and what it printed."""
    given = {"PATH": "/usr/bin:/bin", "GATEWAY_KEY": "", "GRAFANA_PASSWORD": "", "HF_TOKEN": "", **env}
    done = subprocess.run(["sh", SCRIPT, folder], env=given, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}, done.stdout


def test_keys_are_made_once(tmp_path: Path) -> None:
    first, said = keys(tmp_path)
    assert list(first) == ["gateway_key", "grafana_password", "hf_token"]
    assert first["gateway_key"].startswith("gw-") and len(first["gateway_key"]) == 51
    assert len(first["grafana_password"]) == 48 and first["hf_token"] == ""
    assert said.splitlines() == ["gateway_key: made", "grafana_password: made", "hf_token: none"]
    second, said = keys(tmp_path)
    assert second == first
    assert said.splitlines()[0] == "gateway_key: kept"
    (tmp_path / "other").mkdir()
    other, _ = keys(tmp_path / "other")
    assert not {other["gateway_key"], other["grafana_password"]} & set(first.values())


def test_given_keys_win_and_are_never_printed(tmp_path: Path) -> None:
    keys(tmp_path)
    given = {"GATEWAY_KEY": "gw mine $x", "GRAFANA_PASSWORD": "%s", "HF_TOKEN": "hf_1"}
    found, said = keys(tmp_path, **given)
    assert found == {"gateway_key": "gw mine $x", "grafana_password": "%s", "hf_token": "hf_1"}
    assert not any(value in said for value in given.values())
    assert keys(tmp_path)[0] == {**found, "hf_token": ""}


def test_other_users_can_read_them_and_nobody_can_change_them(tmp_path: Path) -> None:
    keys(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
