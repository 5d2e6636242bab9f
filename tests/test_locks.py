"""The locks agree with pyproject.toml, and hold nothing but names, versions, markers and hashes.

Rules:
- What a lock pins satisfies what pyproject.toml asks for; `make lock` is the cure for every failure here.
- Everything that the locks of the runtime and of compiling install, the development lock installs at the same version.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ]+)(?: ; (?P<marker>[^\\]+))? \\$", re.MULTILINE)
LINE = re.compile(r" +--hash=sha256:[0-9a-f]{64}(?: \\)?| *#.*|")

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIME = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["project"]["optional-dependencies"]["llamacpp"],
    *PROJECT["dependency-groups"]["build"],
]
WANTED = {
    "runtime.txt": RUNTIME,
    "dev.txt": [*RUNTIME, *PROJECT["dependency-groups"]["dev"]],
    "image.txt": [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["llamacpp"],
        *PROJECT["project"]["optional-dependencies"]["otel"],
    ],
    "compile.txt": [*PROJECT["dependency-groups"]["build"], *PROJECT["dependency-groups"]["compile"]],
    "lock.txt": PROJECT["dependency-groups"]["lock"],
}


def pins(lock: Path) -> dict[str, set[str]]:
    """Pinned versions by name; more than one where markers tell them apart."""
    found: dict[str, set[str]] = {}
    for match in PIN.finditer(lock.read_text(encoding="utf-8")):
        found.setdefault(match["name"], set()).add(match["version"])
    return found


def test_every_lock_is_known() -> None:
    assert {lock.name for lock in LOCKS} == WANTED.keys()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_satisfies_the_project(lock: Path) -> None:
    pinned = pins(lock)
    for requirement in map(Requirement, WANTED[lock.name]):
        versions = pinned.get(canonicalize_name(requirement.name), set())
        assert versions, f"{lock.name} does not pin {requirement.name}: run make lock KEEP=1"
        assert all(map(requirement.specifier.contains, versions)), (
            f"{requirement}, but {lock.name} pins {versions}"
        )


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_holds_pins_and_hashes_only(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    strange = [line for line in text.splitlines() if not PIN.fullmatch(line) and not LINE.fullmatch(line)]
    assert not strange
    assert "://" not in text
    for block in PIN.split(text)[4::4]:
        assert "--hash=sha256:" in block


@pytest.mark.parametrize("lock", ["runtime.txt", "image.txt", "compile.txt"])
def test_development_uses_the_same_versions(lock: str) -> None:
    part, development = (pins(ROOT / "locks" / name) for name in (lock, "dev.txt"))
    assert part.items() <= development.items()


def test_build_backend_is_the_locked_one() -> None:
    assert PROJECT["build-system"]["requires"] == PROJECT["dependency-groups"]["build"]
