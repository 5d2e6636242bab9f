"""A writer of the tables in `docs/metrics.md`, from the families in the code.

Rules:
- `python -m tests.telemetry.reference` writes them; a test fails as long as they are not what this module makes.
- Every name, type, label and meaning comes from the families, so the tables cannot say anything else than the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.telemetry.families import AnyFamily
from gateway.telemetry.metrics import Metrics

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
BEGIN = "<!-- reference: made by `python -m tests.telemetry.reference` -->\n"
END = "<!-- end of reference -->\n"


def page(text: str) -> str:
    """Return the page with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = "\n".join(_sections())
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def _sections() -> Iterator[str]:
    for title, families in Metrics("").topics.items():
        yield f"### {title}\n"
        yield "| metric | type | labels | meaning |\n|---|---|---|---|\n" + "".join(map(_row, families))


def _row(family: AnyFamily) -> str:
    name = family.name + ("_total" if family.kind == "counter" else "")
    labels = ", ".join(family.labels)
    return f"| `{name}` | {family.kind} |{f' {labels}' if labels else ''} | {family.help} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
