"""Writes the tables of docs/engines.md: `python -m tests.conformance.page`. What they say is what the code says.

Rules:
- A row for each engine of the registry; how it was tried comes from `engines.py`, and so does what it does otherwise.
- What nothing shows comes from `unproven.py`. What engines measure comes from their tables and from recorded pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backends import registry
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.of_engines import LOAD
from tests.conformance import measured
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
    tables = {"engines": _engines, "measured": _measured, "otherwise": _otherwise, "unproven": _unproven}
    for name, lines in tables.items():
        before, begin, rest = text.partition(f"<!-- {name}: made by `python -m tests.conformance.page` -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->\n")
        text = "".join([before, begin, "\n", *(f"{line}\n" for line in lines()), "\n", end, after])
    return text


def _engines() -> Iterator[str]:
    yield "| engine | launched | facts checked against | tried on | operators can |"
    yield "|---|---|---|---|---|"
    for name in registry.ENGINES:
        engine = registry.engine(name)
        launched = "yes" if engine.launch_options else "no"
        actions = ", ".join(sorted(engine.actions)) or "–"
        yield f"| `{name}` | {launched} | {engine.checked} | {TRIED[ENGINES[name].proof]} | {actions} |"


def _measured() -> Iterator[str]:
    yield "| metric | engine | its own name | seen |"
    yield "|---|---|---|---|"
    # A page that was written from source shows nothing.
    for signal, (metric, _) in LOAD.items():
        tells = [name for name in registry.ENGINES if signal in measured.signals(name)]
        shown = {name for name in measured.PAGES if "signals" not in ENGINES[name].instead}
        unseen = [f"`{name}`" for name in tells if name not in shown]
        seen = f"✓, but {', '.join(unseen)}: source" if unseen else "✓"
        names = ", ".join(f"`{name}`" for name in tells)
        yield f"| `gateway_backend_{metric}` | {names} | as the signal `{signal}` | {seen} |"
    rows = [
        (told.metric, engine.name, told) for engine in measured.engines() for told in measured.told(engine)
    ]
    order = list(dict.fromkeys(family.name for family in Metrics("").topics["Engines"]))
    for metric, engine, told in sorted(rows, key=lambda row: order.index(_family(row[0]))):
        names = ", ".join(f"`{name}` ({versions})" for name, versions in told.names)
        yield f"| `gateway_backend_{metric}` | `{engine}` | {names} | {'✓' if told.seen else 'source'} |"


def _family(metric: str) -> str:
    return "gateway_backend_" + metric.removesuffix("_total")


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
