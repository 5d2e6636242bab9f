"""Whether the files of a config have changed: every way in which editors and containers change them is seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.disk import Disk
from gateway.config.file import read
from gateway.config.problems import ConfigError

TEXT = "include: [conf.d]\nbackends: {a: {engine: vllm, url: 'http://a', api_key: '${file:KEY}'}}\n"


def _renamed(folder: Path) -> None:
    new = folder / ".main.yaml.swp"
    new.write_bytes((folder / "main.yaml").read_bytes())
    new.rename(folder / "main.yaml")


def _same_time(folder: Path) -> None:
    file = folder / "main.yaml"
    before = file.stat()
    file.write_text(TEXT + "#")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _same_time_and_size(folder: Path) -> None:
    file = folder / "main.yaml"
    before = file.stat()
    file.write_text(TEXT.replace("//a", "//b"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _in_place(folder: Path) -> None:
    """Write into a file as it is, which keeps its inode, as for one that is bind-mounted into a container."""
    with (folder / "conf.d/one.yaml").open("r+") as stream:
        stream.write("server: {drain: 2s}")


def _kubernetes(folder: Path) -> None:
    """Replace the link through which all files of a ConfigMap are seen."""
    (folder / "..2").mkdir()
    (folder / "..2/two.yaml").write_text("defaults: {retry_budget: 10%}")
    (folder / "..new").symlink_to("..2")
    (folder / "..new").rename(folder / "..data")


CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda folder: (folder / "main.yaml").write_text(TEXT + "# longer\n"),
    "replaced by a rename": _renamed,
    "another size at the same time": _same_time,
    "neither size nor time": _same_time_and_size,
    "in place": _in_place,
    "a link": _kubernetes,
    "missing": lambda folder: (folder / "main.yaml").unlink(),
    "a file added to the folder": lambda folder: (folder / "conf.d/more.yaml").write_text("server: ~"),
    "a file gone from the folder": lambda folder: (folder / "conf.d/one.yaml").unlink(),
    "the folder gone": lambda folder: (folder / "conf.d").rename(folder / "elsewhere"),
    "a file that is filled in": lambda folder: (folder / "key").write_text("other"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "..1").mkdir()
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "..1/two.yaml").write_text("defaults: {retry_budget: 20%}")
    (tmp_path / "conf.d/two.yaml").symlink_to("../..data/two.yaml")
    (tmp_path / "conf.d/one.yaml").write_text("server: {drain: 1s}")
    (tmp_path / "key").write_text("one")
    (tmp_path / "main.yaml").write_text(TEXT.replace("KEY", str(tmp_path / "key")))
    return tmp_path


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_change_is_seen(change: Callable[[Path], object], folder: Path) -> None:
    disk = Disk()
    read(folder / "main.yaml", {}, disk)
    assert disk.look() == disk.seen
    (folder / "conf.d/notes.txt").write_text("not read")
    (folder / "conf.d/.hidden.yaml").write_text("not read")
    assert disk.look() == disk.seen, "what is not read does not matter"
    change(folder)
    assert disk.look() != disk.seen


def test_a_file_that_comes_back_is_seen_after_a_failure(folder: Path) -> None:
    file = folder / "main.yaml"
    file.rename(folder / "away")
    disk = Disk()
    with pytest.raises(ConfigError, match="No such file"):
        read(file, {}, disk)
    assert disk.look() == disk.seen
    (folder / "away").rename(file)
    assert disk.look() != disk.seen


def test_all_files_are_watched_while_one_is_wrong(folder: Path) -> None:
    (folder / "conf.d/one.yaml").write_text("server: [")
    disk = Disk()
    with pytest.raises(ConfigError):
        read(folder / "main.yaml", {}, disk)
    for name in ("main.yaml", "conf.d/one.yaml", "conf.d/two.yaml", "key"):
        assert str(folder / name) in disk.seen


def test_a_pipe_is_not_watched(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = os.open(pipe, os.O_RDWR)
    os.write(child, b"backends: {a: {engine: vllm, url: 'http://a'}}\n")
    disk = Disk()
    assert disk.content(str(pipe), 46) != b""
    os.write(child, b"more")
    assert disk.look() == disk.seen
    os.close(child)
