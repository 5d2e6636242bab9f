"""docker/Dockerfile and what goes into it, as far as it shows without a build; `make image` builds it and runs it."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from gateway.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


class Step(NamedTuple):
    """An instruction of the Dockerfile."""

    stage: str
    word: str
    rest: str


def steps() -> list[Step]:
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    found, stage = [], ""
    for line in filter(str.strip, lines.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[1]
        found.append(Step(stage, word, " ".join(rest.split())))
    return found


STEPS = steps()


def last(stage: str, word: str) -> str:
    return [step.rest for step in STEPS if step.stage == stage and step.word == word][-1]


def copied() -> set[str]:
    """Return what the build takes from the checkout."""
    lines = [step.rest for step in STEPS if step.word == "COPY" and not step.rest.startswith("--from")]
    return {source for line in lines for source in line.split()[:-1]}


def ignored(path: str) -> bool:
    """Return whether .dockerignore keeps a file out: its last line that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = [path, *map(str, Path(path).parents)][:-1]
        if pattern.startswith("**/"):
            fits = any(fnmatch.fnmatch(Path(part).name, pattern[3:]) for part in parts)
        else:
            fits = any(fnmatch.fnmatch(part, pattern) for part in parts)
        out = not line.startswith("!") if fits else out
    return out


def test_stages() -> None:
    assert [step.stage for step in STEPS if step.word == "FROM"] == ["build", "gateway", "cpu"]


@pytest.mark.parametrize("stage", ["gateway", "cpu"])
def test_it_does_not_run_as_root(stage: str) -> None:
    assert last(stage, "USER") == "10001:10001"


def test_packages_are_locked_and_checked_by_their_hashes() -> None:
    runs = [step.rest for step in STEPS if step.word == "RUN"]
    installs = [
        part
        for run in runs
        for part in re.split("&&|;", run)
        if re.search(r"pip (.* )?(install|download) ", part)
    ]
    assert len(installs) == 5
    for part in installs:
        # What comes from the folder of packages was checked when it came there.
        assert "--require-hashes" in part or "--no-index" in part, part
    assert not any("apt-get" in run or "curl " in run or "wget " in run for run in runs)
    assert "GATEWAY_COMPILE=1" in " ".join(runs)


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    files = tracked.splitlines() or [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")]
    needed = copied()
    for path in needed:
        assert (ROOT / path).exists(), path
        assert not ignored(path), path
    parts = {path: {path, *map(str, Path(path).parents)} for path in files}
    assert {path for path in files if not ignored(path)} <= {path for path in files if parts[path] & needed}
    assert ignored("docker/.env") and ignored(".git/config") and ignored("gateway/api/__pycache__/x.pyc")
    assert ignored("gateway/wire/relay.cpython-311-x86_64-linux-gnu.so") and not ignored(
        "gateway/wire/relay.py"
    )


def test_the_wheel_is_made_of_what_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {project["project"]["readme"], *project["project"]["license-files"], "setup.py"} <= copied()
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= copied()


def test_its_demo_needs_a_key_and_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (DOCKER / "demo.yaml").read_text(encoding="utf-8")
    model = yaml.safe_load(text)["backends"]["local"]["launch"]["model"]
    assert f"models/demo.gguf {model}" in [step.rest for step in STEPS if step.word == "COPY"]
    file = tmp_path / "gateway.yaml"
    file.write_text(text.replace(model, str(ROOT / "models" / "demo.gguf")))
    monkeypatch.delenv("GATEWAY_KEY", raising=False)
    assert main(["check", str(file)]) == 1
    assert "GATEWAY_KEY" in capsys.readouterr().err
    monkeypatch.setenv("GATEWAY_KEY", "gw-of-a-test")
    assert main(["check", str(file)]) == 0, capsys.readouterr()
