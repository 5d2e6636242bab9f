"""What clients may do with files and batches: every rule about them that is not HTTP.

Rules:
- A file or batch of another key does not exist.
- An upload is written to the disk as it comes, and is a file once all of it is there.
- How much a key may have is checked where it is kept, in the same transaction.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.batches import shelf
from gateway.batches.asking import expiry, invalid
from gateway.batches.lines import ENDPOINTS
from gateway.batches.records import (
    PURPOSES,
    WINDOW,
    WINDOW_SECONDS,
    BatchRecord,
    FileRecord,
)
from gateway.batches.runner import Runner
from gateway.batches.sending import Send
from gateway.config.batches import Batches
from gateway.errors import GatewayError, Own
from gateway.store.failure import StoreError
from gateway.store.store import Store
from gateway.telemetry.of_batches import BatchMetrics

_PIECE: Final = 1 << 20
"""Bytes of an upload that are gathered before they are written."""
_KEPT: Final = 30 * 86_400
"""Seconds after which the input of batches expires where its client does not say, as OpenAI has it."""
_LONGEST_NAME: Final = 255
_PAIRS, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512
"""What metadata may have, as OpenAI has it."""


class ExpiresAfter(msgspec.Struct):
    """When something expires, as clients say it."""

    anchor: str
    seconds: int


class NewBatch(msgspec.Struct):
    """The body of a request for a batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


_new: Final = msgspec.json.Decoder(NewBatch)


