"""Fetches one file of a hub: resumed where it was broken off, checked, and put in its place whole or not at all.

Rules:
- What is there of a file lies beside it as `NAME.part`. One process fetches a file at a time.
- Bytes that are not those the hub promised are thrown away.
- A connection that breaks is taken up again a few times; then the part stays for the next run.
- The disk is looked at all along: before it is full, the fetch ends, and the part stays for the next run. Where a write
  finds no room all the same (a quota, or another program that was quicker), the part gives some of it back.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from backends.sizing.hubs import HubError
from backends.sizing.need import shown

PART = ".part"
TRIES = 4
"""How often a connection may break without a byte in between."""
PIECE = 4 << 20
SPARE = 256 << 20
"""Bytes of the disk that are to stay free, when a fetch begins."""
LEAST = SPARE // 2
"""A fetch that has begun ends where fewer bytes of the disk would be left: other programs write, too."""
FULL = (errno.ENOSPC, errno.EDQUOT)

Stream = Callable[[int], Iterator[bytes]]
"""Returns the bytes of a file from a place on. Raises HubError."""


def missing(target: Path, size: int) -> int:
    """Return how many bytes are still to be fetched of a file."""
    if target.exists():
        return 0
    try:
        return max(0, size - target.with_name(target.name + PART).stat().st_size)
    except OSError:
        return size


def check_space(folder: Path, wanted: int, free: Callable[[Path], int] | None = None) -> None:
    """Raise HubError where a folder's disk has not so many bytes, and some to spare."""
    there = folder
    while not there.exists():
        there = there.parent
    left = _free(there) if free is None else free(there)
    if wanted + SPARE > left:
        raise HubError(
            f"{shown(wanted)} are to be fetched into {folder}, whose disk has {shown(left)} left, of which "
            f"{shown(SPARE)} are to stay free"
        )


def fetch(
    stream: Stream,
    target: Path,
    size: int,
    sha256: str | None,
    progress: Callable[[int], None] = lambda _: None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch a file. `progress` is told of bytes that have come. Raise HubError."""
    if target.exists():
        return
    part = target.with_name(target.name + PART)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that nothing is written any more once a write has failed.
        with part.open("a+b", buffering=0) as file:
            _lock(file, target)
            if target.exists():
                part.unlink(missing_ok=True)
                return
            try:
                digest = _begun(file, size)
                _fill(stream, file, target, size, digest, progress, pause)
                _check(part, digest, sha256)
                os.fsync(file.fileno())
                part.replace(target)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                _give_back(file, part)
                raise _full(target, size) from error
    except OSError as error:
        if error.errno in FULL:
            raise _full(target, size) from error
        raise HubError(f"cannot write {target}: {error.strerror}") from error


def _give_back(file: FileIO, part: Path) -> None:
    """Free some of a disk that is full, which others need, too."""
    left = file.seek(0, os.SEEK_END) - SPARE
    if left > 0:
        file.truncate(left)
    else:
        part.unlink(missing_ok=True)


def _full(target: Path, size: int) -> HubError:
    """Return the error of a file for which there is no room."""
    here = size - missing(target, size)
    more = f"{shown(here)} of {shown(size)} are here: make room and run it again to go on"
    end = more if here else f"{target.name} was not fetched"
    return HubError(f"the disk of {target.parent} is full: {end}")


def _free(there: Path | int) -> int:
    """Return how many bytes are left of the disk that has a folder, or an open file."""
    told = os.statvfs(there)
    return told.f_bavail * told.f_frsize


def _lock(file: FileIO, target: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HubError(f"another process is fetching {target.name}") from None


def _begun(file: FileIO, size: int) -> hashlib._Hash:
    """Return the hash of what is there already; of nothing, where that is more than there should be."""
    if file.seek(0, os.SEEK_END) > size:
        file.truncate(0)
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest


def _fill(
    stream: Stream,
    file: FileIO,
    target: Path,
    size: int,
    digest: hashlib._Hash,
    progress: Callable[[int], None],
    pause: Callable[[float], None],
) -> None:
    """Append what is missing. Raise HubError, where the part stays."""
    failures = 0
    while (at := file.seek(0, os.SEEK_END)) < size:
        try:
            for piece in stream(at):
                kept = piece[: size - at]
                if _free(file.fileno()) < len(kept) + LEAST:
                    raise _full(target, size)
                _append(file, kept)
                digest.update(kept)
                at += len(kept)
                failures = 0 if kept else failures
                progress(len(kept))
        except HubError as error:
            if error.final:
                raise
            failures += 1
        else:
            failures += at < size
        if failures >= TRIES:
            raise HubError(f"the connection broke at {at} of {size} bytes: run it again to go on")
        if failures:
            pause(0.5 * 2**failures)


def _append(file: FileIO, piece: bytes) -> None:
    """Write bytes at the end. Raise OSError."""
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def _check(part: Path, digest: hashlib._Hash, sha256: str | None) -> None:
    if sha256 is not None and digest.hexdigest() != sha256:
        part.unlink(missing_ok=True)
        raise HubError(
            f"{part.name.removesuffix(PART)} is not what the hub promised (SHA-256): nothing was kept"
        )
