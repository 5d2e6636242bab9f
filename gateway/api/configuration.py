"""The endpoints for operators that concern the config: which one is in force, reading it anew, choosing a profile.

Rules:
- The same callers are let in as at the other endpoints for operators.
- What is shown holds no secrets: problems and changes are written so that they may be shown.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field, ValidationError

from gateway.api.admin import ERRORS, KEY, Admin, arguments_in
from gateway.api.endpoint import headers_of
from gateway.config.outcome import InForce, Outcome
from gateway.config.profile import NONE
from gateway.config.section import Section, validate
from gateway.errors import GatewayError, Own

log = logging.getLogger("gateway.api")

SHOWN = 50
"""Most problems that one error tells."""


class Attempt(BaseModel):
    """What became of an attempt to reload the config."""

    result: str = Field(
        description="`applied`; `unchanged`, where nothing differs; `refused`, where the one before stays."
    )
    version: str = Field(
        description="The version in force since: a short hash of the text of the config's files."
    )
    changes: list[str] = Field(description="What differs from before, a line for each thing.")
    notes: list[str] = Field(description="What did not take effect, and why.")
    problems: list[str] = Field(
        description="Why it was refused: each with file, line and column where it has one."
    )

    @classmethod
    def of(cls, outcome: Outcome) -> Attempt:
        """Return an outcome as it is shown."""
        return cls(
            result=outcome.result,
            version=outcome.version,
            changes=list(outcome.changes),
            notes=list(outcome.notes),
            problems=list(outcome.problems),
        )


class ConfigView(BaseModel):
    """The config that is in force."""

    version: str = Field(description="A short hash of the text of its files; empty where it came from none.")
    files: list[str] = Field(description="Its files, in the order in which they are read.")
    since: str = Field(description="When it was applied, in UTC.")
    profile: str | None = Field(description="The profile that is active; null for none.")
    last_reload: Attempt | None = Field(description="The last attempt to reload it; null if there was none.")


class Choice(Section):
    """The arguments of the choice of a profile."""

    profile: str | None


class ProfileView(BaseModel):
    """The profiles there are."""

    profile: str | None = Field(description="The one that is active; null for none.")
    profiles: list[str] = Field(description="All of them.")


_SHOWS: dict[str, Any] = {"tags": ["admin"], "responses": ERRORS, "openapi_extra": KEY}
_CHOICE = {"content": {"application/json": {"schema": Choice.model_json_schema()}}}
_CHOOSES = {**_SHOWS, "openapi_extra": {**KEY, "requestBody": _CHOICE}}


class ConfigEndpoints:
    """The endpoints, and what they have the gateway do."""

    def __init__(
        self,
        admin: Admin,
        in_force: InForce,
        reload: Callable[[], Awaitable[Outcome]],
        profile: Callable[[str | None], Awaitable[None]],
    ) -> None:
        """Let in whom `admin` lets in.

        `reload` reads the config anew and applies it. `profile` has a profile be active in all processes, or none.
        """
        self._admin = admin
        self._in_force = in_force
        self._reload = reload
        self._profile = profile

    def add_to(self, app: FastAPI) -> None:
        """Add the endpoints to the application."""

        @app.get("/gateway/config", **_SHOWS)
        async def show_config(request: Request) -> ConfigView:
            """Show which config is in force, and what became of the last attempt to reload it."""
            self._admin.let_in(request.scope)
            found = self._in_force
            return ConfigView(
                version=found.version,
                files=list(found.files),
                since=datetime.fromtimestamp(found.since, UTC).isoformat(timespec="seconds"),
                profile=found.profile,
                last_reload=None if found.last is None else Attempt.of(found.last),
            )

        @app.post("/gateway/reload", **_SHOWS)
        async def reload_config(request: Request) -> Attempt:
            """Read the config anew and apply it, whether its files have changed or not.

            A config that is wrong is answered with its problems, and the one before stays in force.
            """
            self._admin.let_in(request.scope)
            outcome = await self._reload()
            if outcome.result == "refused":
                raise GatewayError(Own.INVALID, _refusal(outcome), code="invalid_config")
            return Attempt.of(outcome)

        @app.get("/gateway/profile", **_SHOWS)
        async def show_profile(request: Request) -> ProfileView:
            """Show which profile of the config is active, and which there are."""
            self._admin.let_in(request.scope)
            return self._profiles()

        @app.post("/gateway/profile", **_CHOOSES)
        async def choose_profile(request: Request) -> ProfileView:
            """Have another profile be active, or with null none. Requests under way go on as they began.

            It stays active when the config is reloaded, as long as that has it, but not when the gateway restarts.
            """
            caller = self._admin.let_in(request.scope)
            name = self._chosen(arguments_in(headers_of(request.scope), await request.body()))
            await self._profile(name)
            log.info("profile: %s, chosen by '%s'", name or NONE, caller.name)
            return self._profiles()

    def _profiles(self) -> ProfileView:
        return ProfileView(
            profile=self._in_force.profile, profiles=list(self._admin.core.snapshot.config.profiles)
        )

    def _chosen(self, arguments: dict[str, Any]) -> str | None:
        """Return the profile that an operator has named. Raises GatewayError where there is none of this name."""
        try:
            name = validate(Choice, arguments).profile
        except ValidationError:
            message = """expected {"profile": "<name>"}, or null for none"""
            raise GatewayError(Own.INVALID, message, param="profile") from None
        known = self._admin.core.snapshot.config.profiles
        if name is not None and name not in known:
            message = f"there is no profile {name[:64]!r}" + (
                f"; there are: {', '.join(known)}" if known else "; the config has none"
            )
            raise GatewayError(Own.INVALID, message, param="profile", code="profile_not_found")
        return name


def _refusal(outcome: Outcome) -> str:
    more = len(outcome.problems) - SHOWN
    lines = [*outcome.problems[:SHOWN], *([f"and {more} more"] if more > 0 else [])]
    return "\n".join((f"the config stays as it is, version {outcome.version}:", *lines))
