"""The section `server.data`: where the gateway keeps what outlives a request, and for how long.

Rules:
- A text alone is the folder. A database of its own is named by its URL, which may hold a password and is never shown.
- Nothing here opens anything; `gateway.store` does.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)

from backends.facts.units import expected
from gateway.config.section import Section, setting
from gateway.config.texts import Line

MISSING: Final = "the driver of PostgreSQL is not installed: pip install 'llm-serving-gateway[postgres]'"
NEEDED_BY: Final = "stored responses, files and batches"
"""What there is only with a store."""
LONGEST: Final = 3650
"""The most days that something may be kept."""
_AGE: Final = re.compile(r"(?P<count>[0-9]{1,9})(?P<unit>[dhm])")
_SECONDS: Final = {"d": 86400, "h": 3600, "m": 60}


def _age(value: object, info: ValidationInfo) -> int:
    """Return the seconds in an age such as `30d`. Code may pass a number of seconds; the file may not."""
    if info.mode == "python" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _AGE.fullmatch(value) if isinstance(value, str) else None
    if not match or not 0 < (total := int(match["count"]) * _SECONDS[match["unit"]]) <= LONGEST * 86400:
        raise expected(f"an age such as 30d, 12h or 45m, of {LONGEST} days at most")
    return total


def _database(value: SecretStr) -> SecretStr:
    what = "a URL such as postgresql://user@host/name"
    try:
        parts = urlsplit(value.get_secret_value())
        parts.port  # noqa: B018 (reading it checks it)
    except ValueError:
        raise expected(what) from None
    if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
        raise expected(what)
    return value


Age = Annotated[
    int,
    PlainValidator(_age),
    WithJsonSchema({"type": "string", "pattern": r"^([0-9]{1,9}[dhm]|.*\$\{.*)$"}),
]
"""Seconds that something is kept."""
Database = Annotated[
    SecretStr,
    AfterValidator(_database),
    WithJsonSchema({"type": "string", "pattern": r"^(postgres(ql)?://.+|.*\$\{.*)$"}),
]
"""The URL of a PostgreSQL database, which may hold a password."""


class Data(Section):
    """Where the gateway keeps what outlives a request."""

    folder: Line = setting(
        ...,
        "A folder of the gateway's own, made if it is not there: files, and without `database` the database "
        "`gateway.db`. All processes of the gateway use the same one.",
    )
    database: Database | None = setting(
        None,
        "A PostgreSQL database instead, as `postgresql://user:password@host/name`; needs the extra `postgres`. "
        "Several gateways may share it.",
    )
    keep: Age = setting("30d", "How long responses are kept: days (`30d`), hours (`12h`) or minutes (`45m`).")

    def written(self) -> dict[str, str]:
        """Return it as the file would have it, secrets too: for another process of this gateway, and nobody else."""
        written = {"folder": self.folder, "keep": f"{self.keep // 60}m"}
        return written if self.database is None else written | {"database": self.database.get_secret_value()}


def _folder(value: Any) -> Any:
    return {"folder": value} if isinstance(value, str) else value


FolderOrData = Annotated[Data, BeforeValidator(_folder, json_schema_input_type=Line | Data)]
"""A folder, or the whole section."""


def is_installed() -> bool:
    """Tell whether the driver is there that PostgreSQL takes."""
    return importlib.util.find_spec("psycopg") is not None
