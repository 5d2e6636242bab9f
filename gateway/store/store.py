"""The store: one database, in a file or at a PostgreSQL server, and one folder of files beside it.

    store = Store.open(config.server.data)
    found = await store.read(lambda connection: connection.execute(select(...)).one_or_none())
    await store.write(lambda connection: connection.execute(insert(...)))

Rules:
- Nothing of it runs on the event loop. `read` and `write` hand a function to a thread and give back what it returns;
  a coroutine never holds a connection. What a function returns must not need its connection any more.
- `write` is one transaction: all of it or, where the function raises, nothing. With SQLite it begins as a writer
  (`BEGIN IMMEDIATE`), so that it never has to give up what it has read; one thread writes, and other processes wait for
  each other, `PATIENCE` at most.
- Whatever the database does not do is a `StoreError`, which is an answer to a client as it is; the log has the reason,
  once until it works again. Errors in what a function asks for (a constraint, a wrong statement) stay as they are.
- SQLite runs with a write-ahead log: a killed process loses nothing that was written, a power cut at most the last
  moments, and neither damages the database.
- Texts with the character 0, which PostgreSQL cannot hold, have U+FFFD for it there. So nothing has an id with one.
- The folder and all in it are for the gateway's own user alone.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.config.data import Data
from gateway.store.failure import StoreError
from gateway.store.schema import migrate

log = logging.getLogger("gateway.store")

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
"""What is done with a connection, in a thread of the store."""

DATABASE: Final = "gateway.db"
"""SQLite's file in the folder."""
FILES: Final = "files"
PATIENCE: Final = 15.0
"""Seconds that a writer waits for other processes."""
THREADS: Final = 4
"""How many functions are run at once, beside SQLite's one writer."""
ROOM: Final = 1024
"""Most functions that run or wait; further ones fail at once, so that a slow disk does not fill the memory."""
_WRITES: Final = "gateway_writes"
_SQLITE: Final = {
    "SQLITE_FULL": "its disk is full",
    "SQLITE_BUSY": "another process keeps it locked",
    "SQLITE_LOCKED": "another process keeps it locked",
    "SQLITE_CORRUPT": "its database is damaged",
    "SQLITE_NOTADB": "its database is damaged",
    "SQLITE_READONLY": "it may not be written to",
    "SQLITE_PERM": "it may not be written to",
    "SQLITE_CANTOPEN": "its file cannot be opened",
    "SQLITE_IOERR": "its disk fails",
}
"""What SQLite's names of errors mean, by their beginnings."""
_POSTGRES: Final = {"53100": "its disk is full", "55P03": "another process keeps it locked"}
"""What some of PostgreSQL's states mean."""


