"""The endpoints for operators that concern the config: which one is in force, and reading it anew.

Rules:
- The same callers are let in as at the other endpoints for operators.
- What is shown holds no secrets: problems and changes are written so that they may be shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from gateway.api.admin import ERRORS, KEY, Admin
from gateway.config.outcome import InForce, Outcome
from gateway.errors import GatewayError, Own

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
    last_reload: Attempt | None = Field(description="The last attempt to reload it; null if there was none.")


def add_config(
    app: FastAPI, admin: Admin, in_force: InForce, reload: Callable[[], Awaitable[Outcome]]
) -> None:
    """Add the endpoints to the application. `reload` reads the config anew and applies it."""
    taken: dict[str, Any] = {"tags": ["admin"], "responses": ERRORS, "openapi_extra": KEY}

    @app.get("/gateway/config", **taken)
    async def show_config(request: Request) -> ConfigView:
        """Show which config is in force, and what became of the last attempt to reload it."""
        admin.let_in(request.scope)
        return ConfigView(
            version=in_force.version,
            files=list(in_force.files),
            since=datetime.fromtimestamp(in_force.since, UTC).isoformat(timespec="seconds"),
            last_reload=None if in_force.last is None else Attempt.of(in_force.last),
        )

    @app.post("/gateway/reload", **taken)
    async def reload_config(request: Request) -> Attempt:
        """Read the config anew and apply it, whether its files have changed or not.

        A config that is wrong is answered with its problems, and the one before stays in force.
        """
        admin.let_in(request.scope)
        outcome = await reload()
        if outcome.result == "refused":
            raise GatewayError(Own.INVALID, _refusal(outcome), code="invalid_config")
        return Attempt.of(outcome)


def _refusal(outcome: Outcome) -> str:
    more = len(outcome.problems) - SHOWN
    lines = [*outcome.problems[:SHOWN], *([f"and {more} more"] if more > 0 else [])]
    return "\n".join((f"the config stays as it is, version {outcome.version}:", *lines))
