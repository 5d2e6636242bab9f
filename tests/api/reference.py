"""Writes what is made from the code in `docs/api.md`: the table of endpoints, and which engine can do what.

Rules:
- `python -m tests.api.reference` writes the page; a test fails as long as it is not what this module makes.
- Endpoints come from the table that serves them, engines from the registry, reasons from the conformance checks.
"""

from __future__ import annotations

from pathlib import Path

from backends import registry
from backends.base import Operation
from backends.surfaces.codecs import CODECS, possible
from backends.surfaces.dialects import surface_of
from gateway.api.endpoints import ENDPOINTS, EVENTS, FORM, LINES
from gateway.api.ollama_models import PATHS as OLLAMA_FILES
from tests.conformance.engines import ENGINES

DIALECTS = {"openai": "OpenAI", "anthropic": "Anthropic", "ollama": "Ollama", "gemini": "Gemini"}
"""The dialects of clients; what engines' own paths ask is in OpenAI's errors too."""
ESTIMATED = (Operation.COUNT_TOKENS, Operation.INPUT_TOKENS, Operation.GEMINI_COUNT_TOKENS)
NO_API = "no such path of its server is known"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def page(text: str) -> str:
    """Return the page with its tables made anew."""
    for name, table in (("endpoints", _endpoints()), ("engines", _engines()), ("reasons", _reasons())):
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
    rows = [f"| dialect | operation | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for operation in Operation:
        able = (_how(operation, registry.engine(name).operations) for name in names)
        rows.append(f"| {DIALECTS[surface_of(operation).name]} | `{operation}` | {' | '.join(able)} |")
    files = ("✓" if registry.engine(name).model_files else "–" for name in names)
    paths = ", ".join(f"`{path}`" for path in OLLAMA_FILES)
    rows.append(f"| {DIALECTS['ollama']} | {paths}, `/api/blobs` | {' | '.join(files)} |")
    return "\n".join(rows) + "\n"


def _reasons() -> str:
    """Return why engines lack operations: as their rows in the conformance checks say it, else that there is no API."""
    rows = ["| operation | engines | why not |", "|---|---|---|"]
    for operation in Operation:
        why: dict[str, list[str]] = {}
        for name in registry.ENGINES:
            if _how(operation, registry.engine(name).operations) == "–":
                why.setdefault(_reason(operation, name), []).append(f"`{name}`")
        rows += [f"| `{operation}` | {', '.join(found)} | {reason} |" for reason, found in why.items()]
    return "\n".join(rows) + "\n"


def _reason(operation: Operation, name: str) -> str:
    """Return why an engine lacks an operation."""
    codec = CODECS.get(operation)
    meant = operation if codec is None else codec.said_as
    instead = ENGINES[name].instead.get(meant.value)
    return NO_API if instead is None else instead.why


def _how(operation: Operation, native: frozenset[Operation]) -> str:
    """Return how an engine with the operations `native` is asked for one."""
    if operation in native:
        return "✓"
    if operation in possible(native):
        return f"by `{CODECS[operation].said_as}`"
    return "estimate" if operation in ESTIMATED else "–"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
