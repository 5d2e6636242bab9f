"""The repository's own machinery is whole: workflows, templates and dependency updates agree with the rest of it.

Rules:
- What a workflow runs exists: phases of `.ci/run`, targets of the Makefile, folders that are to be kept up to date.
- A workflow may read the repository and nothing else, unless a job says so; it always has a time limit.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_docs import TARGET, make_targets_named

ROOT = Path(__file__).resolve().parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

PHASE = re.compile(r"^phase (\S+) make ([a-z-]+)", re.MULTILINE)
ACTION = re.compile(r"[\w.-]+/[\w./-]+@v\d+(?:\.\d+){0,2}")
CLASSIFIER = re.compile(r"Programming Language :: Python :: (3\.\d+)")
FORM_FIELDS = {"input", "textarea", "dropdown", "checkboxes"}


def read(path: Path) -> dict[Any, Any]:
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict), path
    return value


def makefile_targets() -> set[str]:
    return set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))


def phases() -> dict[str, str]:
    """Return the phases of `.ci/run`, each with the target it runs."""
    return dict(PHASE.findall((ROOT / ".ci" / "run").read_text(encoding="utf-8")))


def steps(workflow: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def pythons_of_the_package() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [match[1] for line in project["classifiers"] if (match := CLASSIFIER.fullmatch(line))]


def test_ci_runs_on_every_python_that_the_package_names() -> None:
    matrix = read(GITHUB / "workflows" / "ci.yml")["jobs"]["check"]["strategy"]["matrix"]
    assert matrix["python"] == pythons_of_the_package()


def test_ci_runs_every_phase_and_no_other() -> None:
    calls = [
        step["run"].split()[1:]
        for step in steps(read(GITHUB / "workflows" / "ci.yml"))
        if step.get("run", "").startswith(".ci/run")
    ]
    assert all(calls), "a call without a phase would run all of them"
    assert {phase for call in calls for phase in call} == phases().keys()
    assert set(phases().values()) <= makefile_targets()


def test_a_phase_that_does_not_exist_is_refused() -> None:
    answer = subprocess.run([ROOT / ".ci" / "run", "typo"], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "asked for typo" in answer.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_careful(path: Path) -> None:
    workflow = read(path)
    # YAML reads the key `on` as a truth value.
    assert workflow[True]
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 90
        assert not job["runs-on"].endswith("-latest")
        writes = job.get("permissions", {}).get("contents") == "write"
        for step in job["steps"]:
            assert ACTION.fullmatch(step.get("uses", "a/b@v1")), step
            if step.get("uses", "").startswith("actions/checkout@") and not writes:
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_make_targets_of_workflows_exist(path: Path) -> None:
    scripts = "\n".join(f"```\n{step['run']}\n```" for step in steps(read(path)) if "run" in step)
    assert make_targets_named(scripts) <= makefile_targets()


@pytest.mark.parametrize("path", [*DOCUMENTS, *sorted(GITHUB.rglob("*.*"))], ids=lambda path: path.name)
def test_make_targets_of_texts_exist(path: Path) -> None:
    assert make_targets_named(path.read_text(encoding="utf-8")) <= makefile_targets()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_complete(path: Path) -> None:
    form = read(path)
    assert form["name"] and form["description"] and form["labels"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in fields} <= FORM_FIELDS
    assert all(part["attributes"]["label"] for part in fields)
    names = [part["id"] for part in fields]
    assert len(set(names)) == len(names)
    assert any(part.get("validations", {}).get("required") for part in fields)


def test_a_bug_is_asked_for_versions_config_and_request_id() -> None:
    assert "bug.yml" in {path.name for path in FORMS} and "feature.yml" in {path.name for path in FORMS}
    fields = {part.get("id") for part in read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    assert {"gateway", "system", "engines", "config", "request-id"} <= fields


def test_dependency_updates_have_something_to_update() -> None:
    updates = read(GITHUB / "dependabot.yml")
    assert updates["version"] == 2
    ecosystems = {update["package-ecosystem"]: update for update in updates["updates"]}
    assert ecosystems["github-actions"]["directory"] == "/"
    # The locks are resolved together from pyproject.toml, which no ecosystem of that service does.
    assert "pip" not in ecosystems and "uv" not in ecosystems
    assert any(step.get("run") == "make lock" for step in steps(read(GITHUB / "workflows" / "locks.yml")))


def test_nothing_in_the_repository_is_a_link() -> None:
    """A link that stands for an ignored folder (`.tools`, `.venv`) breaks every other checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modes = [line.split(maxsplit=1)[0] for line in listed.stdout.splitlines()]
    assert modes
    assert "120000" not in modes
