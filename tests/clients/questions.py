"""The demo model's questions (models/training/questions.yaml) with what a right answer must contain."""

from __future__ import annotations

from typing import NamedTuple

import yaml

from tests.clients.process import ROOT


class Entry(NamedTuple):
    """One question."""

    question: str
    expected: tuple[str, ...]

    def missing_in(self, answer: str) -> list[str]:
        """Return the parts of a right answer that this one lacks."""
        return [part for part in self.expected if part not in answer]


def _read() -> list[Entry]:
    rows = yaml.safe_load((ROOT / "models" / "training" / "questions.yaml").read_text(encoding="utf-8"))[
        "questions"
    ]
    return [
        Entry(
            row["question"], (expected,) if isinstance(expected := row["expected"], str) else tuple(expected)
        )
        for row in rows
    ]


QUESTIONS = _read()
