"""The files that a config is made of: read from the disk, or from what another process has read of it.

Rules:
- `Disk` reads each file and folder once and remembers what it found, so that one load sees one state, and another
  process can load the very same (`Taken`).
- A file is looked at (`stat`) before it is read: what changes while it is read is seen as changed afterwards.
- Changes are found by comparing looks, not by events of the system, which miss some: a file that is replaced by a
  rename, a link that points elsewhere, a folder of Kubernetes, a file that is away and comes back.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from typing import Any, Protocol

Stamp = tuple[int, ...] | tuple[str, ...] | None
"""What a look at a file or folder gave; None where there is none. Two that differ mean that it was changed."""

SUFFIXES = (".yaml", ".yml")


class Files(Protocol):
    """What a config is read from."""

    def content(self, path: str, limit: int) -> bytes:
        """Return a file's content, and one byte more than `limit` if it is longer. Raises OSError or ValueError."""

    def is_regular(self, path: str) -> bool:
        """Tell whether it is a regular file. Raises OSError or ValueError where there is nothing."""

    def is_folder(self, path: str) -> bool:
        """Tell whether there is a folder."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the YAML files in a folder, sorted, without hidden ones. Raises OSError or ValueError."""

    def identity(self, path: str) -> str:
        """Return what is the same for two paths to one file."""


class Disk:
    """The files of this machine."""

    def __init__(self) -> None:
        self._stamps: dict[str, Stamp] = {}
        self._folders: dict[str, Stamp] = {}
        self._contents: dict[str, bytes] = {}
        self._facts: dict[str, dict[str, Any]] = {"regular": {}, "folder": {}, "names": {}, "identity": {}}

    def content(self, path: str, limit: int) -> bytes:
        """Return a file's content, and one byte more than `limit` if it is longer. Raises OSError or ValueError."""
        if path not in self._contents:
            self._stamps.setdefault(path, _file(path))
            with open(path, "rb") as stream:
                self._contents[path] = stream.read(limit + 1)
        return self._contents[path]

    def is_regular(self, path: str) -> bool:
        """Tell whether it is a regular file. Raises OSError or ValueError where there is nothing."""
        self._stamps.setdefault(path, _file(path))
        found: bool = self._facts["regular"].setdefault(path, stat.S_ISREG(os.stat(path).st_mode))
        return found

    def is_folder(self, path: str) -> bool:
        """Tell whether there is a folder."""
        found: bool = self._facts["folder"].setdefault(path, os.path.isdir(path))
        return found

    def names(self, folder: str) -> list[str]:
        """Return the names of the YAML files in a folder, sorted, without hidden ones. Raises OSError or ValueError."""
        self._folders.setdefault(folder, _folder(folder))
        return list(self._facts["names"].setdefault(folder, _yaml_in(folder)))

    def identity(self, path: str) -> str:
        """Return what is the same for two paths to one file."""
        return str(self._facts["identity"].setdefault(path, os.path.realpath(path)))

    def look(self) -> dict[str, Stamp]:
        """Return how everything that was read is now. It equals `seen` as long as nothing has changed."""
        files = {path: _file(path) for path in self._stamps}
        return files | {folder: _folder(folder) for folder in self._folders}

    @property
    def seen(self) -> dict[str, Stamp]:
        """How everything was before it was read."""
        return self._stamps | self._folders

    def taken(self) -> dict[str, Any]:
        """Return all that was found as plain values, for `Taken`. It holds what secret files hold."""
        contents = {path: base64.b64encode(data).decode() for path, data in self._contents.items()}
        return {"contents": contents, **self._facts}


class Taken:
    """What another process has found on its disk."""

    def __init__(self, taken: Mapping[str, Any]) -> None:
        """Use what `Disk.taken` returned there."""
        self._taken = taken

    def content(self, path: str, limit: int) -> bytes:
        """Return a file's content. Raises FileNotFoundError where the other process has not read it."""
        return base64.b64decode(self._found("contents", path))

    def is_regular(self, path: str) -> bool:
        """Tell whether it is a regular file. Raises FileNotFoundError."""
        return bool(self._found("regular", path))

    def is_folder(self, path: str) -> bool:
        """Tell whether there is a folder. Raises FileNotFoundError."""
        return bool(self._found("folder", path))

    def names(self, folder: str) -> list[str]:
        """Return the names of the YAML files in a folder. Raises FileNotFoundError."""
        return list(self._found("names", folder))

    def identity(self, path: str) -> str:
        """Return what is the same for two paths to one file. Raises FileNotFoundError."""
        return str(self._found("identity", path))

    def _found(self, kind: str, path: str) -> Any:
        try:
            return self._taken[kind][path]
        except KeyError:
            raise FileNotFoundError(2, os.strerror(2)) from None


def _file(path: str) -> Stamp:
    """Look at a file, through links. One that is no regular file, such as a pipe, never seems to change."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return (0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _folder(path: str) -> Stamp:
    """Look at which YAML files a folder holds."""
    try:
        return tuple(_yaml_in(path))
    except (OSError, ValueError):
        return None


def _yaml_in(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(SUFFIXES) and not name.startswith("."))
