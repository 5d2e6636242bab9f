"""Writes docs/clients.md from what the tests of the clients came to: `python -m tests.clients.page RESULTS.xml...`.

Rules:
- RESULTS is what pytest writes with `--junitxml`. Only a test that passed is shown; nothing is written by hand.
- The page is written only where every client was run: one that could not be installed, or failed, is said instead.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.clients.declared import CLIENTS, WAYS, WRONG_KEY, WRONG_MODEL, Client

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "clients.md"
BEGINNING = """# Clients

Which clients were run against the gateway, unmodified and each in an environment of its own, and what that showed.
`make test-clients` makes this page from the results of the tests: it installs the clients, and Node for those that
need it, below `.clients/`, and runs them. Debian's `chromium` must be there. Clients marked \\* are large, and only
this command runs them; `make test` runs the others.

"""
CHECKS = f"""
## The same checks for each

Every check was run twice: once with an engine that speaks the client's dialect itself, so that bytes pass, and once
with one for which it is translated. Bytes passed to a real llama.cpp with the demo model (`responses`, `messages`) or
to a scripted server (`chat`, `ollama`). Translated were chats to Ollama's API, everything else to OpenAI's chat.
`gemini`, which no engine speaks, was translated both times: at llama.cpp, then at the scripted server. What the demo
model (no tools) or Ollama's API (no forced tool) cannot do was not asked of them. `{WRONG_MODEL}` and
`{WRONG_KEY}` end in an exception of the client's own, which is named, with the gateway's message in it.

"""
OTHERS = """
## Sessions of their own

Those of OpenAI's SDK for Python and of LangChain for OpenAI run in the environment of the tests, with the versions in
`locks/dev.txt`.

"""


class Ran(NamedTuple):
    """A test that was run: the id below `tests/clients/`, and what became of it (passed, skipped or failed)."""

    id: str
    outcome: str


def read(results: Path) -> list[Ran]:
    """Return the tests in a file of results."""
    found = []
    for case in ET.parse(results).getroot().iter("testcase"):
        file = case.get("classname", "").rpartition("clients.")[2].partition(".")[0]
        bad = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = "skipped" if bad == {"skipped"} else "failed" if bad else "passed"
        found.append(Ran(f"{file}.py::{case.get('name')}", outcome))
    return found


def proofs(client: Client, ran: list[Ran]) -> list[Ran]:
    """Return the tests of a client."""
    return [one for one in ran if any(one.id.startswith(begin) for begin in client.proofs)]


def missing(ran: list[Ran]) -> list[str]:
    """Return what keeps the page from being written, by client."""
    found = []
    for client in CLIENTS:
        own = proofs(client, ran)
        if not own:
            found.append(f"{client.name}: no test of it was run")
        found += [f"{client.name}: {one.id} {one.outcome}" for one in own if one.outcome != "passed"]
    return found


def page(ran: list[Ran]) -> str:
    """Return the page. Every client must have passed."""
    tables = ["\n".join(table) for table in (_versions(), _checks(), _sessions(ran))]
    return f"{BEGINNING}{tables[0]}\n{CHECKS}{tables[1]}\n{OTHERS}{tables[2]}\n"


def shown(client: Client) -> str:
    """Return a client's name as the page has it."""
    return client.name + (" \\*" if client.heavy else "")


def _versions() -> Iterator[str]:
    yield "| client | version | from |"
    yield "|---|---|---|"
    for client in CLIENTS:
        packages = ", ".join(f"`{package}`" for package in client.packages) or "whatever is installed"
        yield f"| {shown(client)} | {packages} | {client.source} |"


def _checks() -> Iterator[str]:
    yield "| client | dialect | passed | translated | wrong model, wrong key |"
    yield "|---|---|---|---|---|"
    for client in CLIENTS:
        for dialect in client.dialects:
            columns = [
                ", ".join(
                    one for one in client.checked(dialect, model) if one not in (WRONG_MODEL, WRONG_KEY)
                )
                for model in WAYS[dialect]
            ]
            errors = [f"`{of[dialect]}`" for of in (client.wrong_model, client.wrong_key) if dialect in of]
            yield f"| {shown(client)} | `{dialect}` | {' | '.join(columns)} | {', '.join(errors)} |"


def _sessions(ran: list[Ran]) -> Iterator[str]:
    yield "| client | what its tests showed |"
    yield "|---|---|"
    for client in CLIENTS:
        if not client.tests:
            continue
        # Tests end in an order that changes from run to run.
        own = sorted(one for one in ran if one.id.startswith(client.tests))
        said = dict.fromkeys(_words(one.id) for one in own if one.outcome == "passed")
        yield f"| {shown(client)} | {'; '.join(said)} |"


def _words(test: str) -> str:
    """Return the name of a test as words, with what it was run for."""
    name, _, of = test.partition("::")[2].partition("[")
    words = name.removeprefix("test_").replace("_", " ")
    cases = re.sub(r"[-_]", " ", of.removesuffix("]"))
    # Values that were tried are no words; the test's name says what they were for.
    return f"{words} ({cases})" if cases.replace(" ", "").isalpha() else words


def main(*results: Path) -> int:
    """Write the page from one run or several, of which the last of each test counts. Return the exit status."""
    ran = list({one.id: one for result in results for one in read(result)}.values())
    if lacking := missing(ran):
        sys.stderr.write("docs/clients.md is left as it was:\n" + "".join(f"  {line}\n" for line in lacking))
        return 1
    PAGE.write_text(page(ran), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
