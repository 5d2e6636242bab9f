"""Which Python a program runs on: its version, how it was built, whether the gateway's hot modules are compiled.

    python -m bench.interpreter --hint    name a better build beside this one, in one line, or print nothing

Rules:
- Only the standard library is used, because `make install` runs this file before anything else is there.
- An interpreter is asked in a process of its own, so what is reported is what is measured.
- An interpreter that cannot be asked is passed over. Nothing here fails an install.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HOT = "gateway.wire.relay"
"""A module that is compiled wherever any is."""
OLDEST = (3, 11)
BESIDE = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")
"""Where systems keep interpreters, in addition to the folders of PATH."""
PATIENCE = 20.0
"""Seconds an interpreter has to answer."""

_NAME = re.compile(r"python3(?:\.\d+)?")
_PROBE = f"""
import importlib.util, json, sys, sysconfig
try:
    origin = importlib.util.find_spec({HOT!r}).origin
except (ImportError, AttributeError):
    origin = ""
names = "CONFIG_ARGS CFLAGS PY_CFLAGS PY_CORE_CFLAGS PGO_PROF_GEN_FLAG PGO_PROF_USE_FLAG".split()
print(json.dumps([
    list(sys.version_info[:3]),
    {{name: sysconfig.get_config_var(name) for name in names}},
    origin,
    all(map(importlib.util.find_spec, ("ensurepip", "venv"))),
]))
"""


@dataclass(frozen=True)
class Interpreter:
    """One Python interpreter."""

    path: str
    version: tuple[int, ...]
    profiled: bool | None
    """Whether it was built with profile-guided optimisation; None where its configuration does not tell."""
    compiled: bool
    """Whether it loads the gateway's hot modules as extension modules."""
    makes_environments: bool
    """Whether it has what `python -m venv` needs."""

    def __str__(self) -> str:
        """Describe the build in words, as the result page does."""
        build = {True: "with", False: "without", None: "perhaps with"}[self.profiled]
        modules = "compiled by mypyc" if self.compiled else "interpreted"
        number = ".".join(map(str, self.version))
        return (
            f"Python {number} built {build} profile-guided optimisation, the gateway's hot modules {modules}"
        )


def ask(python: str) -> Interpreter | None:
    """Ask the interpreter at this path; None if it does not answer."""
    try:
        answer = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, check=True, cwd=ROOT, timeout=PATIENCE
        )
        version, variables, origin, makes_environments = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    compiled = bool(origin) and not origin.endswith(".py")
    return Interpreter(python, tuple(version), is_profiled(variables), compiled, makes_environments)


def is_profiled(variables: dict[str, Any]) -> bool | None:
    """Tell from variables of `sysconfig` whether a build used a profile; None if they are not there.

    Debian and Ubuntu use one on their main architectures (changelog of the package: "Enable LTO/PGO builds") and then
    remove the flags from what `sysconfig` says. That leaves PGO_PROF_USE_FLAG empty, which no other build does:
    `configure` always fills it in, whether the flag is used or not.
    """
    if variables.get("CONFIG_ARGS") is None:
        return None
    flags = " ".join(str(variables.get(name)) for name in ("CFLAGS", "PY_CFLAGS", "PY_CORE_CFLAGS"))
    if "--enable-optimizations" in variables["CONFIG_ARGS"] or "-fprofile-use" in flags:
        return True
    return bool(variables.get("PGO_PROF_GEN_FLAG")) and variables.get("PGO_PROF_USE_FLAG") == ""


def better(mine: Interpreter, others: Sequence[Interpreter]) -> Interpreter | None:
    """Return the best of the `others` that are built with a profile, if `mine` is not; None if there is none.

    The same minor version comes before others, a newer one before an older one.
    """
    if mine.profiled is not False:
        return None
    usable = [
        other for other in others if other.profiled and other.makes_environments and other.version >= OLDEST
    ]
    return max(usable, key=lambda other: (other.version[:2] == mine.version[:2], other.version), default=None)


def beside() -> Iterator[Interpreter]:
    """Ask every interpreter in the usual folders, each once whatever its names."""
    # This process runs in a virtual environment, whose interpreter is a link to the one it was made with.
    seen = {os.path.realpath(sys.executable)}
    for folder in dict.fromkeys([*os.environ.get("PATH", "").split(os.pathsep), *BESIDE]):
        if folder.startswith(str(ROOT)) or not os.path.isdir(folder):
            continue
        for name in sorted(filter(_NAME.fullmatch, os.listdir(folder)), reverse=True):
            path = os.path.join(folder, name)
            target = os.path.realpath(path)
            if target in seen or _is_script(target):
                continue
            seen.add(target)
            if found := ask(path):
                yield found


def _is_script(path: str) -> bool:
    """Tell whether a file is a script: version managers put such in the place of each interpreter they might start."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return True


def hint() -> str:
    """Name a better build than the one that runs this, with how to use it; "" if there is none."""
    mine = ask(sys.executable)
    if mine is None or (best := better(mine, list(beside()) if mine.profiled is False else [])) is None:
        return ""
    return (
        f"Hint: this Python was built without profile-guided optimisation, which costs speed. {best.path} has it: "
        f"make clean install PYTHON={best.path}"
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--hint"]:
        if line := hint():
            print(line, file=sys.stderr)
    else:
        print(ask(sys.executable))
