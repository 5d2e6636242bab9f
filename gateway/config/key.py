"""The section of one key: what a client must present, and what it may use."""

from __future__ import annotations

import hashlib

from gateway.config.section import Section, setting
from gateway.config.texts import Hash, Line, ModelGlob, Secret
from gateway.priority import Priority


class Key(Section):
    """What a client must present, and what it may use."""

    hash: Hash | None = setting(
        None,
        "`sha256:` and the hex SHA-256 of the key, as `gateway key new` prints it. One of `hash` and `value`.",
    )
    value: Secret | None = setting(
        None,
        "The key itself, from outside this file: `${env.NAME}` or `${file:/path}`. One of `hash` and `value`.",
    )
    models: tuple[ModelGlob, ...] | None = setting(
        None,
        "The models the key may use: names, in which `*` stands for any text and `?` for any one character. "
        "Left out, all.",
        min_length=1,
    )
    tags: tuple[Line, ...] = setting(
        (), "Free text about the holder of the key, for the rules below `routes`."
    )
    priority: Priority = setting(
        "normal",
        "The class of the key's requests where they wait: high, normal, low, batch or background. A request may ask "
        "for a lower one by the header `x-gateway-priority`.",
    )
    weight: int = setting(
        1,
        "The key's share of tokens, against the weights of other keys that wait in its class.",
        ge=1,
        le=1000,
    )
    admin: bool = setting(
        False, "Whether the key may see and manage the engines: `/gateway/backends` and all below it."
    )

    metrics: bool = setting(
        False,
        "Whether the key may read metrics where `server.metrics.auth` wants one. A key with `admin` may too.",
    )

    @property
    def sha256(self) -> str:
        """The hex SHA-256 of the key, whether it was given by `hash` or by `value`."""
        if self.value is not None:
            return hashlib.sha256(self.value.get_secret_value().encode()).hexdigest()
        return (self.hash or "").removeprefix("sha256:")
