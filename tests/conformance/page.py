"""Writes the tables of docs/engines.md: `python -m tests.conformance.page`. What they say is what the code says.

Rules:
- A row for each engine of the registry; how it was tried comes from `engines.py`, and so does what it does otherwise.
- What nothing shows comes from `unproven.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backends import registry
from tests.conformance.engines import ENGINES, Proof
from tests.conformance.unproven import UNPROVEN

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engines.md"
TRIED = {
    Proof.HERE: "the real engine, in every test run",
    Proof.ENGINES: "the real engine, by `make test-engines`",
    Proof.SERVERS: "the real server with a scripted model, by `make test-engines`",
    Proof.RECORDED: "replies recorded from the real server with a scripted model",
    Proof.RECORDINGS: "replies written from its source",
}


def page(text: str) -> str:
    """Return the page with its tables made anew."""
    for name, lines in (("engines", _engines()), ("otherwise", _otherwise()), ("unproven", _unproven())):
        before, begin, rest = text.partition(f"<!-- {name}: made by `python -m tests.conformance.page` -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->\n")
        text = "".join([before, begin, "\n", *(f"{line}\n" for line in lines), "\n", end, after])
    return text


def _engines() -> Iterator[str]:
    yield "| engine | launched | facts checked against | tried on | operators can |"
    yield "|---|---|---|---|---|"
    for name in registry.ENGINES:
        engine = registry.engine(name)
        launched = "yes" if engine.launch_options else "no"
        actions = ", ".join(sorted(engine.actions)) or "–"
        yield f"| `{name}` | {launched} | {engine.checked} | {TRIED[ENGINES[name].proof]} | {actions} |"


def _otherwise() -> Iterator[str]:
    yield "| engine | check | why |"
    yield "|---|---|---|"
    for name, row in ENGINES.items():
        reasons: dict[str, list[str]] = {}
        for check, instead in row.instead.items():
            reasons.setdefault(instead.why, []).append(f"`{check}`")
        for why, checks in reasons.items():
            yield f"| `{name}` | {', '.join(checks)} | {why} |"


def _unproven() -> Iterator[str]:
    yield "| engine | check | why |"
    yield "|---|---|---|"
    for name, table in UNPROVEN.items():
        reasons: dict[str, list[str]] = {}
        for check, why in table.items():
            reasons.setdefault(why, []).append(f"`{check}`")
        for why, checks in reasons.items():
            yield f"| `{name}` | {', '.join(checks)} | {why} |"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
