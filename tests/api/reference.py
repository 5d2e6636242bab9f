"""Writes what is made from the code in `docs/api.md`: the table of endpoints, and which engine can do what.

Rules:
- `python -m tests.api.reference` writes the page; a test fails as long as it is not what this module makes.
- Endpoints come from the table that serves them, engines from the registry.
"""

from __future__ import annotations

from pathlib import Path

from backends import registry
from backends.base import Operation
from backends.surfaces.codecs import CODECS, possible
from gateway.api.endpoints import ENDPOINTS, EVENTS, FORM, LINES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def page(text: str) -> str:
    """Return the page with its tables made anew."""
    for name, table in (("endpoints", _endpoints()), ("engines", _engines())):
        begin = f"<!-- {name}: made by `python -m tests.api.reference` -->\n"
        end = f"<!-- end of {name} -->\n"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def _endpoints() -> str:
    rows = ["| POST | operation | what comes back | asked with | streams |", "|---|---|---|---|---|"]
    for endpoint in ENDPOINTS:
        first, *others = (f"`{path}`" for path in endpoint.paths)
        paths = first + (f", also {', '.join(others)}" if others else "")
        asked = "a form" if endpoint.takes == FORM else "JSON"
        streams = "yes" if {EVENTS, LINES} & set(endpoint.gives) else "no"
        rows.append(f"| {paths} | `{endpoint.operation}` | {endpoint.title} | {asked} | {streams} |")
    return "\n".join(rows) + "\n"


def _engines() -> str:
    names = [name for name in registry.names() if name in registry.ENGINES]
    rows = [f"| operation | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for operation in Operation:
        able = (_how(operation, registry.engine(name).operations) for name in names)
        rows.append(f"| `{operation}` | {' | '.join(able)} |")
    return "\n".join(rows) + "\n"


def _how(operation: Operation, native: frozenset[Operation]) -> str:
    """Return how an engine with the operations `native` is asked for one."""
    if operation in native:
        return "✓"
    if operation in possible(native):
        return f"by `{CODECS[operation].said_as}`"
    return "estimate" if operation is Operation.COUNT_TOKENS else "–"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
