"""Authentication: from an API key to a caller with a name and the models it may use.

Rules:
- Keys are known by their SHA-256 only and looked up by it: neither the config nor the timing of an answer reveals one.
- A key comes as `Authorization: Bearer …`, or in `x-api-key` (Anthropic's SDKs), `api-key` (Azure's clients)
  or `x-goog-api-key` (Google's). The first of these that holds one decides; no other is tried.
- A key is never repeated in an error, a log or a metric.
- No keys configured means open; the config only allows that on loopback or with `auth: none`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from gateway.config.schema import Config
from gateway.errors import GatewayError, Own
from gateway.globs import Globs, beginning
from gateway.priority import NORMAL, NUMBERS


class Caller:
    """The holder of a key."""

    __slots__ = (
        "_globs",
        "_known",
        "_reached",
        "admin",
        "name",
        "observes",
        "priority",
        "reaches_all",
        "tags",
        "weight",
    )

    def __init__(
        self,
        name: str,
        models: tuple[str, ...] | None = None,
        admin: bool = False,
        tags: tuple[str, ...] = (),
        priority: int = NORMAL,
        weight: int = 1,
        observes: bool = False,
    ) -> None:
        """Create a caller.

        `models` are globs of model names; None allows all. `admin`: may see and manage engines. `tags` are the key's,
        for rules. `priority` is the number of the best class its requests may wait in, `weight` its share there.
        `observes`: may read metrics where that needs a key, as admins may.
        """
        self.name = name
        self.admin = admin
        self.tags = tags
        self.priority = priority
        self.weight = weight
        self.observes = observes or admin
        self.reaches_all = admin
        """Whether the caller may name any single backend."""
        self._globs: Globs | None = None if models is None else Globs(models)
        named = [glob for glob in models or () if "/" in beginning(glob)]
        self._reached: Globs | None = Globs(named) if named else None
        """The patterns that may name a backend before a slash."""
        self._known: dict[str, bool] = {}

    @property
    def limited(self) -> bool:
        """Whether the key is for some models only."""
        return self._globs is not None

    def allows(self, model: str) -> bool:
        """Tell whether the caller may use this model. Ask for names from the config only: answers are cached."""
        if self._globs is None:
            return True
        found = self._known.get(model)
        if found is None:
            found = self._known[model] = self.may_name(model)
        return found

    def may_name(self, model: str) -> bool:
        """Tell whether the caller may use a model of this name, which may be any text."""
        return self._globs is None or self._globs.fits(model)

    @property
    def names_backends(self) -> bool:
        """Whether the key has patterns of its own that may name single backends."""
        return self._reached is not None

    def may_reach(self, name: str) -> bool:
        """Tell whether the caller may use the single backend, and its model, of a name `backend/model`."""
        return self.reaches_all or (self._reached is not None and self._reached.fits(name))


ANYONE = Caller("anyone")
OWNER = Caller("anyone")
"""Whoever calls a gateway without keys that only this machine reaches."""
OWNER.reaches_all = True

KEY_HEADERS: Final = (b"x-api-key", b"api-key", b"x-goog-api-key")
"""The headers that hold a key and nothing else."""
CREDENTIALS: Final = frozenset({b"authorization", *KEY_HEADERS})
"""The headers that say who asks. A request has none of them twice."""


class Keys:
    """The keys of one config."""

    def __init__(self, config: Config) -> None:
        """Take the keys and the rules for callers without one from the config."""
        self._callers: Mapping[bytes, Caller] = {
            bytes.fromhex(key.sha256): Caller(
                name, key.models, key.admin, key.tags, NUMBERS[key.priority], key.weight, key.metrics
            )
            for name, key in config.keys.items()
        }
        self.open = config.server.auth == "none" or not self._callers
        self._loopback = config.server.listen.loopback

    def named(self, name: str) -> Caller | None:
        """Return the holder of the key of this name in the config; None if there is none."""
        return next((caller for caller in self._callers.values() if caller.name == name), None)

    def identify(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Return the caller behind the headers of a request. Raises GatewayError where there is none."""
        if not self.open:
            return self._holder(headers)
        return OWNER if self._loopback and not self._callers else ANYONE

    def operator(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Return the operator behind the headers of a request: a caller who may see and manage the engines.

        With keys configured that is the holder of one with `admin: true`, also under `auth: none`; without any,
        everybody on this machine. Raises GatewayError for others.
        """
        if not self._callers and self._loopback:
            return ANYONE
        if not self._callers:
            message = "the gateway listens beyond this machine and has no keys: add one with 'admin: true'"
            raise GatewayError(Own.FORBIDDEN, message, code="admin_required")
        caller = self._holder(headers)
        if not caller.admin:
            raise GatewayError(Own.FORBIDDEN, "this key may not manage engines", code="admin_required")
        return caller

    def observer(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Return the caller behind the headers of a request for metrics that need a key. Raises GatewayError."""
        caller = self._holder(headers)
        if not caller.observes:
            message = "this key may not read metrics: give it 'metrics: true' in the config"
            raise GatewayError(Own.FORBIDDEN, message, code="metrics_required")
        return caller

    def _holder(self, headers: Mapping[bytes, bytes]) -> Caller:
        token = _presented(headers)
        if not token:
            message = "no API key given: send the header 'Authorization: Bearer <key>' or 'x-api-key: <key>'"
            raise GatewayError(Own.UNAUTHENTICATED, message, code="missing_api_key")
        caller = self._callers.get(hashlib.sha256(token).digest())
        if caller is None:
            raise GatewayError(Own.UNAUTHENTICATED, "the API key is not valid")
        return caller


def _presented(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the key that a request presents, empty if there is none."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    token = token.strip()
    if token and scheme.lower() == b"bearer":
        return token
    for name in KEY_HEADERS:
        key = headers.get(name, b"").strip()
        if key:
            return key
    # Another scheme, or a key without one: no key of the gateway's, but not nothing either.
    return b"" if scheme.lower() in (b"", b"bearer") else scheme + b" " + token
