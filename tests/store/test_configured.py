"""`server.data`: what may be written there, what a gateway without it does not pay for, and what a reload does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.adopt import Process
from gateway.config import file as config
from gateway.config.data import Data, is_installed
from gateway.config.disk import Disk
from gateway.config.file import read
from gateway.config.problems import ConfigError
from gateway.together import Handed, received
from tests.serving import serving

ENGINE = "backends: {b: {engine: vllm, url: http://127.0.0.1:9}}\n"


def load(folder: Path, server: str, **environ: str) -> Data | None:
    file = folder / "gateway.yaml"
    file.write_text(f"server: {{listen: '127.0.0.1:0', {server}}}\n{ENGINE}")
    return config.load(file, environ).server.data


def test_a_text_is_the_folder(tmp_path: Path) -> None:
    assert load(tmp_path, "") is None
    assert load(tmp_path, "data: /srv/x") == Data(folder="/srv/x") == load(tmp_path, "data: {folder: /srv/x}")
    found = load(tmp_path, "data: '${env.PLACE}'", PLACE="/srv/y")
    assert found is not None and (found.folder, found.keep) == ("/srv/y", 30 * 86400)


def test_a_database_is_a_secret(tmp_path: Path) -> None:
    server = "data: {folder: /srv/x, database: 'postgresql://gw:${env.PASSWORD}@db/gw', keep: 12h}"
    found = load(tmp_path, server, PASSWORD="hush")
    assert found is not None and found.keep == 12 * 3600
    assert "hush" not in repr(found) and found.written()["database"] == "postgresql://gw:hush@db/gw"


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("data: {}", "'folder' is missing"),
        ("data: {folder: /x, database: 'mysql://db/hush'}", "a URL such as postgresql://user@host/name"),
        ("data: {folder: /x, database: 'postgresql://hush'}", "a URL such as postgresql://user@host/name"),
        ("data: {folder: /x, keep: 30}", "an age such as 30d"),
        ("data: {folder: /x, keep: 0d}", "an age such as 30d"),
        ("data: {folder: /x, keeps: 1d}", "did you mean 'keep'"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, server: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, server)
    assert words in str(caught.value) and "hush" not in str(caught.value)


def test_a_missing_driver_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_installed()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"llm-serving-gateway\[postgres\]"):
        load(tmp_path, "data: {folder: /x, database: 'postgresql://db/gw'}")


@pytest.mark.slow
def test_a_gateway_without_a_store_imports_no_database() -> None:
    script = """
import sys
import gateway.__main__, gateway.serve
print([name for name in ("sqlalchemy", "alembic", "sqlite3", "psycopg") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_store_that_cannot_be_used_is_one_line(tmp_path: Path, workers: str) -> None:
    (tmp_path / "data").touch()
    file = tmp_path / "gateway.yaml"
    file.write_text(f"server: {{listen: '127.0.0.1:0', data: {tmp_path / 'data'}}}\n{ENGINE}")
    command = [sys.executable, "-m", "gateway", "serve", str(file), "--workers", workers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        f"gateway: the folder {tmp_path / 'data'} of the store cannot be used: File exists; `server.data` in the "
        "config says where it is"
    )


async def test_another_store_takes_a_restart_but_keeping_longer_does_not(tmp_path: Path) -> None:
    text = "server: {{listen: '127.0.0.1:0', data: {{folder: {}, keep: {}}}}}\n"
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    async with serving(tmp_path, text.format(here, "1d") + ENGINE, patient=False) as served:
        process, file = Process(served.gateway, served.server), tmp_path / "gateway.yaml"
        for folder, keep, notes in (
            (here, "2d", ()),
            (there, "2d", ("server.data stays as it was: another store takes a restart of the gateway",)),
        ):
            file.write_text(text.format(folder, keep) + ENGINE)
            applied = await process.adopt(read(file, {}), Disk())
            assert applied.notes == notes
            assert applied.config.server.data == Data(folder=here, keep=2 * 86400)
            assert served.gateway.core.snapshot.config.server.data == applied.config.server.data
    assert not Path(there).exists()  # noqa: ASYNC240 (as above)


def test_a_worker_that_starts_later_has_the_store_that_is_open(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"server: {{listen: '127.0.0.1:0', data: /new}}\n{ENGINE}")
    disk = Disk()
    loaded = read(file, {}, disk)
    for data in (None, Data(folder="/old", keep=3600)):
        handed = Handed(file, disk, loaded.config.server.listen, 80, data)
        assert received(handed.encode())[0].config.server.data == data