class Store:
    """One open store. See the module's rules."""

    def __init__(self, folder: Path, engine: sa.Engine) -> None:
        """Use this folder and this database, both ready. `open` makes them so."""
        self._folder = folder
        self._engine = engine
        self._readers = ThreadPoolExecutor(THREADS, "store")
        is_file = engine.dialect.name == "sqlite"
        self.shared = not is_file
        """Whether gateways on other machines may use the same database."""
        self._writers = ThreadPoolExecutor(1, "store-writer") if is_file else self._readers
        self._running = 0
        self._closed = False
        self._is_failing = False

    @classmethod
    def open(cls, data: Data) -> Store:
        """Return the store that a config names, its folder made and its tables as this version wants them.

        Raises StoreError, which says what is wrong and where. Blocks: call it before the event loop runs.
        """
        folder = Path(data.folder).absolute()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / FILES).mkdir(mode=0o700, exist_ok=True)
            with _alone(folder):
                engine = _sqlite(folder / DATABASE) if data.database is None else _postgres(data)
                try:
                    with engine.execution_options(**{_WRITES: True}).begin() as connection:
                        migrate(connection)
                except BaseException:
                    engine.dispose()
                    raise
        except StoreError as error:
            raise StoreError(f"the store {_place(data, folder)} cannot be used: {error.reason}") from None
        except OSError as error:
            why = error.strerror or "not a usable path"
            raise StoreError(f"the folder {folder} of the store cannot be used: {why}") from None
        except SQLAlchemyError as error:
            why = f"{_reason(error)} ({_words(error)})"
            raise StoreError(f"the store {_place(data, folder)} cannot be used: {why}") from None
        return cls(folder, engine)

    def folder(self, kind: str) -> Path:
        """Return the folder of one kind of files, such as `uploads`; it is there."""
        found = self._folder / FILES / kind
        found.mkdir(mode=0o700, exist_ok=True)
        return found

    async def read(self, work: Work[T]) -> T:
        """Return what `work` finds, in one transaction that changes nothing. Raises StoreError, and what it raises."""
        return await self._run(self._readers, lambda: self._done(work, False))

    async def write(self, work: Work[T]) -> T:
        """Return what `work` returns, once all that it did is stored. Raises StoreError, and what it raises.

        A caller that is cancelled meanwhile does not undo it.
        """
        return await self._run(self._writers, lambda: self._done(work, True))

    async def close(self) -> None:
        """Finish what runs or waits, and close the database. Every later use is a StoreError."""
        self._closed = True
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """Do as `close`, outside of an event loop."""
        self._closed = True
        self._readers.shutdown()
        self._writers.shutdown()
        self._engine.dispose()

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._closed:
            raise StoreError("it is closed")
        if self._running >= ROOM:
            raise StoreError("too much waits for it")
        self._running += 1
        future = asyncio.get_running_loop().run_in_executor(threads, work)
        future.add_done_callback(self._ended)
        return await future

    def _ended(self, _: object) -> None:
        self._running -= 1

    def _done(self, work: Work[T], writes: bool) -> T:
        """Run a function on a connection, in a thread."""
        try:
            if writes:
                with self._engine.execution_options(**{_WRITES: True}).begin() as connection:
                    found = work(connection)
            else:
                with self._engine.connect() as connection:
                    found = work(connection)
        except (IntegrityError, ProgrammingError, InvalidRequestError):
            raise
        except (DBAPIError, PoolTimeout) as error:
            reason = _reason(error)
            if not self._is_failing:
                self._is_failing = True
                log.error("the store cannot be used: %s (%s)", reason, _words(error))
            raise StoreError(reason) from None
        if self._is_failing:
            self._is_failing = False
            log.warning("the store can be used again")
        return found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Have no other process open a store in this folder meanwhile. Raises OSError."""
    with open(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sqlite(file: Path) -> sa.Engine:
    """Return the engine for SQLite's file, which is made if it is not there. Raises OSError."""
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    url = sa.URL.create("sqlite+pysqlite", database=str(file))
    options = {"timeout": PATIENCE, "check_same_thread": False}
    engine = sa.create_engine(url, connect_args=options, pool_size=THREADS + 1, hide_parameters=True)

    def connected(connection: SqliteConnection, _: object) -> None:
        # Transactions are begun below, as the driver would begin them too late.
        connection.isolation_level = None
        for setting in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}")

    def begun(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def _postgres(data: Data) -> sa.Engine:
    """Return the engine for a PostgreSQL server; nothing is connected yet."""
    assert data.database is not None
    url = sa.make_url(data.database.get_secret_value()).set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {
        "connect_timeout": 10,
        "application_name": "llm-serving-gateway",
        "tcp_user_timeout": 30_000,
        "options": "-c statement_timeout=60000 -c lock_timeout=60000",
    }
    options = {name: value for name, value in options.items() if name not in url.query}
    engine = sa.create_engine(
        url, connect_args=options, pool_size=THREADS, pool_pre_ping=True, hide_parameters=True
    )

    def executed(_: Any, __: Any, statement: str, given: Any, ___: Any, is_many: bool) -> tuple[str, Any]:
        return statement, [_writable(each) for each in given] if is_many else _writable(given)

    event.listen(engine, "before_cursor_execute", executed, retval=True)
    return engine


def _writable(given: Any) -> Any:
    """Return a statement's parameters as PostgreSQL takes them: its texts cannot have the character 0."""
    if not isinstance(given, dict):
        return given
    return {
        name: value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value
        for name, value in given.items()
    }


def _place(data: Data, folder: Path) -> str:
    """Say which store is meant, without its password."""
    if data.database is None:
        return str(folder / DATABASE)
    url = sa.make_url(data.database.get_secret_value())
    return f"{url.host or 'localhost'}/{url.database}"


def _reason(error: SQLAlchemyError) -> str:
    """Say why the database failed, in words that clients may read."""
    if isinstance(error, PoolTimeout):
        return "too much waits for it"
    origin = error.orig if isinstance(error, DBAPIError) else None
    name = str(getattr(origin, "sqlite_errorname", ""))
    for begin, words in _SQLITE.items():
        if name.startswith(begin):
            return words
    if name:
        return "its database fails"
    state = getattr(origin, "sqlstate", None)
    return _POSTGRES.get(str(state), "its database fails" if state else "its database cannot be reached")


def _words(error: SQLAlchemyError) -> str:
    """Return the first line of what the database says of an error, for the log."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return str(origin).partition("\n")[0]
