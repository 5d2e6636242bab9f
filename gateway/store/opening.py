"""Open the store that a config names, and only then import what databases take.

Rules:
- A gateway without `server.data` imports neither SQLAlchemy nor Alembic, which take a third of a second.
- A store is opened once, before anything is served. A config that names another one later takes a restart; how long
  things are kept may change at any time.
"""

from __future__ import annotations

import importlib
import logging
from types import ModuleType
from typing import TYPE_CHECKING, Final

from gateway.config.data import NEEDED_BY, Data
from gateway.config.schema import Config

if TYPE_CHECKING:
    from gateway.store.engine_memory import EngineMemory
    from gateway.store.store import Store

log = logging.getLogger("gateway.store")

_STORE: Final = "gateway.store.store"


def opened(config: Config) -> Store | None:
    """Return the store of a config, ready for use; None where it names none. Raises StoreError."""
    data = config.server.data
    if data is None:
        return None
    found: Store = importlib.import_module(_STORE).Store.open(data)
    return found


def queries() -> ModuleType:
    """Return `gateway.store.responses`. Call it only where a store is open."""
    return importlib.import_module("gateway.store.responses")


def engine_memory(store: Store) -> EngineMemory:
    """Return what launched engines were measured to take, as an open store has it."""
    found: EngineMemory = importlib.import_module("gateway.store.engine_memory").EngineMemory(store)
    return found


def tell(store: Store | None) -> None:
    """Say in the log what there is not, where there is no store."""
    if store is None:
        log.info("nothing is kept, as the config has no `server.data`: there are no %s", NEEDED_BY)


def staying(config: Config, before: Config) -> tuple[Config, tuple[str, ...]]:
    """Return a config with the store of the one before, and what operators are told where it wants another."""
    if _which(config.server.data) == _which(before.server.data):
        return config, ()
    server = config.server.model_copy(update={"data": before.server.data})
    note = "server.data stays as it was: another store takes a restart of the gateway"
    return config.model_copy(update={"server": server}), (note,)


def _which(data: Data | None) -> object:
    return None if data is None else (data.folder, data.database)
