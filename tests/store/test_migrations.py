"""The migrations make exactly the tables that the code uses, once, whoever comes first."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from gateway.config.data import Data
from gateway.store.failure import StoreError
from gateway.store.schema import MIGRATIONS
from gateway.store.store import Store
from gateway.store.tables import METADATA


async def test_tables_and_migrations_agree(data: Data) -> None:
    store = Store.open(data)
    differences = await store.read(
        lambda connection: compare_metadata(
            MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            ),
            METADATA,
        )
    )
    assert differences == []
    await store.close()


def test_each_migration_can_be_taken_back(tmp_path: Path) -> None:
    """What `downgrade` says is tried, so that it is true on the day that somebody needs it."""
    from alembic import command
    from alembic.config import Config

    Store.open(Data(folder=str(tmp_path))).close_now()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'gateway.db'}")
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.downgrade(config, "base")
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
    engine.dispose()
    Store.open(Data(folder=str(tmp_path))).close_now()


def test_there_is_one_line_of_migrations() -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    assert len(script.get_heads()) == len(script.get_bases()) == 1


async def test_a_newer_database_is_refused(data: Data) -> None:
    store = Store.open(data)
    await store.write(
        lambda connection: (
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")) and None
        )
    )
    await store.close()
    with pytest.raises(StoreError, match=r"is of a newer version of the gateway \(tables of 9999\)"):
        Store.open(data)


@pytest.mark.slow
def test_several_processes_may_begin_at_once(data: Data) -> None:
    script = f"""
from gateway.config.data import Data
from gateway.config.section import validate
from gateway.store.store import Store
Store.open(validate(Data, {data.written()!r})).close_now()
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    for process in processes:
        assert (process.communicate()[1], process.returncode) == ("", 0)

    async def found() -> int | None:
        store = Store.open(data)
        count = sa.text("SELECT count(*) FROM alembic_version")
        try:
            return await store.read(lambda connection: connection.scalar(count))
        finally:
            await store.close()

    assert asyncio.run(found()) == 1
