"""Who is calling: an API key becomes a caller with a name and the models it may use.

Rules:
- Keys are known by their SHA-256 only and looked up by it, so neither the config nor a timing says more.
- A key is read from `Authorization: Bearer …` alone and never repeated in an error, a log or a metric.
- No keys configured means open; the config only allows that on loopback or with `auth: none`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping

from gateway.config import Config
from gateway.errors import GatewayError, Own


class Caller:
    """The holder of a key."""

    __slots__ = ("_known", "_pattern", "name")

    def __init__(self, name: str, models: tuple[str, ...] | None = None) -> None:
        """`models` are globs of model names; None allows all."""
        self.name = name
        self._pattern = None if models is None else re.compile("|".join(map(fnmatch.translate, models)))
        self._known: dict[str, bool] = {}

    def allows(self, model: str) -> bool:
        """The caller may use this model. Only ask for names from the config: answers are kept."""
        if self._pattern is None:
            return True
        found = self._known.get(model)
        if found is None:
            found = self._known[model] = self._pattern.fullmatch(model) is not None
        return found


ANYONE = Caller("anyone")


class Keys:
    """The keys of one config."""

    def __init__(self, config: Config) -> None:
        self._callers: Mapping[bytes, Caller] = {
            bytes.fromhex(key.sha256): Caller(name, key.models) for name, key in config.keys.items()
        }
        self.open = config.server.auth == "none" or not self._callers

    def identify(self, authorization: bytes | None) -> Caller:
        """The caller behind an `Authorization` header. Raises GatewayError where there is none."""
        if self.open:
            return ANYONE
        scheme, _, token = (authorization or b"").partition(b" ")
        if not token.strip() and scheme.lower() in (b"", b"bearer"):
            raise GatewayError(
                Own.UNAUTHENTICATED,
                "no API key given: send the header 'Authorization: Bearer <key>'",
                code="missing_api_key",
            )
        if scheme.lower() == b"bearer":
            caller = self._callers.get(hashlib.sha256(token.strip()).digest())
            if caller is not None:
                return caller
        raise GatewayError(Own.UNAUTHENTICATED, "the API key is not valid")
