"""What a query of Prometheus asks for: the metrics in it, and whether this program emits them.

Rules:
- The families in the code are the only list of what is emitted; Prometheus' own series are named here.
- A name is looked for where a selector may stand: not in texts, and not among labels.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from gateway.telemetry.metrics import Metrics

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = sorted((ROOT / "docker" / "prometheus" / "rules").glob("*.yml"))
OF_PROMETHEUS: Final = frozenset({"up", "ALERTS"})
"""What Prometheus adds of itself."""
_PARTS: Final = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
_UNSAID: Final = re.compile(
    r'"(?:[^"\\]|\\.)*"|\{[^{}]*\}|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)'
)
"""What holds labels and texts: label matchers and lists of labels. (A text may hold braces, so texts go first.)"""
_NAME: Final = re.compile(r"(?<![\w:$.])[a-zA-Z_][\w:]*(?!\s*\()(?![\w:])")
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset", "by", "on", "inf", "nan", "Inf", "NaN"})


def families() -> dict[str, str]:
    """Return the names of all series that the gateway emits, each with the name of its family as it is documented."""
    found: dict[str, str] = {}
    metrics = Metrics("0")
    for family in metrics.families:
        parts = _PARTS[family.kind]
        found |= dict.fromkeys(
            (family.name + part for part in parts), family.name + (parts[0] if len(parts) == 1 else "")
        )
    page = "".join(metrics.pieces())
    for name in re.findall(r"^# TYPE ((?:process|python)_\w+) ", page, re.MULTILINE):
        found[name] = name
    return found


def labels() -> dict[str, tuple[str, ...]]:
    """Return the labels of each family of the gateway, by its documented name."""
    return {
        family.name + ("_total" if family.kind == "counter" else ""): family.labels
        for family in Metrics("0").families
    }


def asked(query: str) -> set[str]:
    """Return the names of the series that a query asks for."""
    bare = _UNSAID.sub(" ", re.sub(r'"(?:[^"\\]|\\.)*"', '""', query))
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    return {name for name in _NAME.findall(bare) if name not in _WORDS and not re.fullmatch(r"\d\w*", name)}


def rules() -> list[dict[str, Any]]:
    """Return all rules of `docker/prometheus/rules`, in order."""
    found = []
    for file in RULES:
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
            found += group["rules"]
    return found


def recorded() -> set[str]:
    """Return the names that recording rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alert rules by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}
