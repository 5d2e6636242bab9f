"""Programs that tests need and PyPI does not have: on this machine already, or out of Debian's packages.

Rules:
- Nothing outside the checkout is written, and nobody needs to be root: a package is fetched and unpacked into
  `.tools/`, not installed.
- What is on the PATH is taken; what `.tools/` has already is left alone.
- Tests never fetch. `make tools` does, which `.ci/run` calls, and `make test` where it can. A program that is not
  there skips the tests that need it, and says why; where `REQUIRE_TOOLS` is set, as `.ci/run` sets it, they fail.
- A machine that cannot have Debian's packages is no error of `make test`: with `--optional` that is only said.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
HOME: Final = ROOT / ".tools"
INSTALLED: Final = Path("/")
"""Where packages are that are installed."""
PACKAGES: Final = {
    "prometheus": ("usr/bin/prometheus", "usr/bin/promtool"),
    "postgresql-15": ("usr/lib/postgresql/15/bin/initdb", "usr/lib/postgresql/15/bin/postgres"),
}
"""Debian's packages, each with the programs that are wanted of it, and where they are."""
REQUIRED: Final = "REQUIRE_TOOLS"
"""The environment variable that makes a missing program a failure."""
CLIENTS: Final = ("apt-get", "dpkg-deb")
LIMIT: Final = 300.0
"""Seconds that one command of the package client may take."""


class Unavailable(Exception):
    """A package cannot be had on this machine; the text says why."""


def find(program: str) -> Path | None:
    """Return where a program is: on the PATH, else in its package, installed or below `.tools/`; None elsewhere."""
    if found := shutil.which(program):
        return Path(found)
    for package, programs in PACKAGES.items():
        for place in (each for each in programs if Path(each).name == program):
            for root in (INSTALLED, HOME / package):
                if (root / place).exists():
                    return root / place
    return None


def needed(program: str) -> Path:
    """Return where a program is. Skip the test that needs it where it is not there, or fail it where none may skip."""
    found = find(program)
    if found is not None:
        return found
    reason = f"{program} is neither on the PATH nor below .tools: make tools"
    if os.environ.get(REQUIRED):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def fetch(package: str, home: Path = HOME) -> Path:
    """Unpack a package of Debian's below `home` and return where. Raises Unavailable."""
    missing = [client for client in CLIENTS if shutil.which(client) is None]
    if missing:
        raise Unavailable(f"this machine has no {' and no '.join(missing)}: Debian's packages cannot be had")
    downloads = home / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for old in downloads.glob(f"{package}_*"):
            old.unlink()
        try:
            _download(package, downloads, home)
            archive = next(downloads.glob(f"{package}_*.deb"))
            fresh = home / f"{package}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            _run(["dpkg-deb", "-x", str(archive), str(fresh)], home)
        except (subprocess.SubprocessError, StopIteration) as error:
            raise Unavailable(f"{package} could not be fetched ({error}); see {home / 'log'}") from error
        archive.unlink()
        shutil.rmtree(home / package, ignore_errors=True)
        fresh.rename(home / package)
    return home / package


def _download(package: str, downloads: Path, home: Path) -> None:
    """Fetch the archive, by the machine's own lists of packages or, where they are not there or old, by new ones."""
    state = home / "apt"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (state / "cache").mkdir(exist_ok=True)
    cache = ["-o", f"Dir::Cache={state / 'cache'}", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=3"]
    own = [*cache, "-o", f"Dir::State::Lists={state / 'lists'}"]
    try:
        _run(["apt-get", *cache, "download", package], home, downloads)
    except subprocess.CalledProcessError:
        _run(["apt-get", *own, "update"], home)
        _run(["apt-get", *own, "download", package], home, downloads)
    finally:
        shutil.rmtree(state)


def _run(command: list[str], home: Path, folder: Path | None = None) -> None:
    with (home / "log").open("a") as log:
        print("$", *command, file=log, flush=True)
        subprocess.run(
            command,
            check=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )


def main(arguments: list[str] | None = None) -> int:
    """Fetch what is not there. Return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--optional", action="store_true", help="exit with 0 where a package cannot be had")
    options = parser.parse_args(arguments)
    for package, places in PACKAGES.items():
        programs = [Path(each).name for each in places]
        if all(map(find, programs)):
            continue
        print(f"Fetching Debian's {package} into .tools/{package} (once)", flush=True)
        try:
            place = fetch(package)
        except Unavailable as error:
            print(
                f"{error}. The tests that need {' or '.join(programs)} are skipped",
                file=sys.stderr,
                flush=True,
            )
            if not options.optional:
                return 1
        else:
            print(f"Fetched: {', '.join(str((place / each).relative_to(ROOT)) for each in places)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
