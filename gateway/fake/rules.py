"""Find the rule of a script that a request meets, and count how often each was met.

Rules:
- The first rule that matches decides. A rule outside its `after` and `times` is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from gateway.fake.answers import GENERATING, Asked
from gateway.fake.script import Match, Rule, Script


class Rules:
    """The rules of one script, each with the number of requests that matched it."""

    def __init__(self, script: Script) -> None:
        self._rules = script.rules
        self._met = [0] * len(script.rules)

    def for_request(self, asked: Asked, headers: Mapping[str, str], body: bytes) -> int | None:
        """Return the index of the rule for this request, and count the request on it; None for no rule."""
        for index, rule in enumerate(self._rules):
            if not rule.on_accept and _fits(rule.match, asked, headers, body) and self._turn(index, rule):
                return index
        return None

    def for_connection(self) -> Rule | None:
        """Return the rule for a new connection, and count the connection on it; None for no rule."""
        for index, rule in enumerate(self._rules):
            if rule.on_accept and self._turn(index, rule):
                return rule
        return None

    def _turn(self, index: int, rule: Rule) -> bool:
        self._met[index] += 1
        late = rule.match.times is not None and self._met[index] > rule.match.after + rule.match.times
        return self._met[index] > rule.match.after and not late


def _fits(match: Match, asked: Asked, headers: Mapping[str, str], body: bytes) -> bool:
    if match.path is None:
        if asked.path not in GENERATING:
            return False
    elif not fnmatchcase(asked.path, match.path):
        return False
    return (
        (match.model is None or match.model == asked.model)
        and (match.stream is None or match.stream == asked.stream)
        and all(headers.get(name.lower()) == value for name, value in match.header.items())
        and (match.contains is None or match.contains.encode("utf-8", "surrogatepass") in body)
    )
