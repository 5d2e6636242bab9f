"""What the programs share that run a client in an environment of its own: the ways to ask, and what is told of them.

Rules:
- Only Python's own library is imported: each program runs with the packages of its client and nothing else.
- A program says how its client carries out a check; which checks are run, and whether what came is right, is the
  business of the test that started it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

NO_MODEL = "no-such-model"
WRONG_KEY = "sk-wrong"
HELLO = "What is this gateway?"
WEATHER = "What is the weather in Oslo?"
CHOOSE = "Choose an engine."
SUNNY = "sunny in Oslo"
"""What the tool says of the weather."""


class Way(NamedTuple):
    """How a client asks: at which URL (without a path), with which key, in which dialect, for which model."""

    url: str
    key: str
    dialect: str
    model: str


Checks = Mapping[str, Callable[[], Any]]
"""What each check does, by its name. What it returns can be written as JSON."""


def tell(checks: Callable[[Way], Checks]) -> None:
    """Run the checks that `WAYS` asks for; write what each returned or raised as one line of JSON."""
    found = []
    for way in json.loads(os.environ["WAYS"]):
        asked = Way(os.environ["GATEWAY"], os.environ["KEY"], way["dialect"], way["model"])
        found.append({name: _told(checks, asked, name) for name in way["checks"]})
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def _told(checks: Callable[[Way], Checks], way: Way, name: str) -> dict[str, Any]:
    """Return what a check returned, or the class and the text of what it raised."""
    wrong = {
        "wrong model": way._replace(model=NO_MODEL),
        "wrong key": way._replace(key=WRONG_KEY),
    }
    try:
        if name in wrong:
            return {"said": checks(wrong[name])["whole answer"]()}
        return {"said": checks(way)[name]()}
    except Exception as error:
        return {"raised": type(error).__name__, "text": str(error)}
