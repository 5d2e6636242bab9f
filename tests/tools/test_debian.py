"""Programs out of Debian's packages: found or fetched, never a reason to be root, and never silently missing in CI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tools import debian

CI = debian.ROOT / ".ci" / "run"


@pytest.fixture
def nothing_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make a machine without programs and without `.tools`; return what is in place of the latter."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(debian, "HOME", tmp_path / "tools")
    monkeypatch.setattr(debian, "INSTALLED", tmp_path / "installed")
    return tmp_path / "tools"


def test_a_program_is_found_on_the_path_or_below_tools(
    nothing_there: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert debian.find("promtool") is None
    below = nothing_there / "prometheus" / "usr" / "bin" / "promtool"
    below.parent.mkdir(parents=True)
    below.touch(mode=0o755)
    assert debian.find("promtool") == below
    assert debian.find("other") is None
    (tmp_path / "promtool").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert debian.find("promtool") == tmp_path / "promtool"


@pytest.mark.usefixtures("nothing_there")
def test_a_missing_program_skips_but_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(debian.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="make tools"):
        debian.needed("promtool")
    monkeypatch.setenv(debian.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="make tools"):
        debian.needed("promtool")


def test_ci_requires_the_tools_and_fetches_them_first() -> None:
    text = CI.read_text()
    assert re.search(rf"^export {debian.REQUIRED}=1$", text, re.MULTILINE)
    assert text.index("\nphase tools make tools\n") < text.index("\nphase test make test\n")


@pytest.mark.usefixtures("nothing_there")
def test_a_machine_without_debians_programs_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert debian.main([]) == 1
    assert "this machine has no apt-get and no dpkg-deb" in capsys.readouterr().err
    assert debian.main(["--optional"]) == 0
    assert "are skipped" in capsys.readouterr().err


def test_a_package_that_does_not_exist_is_told(tmp_path: Path) -> None:
    if any(shutil.which(client) is None for client in debian.CLIENTS):
        pytest.skip("this machine has no packages of Debian's")
    # No source of packages, so that nothing is asked for over the network.
    empty = tmp_path / "apt.conf"
    empty.write_text(f'Dir::Etc "{tmp_path}";\nDir::State::Lists "{tmp_path}/lists";\n')
    before = os.environ.get("APT_CONFIG")
    os.environ["APT_CONFIG"] = str(empty)
    try:
        with pytest.raises(debian.Unavailable, match="no-such-package could not be fetched"):
            debian.fetch("no-such-package", tmp_path / "tools")
    finally:
        os.environ.pop("APT_CONFIG")
        if before is not None:
            os.environ["APT_CONFIG"] = before
    assert not list((tmp_path / "tools").glob("no-such-package*"))


def test_what_was_fetched_runs() -> None:
    told = subprocess.run(
        [debian.needed("promtool"), "--version"], check=True, capture_output=True, text=True, timeout=20
    )
    assert "promtool, version" in told.stdout + told.stderr
