"""Secrets that stand in a file in clear text, where everybody reads them who reads the file.

Rules:
- It is no mistake, so it is no problem of the file: it is told, with its place, and the file is used.
- A secret is never repeated. Text in which something is filled in comes from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.config.problems import Problem, quote
from gateway.config.schema import Config
from gateway.config.yaml_source import Source, Where

_TELLING: Final = ("key", "token", "auth", "secret", "cookie", "password", "credential")
"""Parts of the names of headers that hold secrets."""


def found(config: Config, source: Source) -> Iterator[Problem]:
    """Yield the place of each secret of a backend that the file has in clear text."""
    for name, backend in config.backends.items():
        if backend.api_key is not None:
            yield from _open(source, ("backends", name, "api_key"), "this key")
        for header in backend.headers:
            if any(word in header.lower() for word in _TELLING):
                yield from _open(
                    source, ("backends", name, "headers", header), f"the value of {quote(header)}"
                )


def _open(source: Source, where: Where, what: str) -> Iterator[Problem]:
    node = source.find(where)
    if node is not None and not node.substituted:
        message = f"{what} stands in the file in clear text: better ${{env.NAME}} or ${{file:/path}}"
        yield source.problem(where, message)