class Upload:
    """A file that is being uploaded."""

    def __init__(self, path: Path, most: int) -> None:
        """Write to this path at most so many bytes."""
        self._path = path
        self._most = most
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._gathered: list[bytes] = []
        self._held = 0
        self._is_left = False
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Take a piece of the content. Raises GatewayError where there is too much of it, or no room on the disk."""
        self.size += len(data)
        self._held += len(data)
        if self.size > self._most:
            message = f"the file is larger than {self._most} bytes, which `server.batches.file` allows"
            raise GatewayError(Own.TOO_LARGE, message, param="file", code="file_too_large")
        self._gathered.append(data)
        if self._held >= _PIECE:
            await self._write()

    async def _write(self) -> None:
        data, self._gathered, self._held = b"".join(self._gathered), [], 0
        await self._on_disk(_write_all, self._file, data)

    async def done(self) -> None:
        """Have all of it on the disk. Raises StoreError where that cannot be."""
        await self._write()
        await self._on_disk(os.fsync, self._file)
        self._close()

    async def _on_disk(self, call: Callable[..., None], *arguments: Any) -> None:
        """Make a call that writes, in a thread. Raises StoreError where the disk is full or fails."""
        try:
            await asyncio.to_thread(call, *arguments)
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StoreError("its disk is full" if is_full else "its disk fails") from None

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def leave(self) -> None:
        """Let the content stay, whatever comes. Should nobody know of it later, the sweep removes it."""
        self._is_left = True

    def drop(self) -> None:
        """Forget it."""
        self._close()
        if not self._is_left:
            self._path.unlink(missing_ok=True)


class Service:
    """The files and batches of a store."""

    def __init__(
        self,
        store: Store,
        send: Send,
        metrics: BatchMetrics,
        settings: Callable[[], tuple[Batches, int]],
        clock: Callable[[], float],
    ) -> None:
        """Use a store. Arguments are as those of `gateway.batches.runner.Runner`."""
        self._store = store
        self.runner = Runner(store, send, metrics, settings, clock)
        self._read_settings = settings
        self._clock = clock
        self._folder = store.folder("files")

    @property
    def _settings(self) -> Batches:
        return self._read_settings()[0]

    def path(self, record: FileRecord) -> Path:
        """Return where the content of a file is."""
        return self._folder / record.id

    # files

    def upload(self) -> tuple[str, Upload]:
        """Return the id of a new file, and what takes its content."""
        new = f"file-{secrets.token_hex(12)}"
        return new, Upload(self._folder / new, self._settings.file)

    async def keep(
        self, owner: str, id: str, upload: Upload, purpose: str, filename: str, expires_after: int | None
    ) -> FileRecord:
        """Have what was uploaded be a file of this owner. Raises GatewayError."""
        if purpose not in PURPOSES:
            raise invalid(f"'purpose' must be one of {', '.join(PURPOSES)}", "purpose")
        await upload.done()
        now = int(self._clock())
        after = _KEPT if expires_after is None and purpose == "batch" else expires_after
        expires = None if after is None else now + after
        name = filename[:_LONGEST_NAME] or "file"
        record = FileRecord(id, owner, purpose, name, upload.size, now, expires)
        most, count = self._settings.storage, self._settings.files
        try:
            full = await self._store.write(
                lambda connection: shelf.add_upload(connection, record, most, count)
            )
        except asyncio.CancelledError:
            # Its row is stored all the same, or will be.
            upload.leave()
            raise
        if full is shelf.Full.COUNT:
            raise invalid(
                f"this key has {count} files, which is as many as it may have", code="too_many_files"
            )
        if full is shelf.Full.BYTES:
            message = (
                f"the files of this key would have more than {most} bytes: delete some, or let them expire"
            )
            raise GatewayError(Own.TOO_LARGE, message, code="storage_full")
        return record

    async def file(self, owner: str, id: str) -> FileRecord:
        """Return a file. Raises GatewayError."""
        record = await self._store.read(lambda connection: shelf.find_file(connection, owner, id))
        if record is None or (record.expires is not None and record.expires <= self._clock()):
            raise _missing("file", id)
        return record

    async def files(
        self, owner: str, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[FileRecord], bool]:
        """Return files of an owner, and whether there are more. Raises GatewayError."""
        found = await self._store.read(
            lambda connection: shelf.list_files(connection, owner, purpose, after, limit + 1, newest_first)
        )
        if found is None:
            raise _missing("file", after or "", "after")
        return found[:limit], len(found) > limit

    async def delete(self, owner: str, id: str) -> None:
        """Delete a file. Raises GatewayError where there is none, or a batch reads it."""
        record = await self.file(owner, id)
        reader = await self._store.write(lambda connection: shelf.remove_file(connection, owner, id))
        if reader is not None:
            message = f"the batch {reader} reads this file: cancel it, or wait until it has ended"
            raise GatewayError(Own.INVALID, message, code="file_in_use", status=409)
        await asyncio.to_thread(self.path(record).unlink, True)

    # batches

    async def create(self, owner: str, body: bytes) -> BatchRecord:
        """Have a batch be worked on. Raises GatewayError."""
        new = _read(body)
        record = await self.file(owner, new.input_file_id)
        if record.purpose != "batch":
            raise invalid("the input file was not uploaded with the purpose 'batch'", "input_file_id")
        now = int(self._clock())
        after = new.output_expires_after
        batch = BatchRecord(
            id=f"batch_{secrets.token_hex(12)}",
            owner=owner,
            endpoint=new.endpoint,
            input_file=record.id,
            status="validating",
            created=now,
            expires=now + WINDOW_SECONDS,
            metadata=None if new.metadata is None else msgspec.json.encode(new.metadata),
            output_seconds=None
            if after is None
            else expiry(after.anchor, after.seconds, "output_expires_after"),
        )
        most = self._settings.open

        def add(connection: Any) -> bool:
            # Looked for once more: since then it may have been deleted.
            if shelf.find_file(connection, owner, record.id, hold=True) is None:
                raise _missing("file", record.id)
            return shelf.add_batch(connection, batch, most)

        if not await self._store.write(add):
            message = f"this key has {most} batches that have not ended, which is as many as it may have"
            raise invalid(message, code="too_many_batches")
        self.runner.wake()
        return batch

    async def batch(self, owner: str, id: str) -> BatchRecord:
        """Return a batch. Raises GatewayError."""
        found = await self._store.read(lambda connection: shelf.find_batch(connection, owner, id))
        if found is None:
            raise _missing("batch", id)
        return found

    async def batches(self, owner: str, after: str | None, limit: int) -> tuple[list[BatchRecord], bool]:
        """Return batches of an owner, newest first, and whether there are more. Raises GatewayError."""
        found = await self._store.read(
            lambda connection: shelf.list_batches(connection, owner, after, limit + 1)
        )
        if found is None:
            raise _missing("batch", after or "", "after")
        return found[:limit], len(found) > limit

    async def cancel(self, owner: str, id: str) -> BatchRecord:
        """Have a batch be cancelled. Raises GatewayError where there is none, or it has ended."""
        now = int(self._clock())
        found = await self._store.write(lambda connection: shelf.cancel(connection, owner, id, now))
        if found is None:
            raise _missing("batch", id)
        if found.status not in ("cancelling", "cancelled"):
            message = f"the batch is {found.status} and cannot be cancelled"
            raise GatewayError(Own.INVALID, message, code="batch_not_cancellable", status=409)
        self.runner.wake()
        return found


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _read(body: bytes) -> NewBatch:
    """Return what a body asks for. Raises GatewayError."""
    try:
        new = _new.decode(body)
    except msgspec.ValidationError as error:
        what = str(error)
        raise invalid(
            f"the body is wrong: {what}", what.rpartition("$.")[2].strip("`") if "$." in what else None
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise invalid("the body is no JSON object", code="invalid_json") from None
    if new.endpoint not in ENDPOINTS:
        raise invalid(f"'endpoint' must be one of {', '.join(ENDPOINTS)}", "endpoint")
    if new.completion_window != WINDOW:
        raise invalid(f"'completion_window' must be '{WINDOW}'", "completion_window")
    metadata = new.metadata or {}
    if len(metadata) > _PAIRS or any(
        len(name) > _LONGEST_KEY or len(value) > _LONGEST_VALUE for name, value in metadata.items()
    ):
        message = (
            f"it may have {_PAIRS} pairs, of keys of {_LONGEST_KEY} and values of {_LONGEST_VALUE} characters"
        )
        raise invalid(message, "metadata")
    return new


def _missing(what: str, id: str, param: str = "id") -> GatewayError:
    return GatewayError(
        Own.UNKNOWN_URL, f"there is no {what} {id[:64]!r}", param=param, code=f"{what}_not_found"
    )
