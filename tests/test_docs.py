"""The documents cannot drift from the code: commands exist, links lead somewhere, examples are accepted.

Rules:
- A YAML block with `backends:` at its top is a config file and must pass `gateway check`. Environment it needs is
  named in the info string: ```yaml check env=VLLM_KEY=x env=OTHER=y
- `certificate=/etc/x` there stands for a folder that holds `tls.crt` and `tls.key`.
- A Python block must compile; `await` at its top level is fine.
- No file names a package registry or a place on one developer's machine.
"""

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from gateway.__main__ import main
from tests.certificates import pair

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {".git", ".venv", "__pycache__", "build", "dist", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
SKIPPED |= {".hypothesis", ".engines", ".bench", ".tools", ".clients", "node_modules", ".image"}
LARGE = 1 << 20

REGISTRIES = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npm" + "js.org", "deb." + "debian.org")
MACHINE = re.compile(
    r"(?<![\w.$}/-])/(?:"
    r"work/(?:main|shared)|opt/(?:wheels|pypi)|Users/\w+|home/\w+/|tmp/brief"
    r"|root/(?!\.cache\b|\.ollama\b))"  # where the images of vLLM and Ollama keep their models
)

FENCE = re.compile(
    r"^(?P<mark>`{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=mark)[ ]*$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(
    r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)"
)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
MAKE = re.compile(r"(?:^|&&|;|\$)\s*make((?:[ ]+[^\s;&|#]+)*)", re.MULTILINE)
TARGET = re.compile(r"^([a-z][a-z-]*):(?!=)", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a document."""

    place: str
    info: str
    text: str


def title(path: object) -> str:
    return path.relative_to(ROOT).as_posix() if isinstance(path, Path) else str(path)


def blocks(path: Path, language: str) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        words = match["info"].split()
        if words and words[0] == language:
            line = text.count("\n", 0, match.start()) + 1
            yield Block(f"{title(path)}:{line}", match["info"], match["text"])


def every(language: str) -> list[Block]:
    return [block for path in documents() for block in blocks(path, language)]


def text_files() -> Iterator[tuple[Path, str]]:
    for folder, inner, names in os.walk(ROOT):
        inner[:] = [name for name in inner if name not in SKIPPED and not name.endswith(".egg-info")]
        for name in names:
            path = Path(folder, name)
            # In a worktree of git, `.git` is a file.
            if name not in SKIPPED and path.is_file() and path.stat().st_size <= LARGE:
                try:
                    yield path, path.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    continue


def documents() -> list[Path]:
    return sorted(path for path, _ in text_files() if path.suffix == ".md")


def make_targets_named(text: str) -> set[str]:
    """Targets of every `make …` in fenced blocks and in code spans."""
    fenced = [match["text"] for match in FENCE.finditer(text)]
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    words = [word for code in fenced + spans for call in MAKE.findall(code) for word in call.split()]
    return {word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)}


def anchors(text: str) -> set[str]:
    """Return the fragments of a document's headings, as code hosts derive them."""
    found: dict[str, int] = {}
    names = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def dead_links(path: Path, text: str) -> Iterator[str]:
    for match in LINK.finditer(FENCE.sub("", text)):
        target = match["target"] or match["image"]
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        file, _, fragment = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if not there.is_relative_to(ROOT):
            yield f"{title(path)}: {target} leads out of the repository"
        elif not there.exists():
            yield f"{title(path)}: {target} does not exist"
        elif fragment and there.suffix == ".md":
            own = text if there == path else there.read_text(encoding="utf-8")
            if fragment not in anchors(own):
                yield f"{title(path)}: {target}: no such heading"


def is_config(text: str) -> bool:
    """Whether this YAML is meant as a gateway config: what cannot be parsed but says `backends:` counts too."""
    try:
        return "backends" in (yaml.safe_load(text) or {})
    except (yaml.YAMLError, TypeError):
        return bool(re.search(r"^backends:", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"])
def test_document_exists(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("path", documents(), ids=title)
def test_make_targets_exist(path: Path) -> None:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    assert {"help", "install", "run", "check", "test"} <= targets
    assert make_targets_named(path.read_text(encoding="utf-8")) <= targets


@pytest.mark.parametrize("path", documents(), ids=title)
def test_links_lead_somewhere(path: Path) -> None:
    assert list(dead_links(path, path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "block",
    # A block with a title is a file of an example with a test of its own.
    [block for block in every("yaml") if is_config(block.text) and "title=" not in block.info],
    ids=lambda block: block.place,
)
def test_config_examples_are_accepted(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    for word in block.info.split():
        if word.startswith("env="):
            monkeypatch.setenv(*word[4:].split("=", 1))
        if word.startswith("certificate="):
            pair(tmp_path)
            file.write_text(block.text.replace(word.partition("=")[2], str(tmp_path)), encoding="utf-8")
    assert main(["check", str(file)]) == 0, capsys.readouterr()


@pytest.mark.parametrize("block", every("python"), ids=lambda block: block.place)
def test_python_examples_compile(block: Block) -> None:
    compile(block.text, block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_make_help_lists_every_command() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = next(line.split()[1:] for line in makefile.splitlines() if line.startswith(".PHONY:"))
    answer = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"^  make ([a-z-]+) ", answer.stdout, re.MULTILINE)) == set(commands)


def test_nothing_names_a_registry_or_one_machine() -> None:
    found = [
        f"{title(path)}:{number}: {line.strip()[:100]}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), start=1)
        if any(host in line for host in REGISTRIES) or (MACHINE.search(line) and path != Path(__file__))
    ]
    assert found == []


def test_extras_are_those_of_this_distribution() -> None:
    """Nobody is told to install another gateway, or an extra that does not exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        (match["name"], match["extra"])
        for _, text in text_files()
        for match in re.finditer(
            r"pip install '(?P<name>[\w.-]*gateway[\w.-]*)\\?\[(?P<extra>\w+)\\?\]'", text
        )
    }
    assert named == {(project["name"], extra) for extra in project["optional-dependencies"]}


def test_the_house_names_files_that_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\w+\.py", FENCE.search(text)["text"]))  # type: ignore[index]
    there = {path.name for part in ("gateway", "backends") for path in (ROOT / part).rglob("*.py")}
    assert len(named) > 100
    assert named - there == set()


def test_changelog_starts_with_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    headings = re.findall(
        r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert headings[0] == version


def test_the_checks_see_what_is_wrong() -> None:
    text = "# One `thing`\n\nRun `make nothing`, and make sure.\n\n```bash\nmake run CONFIG=x.yaml && make typo\n```\n"
    assert make_targets_named(text) == {"nothing", "run", "typo"}
    assert anchors(text) == {"one-thing"}
    links = "[a](gone.md) [b](#one-thing) [c](#two) [d](../out) [e](https://example.com) ![f](gone.png)"
    assert len(list(dead_links(ROOT / "CHANGELOG.md", text + links))) == 4
    assert is_config("backends: {a: b}")
    assert is_config("backends:\n  a: [")
    assert not is_config("services: {gateway: {image: x}}")
    assert not is_config("- backends-of-mine")
    assert MACHINE.search("see /work" + "/main/x")
    assert not MACHINE.search("cache:/root/.cache/huggingface and https://example.com/home/page")
