"""One batch, from the moment a process takes it up until it has ended, or another process may have it.

Rules:
- Its status only goes forward, by statements that hold only as long as this process has its lease (`shelf.change`).
- Lines are sent some at a time, by workers that share the runner's slots with all batches of the process. A line that
  may be sent again waits without a slot.
- Whatever ends it early (cancelled, expired, the lease is lost, the gateway stops) ends its requests. Those have no
  result, and are sent again if the batch goes on.
- What a batch has written before it was cancelled or expired is in its files. Lines that an expiry leaves over are in
  the error file as `batch_expired`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from gateway.batches import lines, shelf
from gateway.batches.again import TRIES, Verdict, code_of, pause, verdict
from gateway.batches.inputs import Checked, Mistake, Pieces, check
from gateway.batches.lines import ENDPOINTS, Line
from gateway.batches.records import OUTPUT, BatchRecord, FileRecord, outputs_of
from gateway.batches.results import Results
from gateway.batches.sending import Answer, Send
from gateway.store.store import Store
from gateway.telemetry.of_batches import BatchMetrics

log = logging.getLogger("gateway.batches")

T = TypeVar("T")

BEAT: Final = 1.0
"""Seconds between two looks at the store: how far the batch is goes there, and whether it is cancelled comes back."""
LEASE: Final = 30
"""Seconds after which another process may take up a batch whose holder is silent."""
WRITE: Final = 0.05
"""Seconds for which results are gathered before they are written."""
MOST_PENDING: Final = 16 << 20
"""Bytes of results that wait to be written, at most; workers wait then."""
_EXPIRED: Final = "the batch could not be finished in its completion window"


class Over(enum.Enum):
    """Why the lines of a batch are not sent any further."""

    DONE = "done"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"
    """Another process has taken it up."""
    STOPPED = "stopped"
    """The gateway stops."""


class Parts:
    """What the runs of a process share."""

    def __init__(
        self,
        store: Store,
        send: Send,
        metrics: BatchMetrics,
        clock: Callable[[], float],
        me: str,
    ) -> None:
        """`me` is what this process is called in leases; `clock` tells the seconds since the epoch."""
        self.store = store
        self.send = send
        self.metrics = metrics
        self.clock = clock
        self.me = me
        self.files: Path = store.folder("files")
        self.slots = asyncio.Semaphore(1)
        self.concurrency = 1
        self.most_lines = 0
        self.longest_line = 0

    def now(self) -> int:
        """Return the time in whole seconds."""
        return int(self.clock())

    def limit(self, concurrency: int, most_lines: int, longest_line: int) -> None:
        """Hold batches that are taken up from now on to these numbers."""
        if concurrency != self.concurrency:
            self.concurrency, self.slots = concurrency, asyncio.Semaphore(concurrency)
        self.most_lines, self.longest_line = most_lines, longest_line


class Run:
    """One batch while this process works on it."""

    def __init__(self, parts: Parts, record: BatchRecord) -> None:
        """Work on a batch whose lease and lock this process has."""
        self._parts = parts
        self._record = record
        self._over: Over | None = None
        self._results: Results
        self._pieces: Pieces
        self._ahead: deque[tuple[int, bytes]] = deque()
        self._filling = asyncio.Lock()
        self._news = asyncio.Event()
        """Set while there are results to be written."""
        self._room = asyncio.Event()
        """Set while there may be more of them."""
        self._room.set()
        self._writing = asyncio.Lock()
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether nobody will work on the batch any more."""
        return self._ended

    def drain(self) -> None:
        """Send no further line; those under way finish."""
        self._over = self._over or Over.STOPPED

    async def go(self) -> None:
        """Work on the batch until it has ended or must be left to others. Raises OSError, StoreError."""
        if self._record.status == "validating" and not await self._validated():
            return
        self._results = await asyncio.to_thread(self._opened)
        try:
            if self._record.status == "in_progress":
                over = await self._send_all()
                if over in (Over.LOST, Over.STOPPED):
                    return
                if over is Over.EXPIRED and not await self._expire():
                    return
            await self._finish()
        finally:
            self._results.close()

    # before

    async def _validated(self) -> bool:
        """Look through the input, and begin or fail. Return whether there is more to do."""
        parts, record = self._parts, self._record
        path = parts.files / record.input_file
        try:
            found = await asyncio.to_thread(
                check, path, record.endpoint, parts.most_lines, parts.longest_line
            )
        except FileNotFoundError:
            found = Checked(0, 0, None, (Mistake("file_not_found", "the input file is not there any more"),))
        now = parts.now()
        if found.mistakes:
            data = [mistake._asdict() for mistake in found.mistakes]
            errors = msgspec.json.encode({"object": "list", "data": data})
            values = {"status": "failed", "failed_at": now, "errors": errors}
            self._ended = await parts.store.write(
                lambda connection: shelf.end(connection, record.id, parts.me, (), **values)
            )
            log.info("batch %s of '%s' failed: its input has mistakes", record.id, record.owner)
            return False
        begun = {"total": found.requests, "last_line": found.last, "model": found.model}

        def begin(connection: Any) -> BatchRecord | None:
            renewed = shelf.change(connection, record.id, parts.me, **begun)
            if renewed is None or renewed.status != "validating":
                return renewed  # it was cancelled meanwhile
            return shelf.change(connection, record.id, parts.me, status="in_progress", in_progress=now)

        return await self._changed(begin)

    def _opened(self) -> Results:
        record = self._record
        output, errors = (self._parts.files / name for name in outputs_of(record.id))
        return Results(output, errors, record.last_line)

    # sending

    async def _send_all(self) -> Over:
        """Send every line that has no result. Return why there is no more to do."""
        record, parts = self._record, self._parts
        if parts.clock() >= record.expires:
            return Over.EXPIRED
        self._pieces = Pieces(parts.files / record.input_file, parts.longest_line, self._results.is_done)
        workers = [asyncio.create_task(self._work()) for _ in range(min(parts.concurrency, record.total))]
        sending = asyncio.gather(*workers)
        beside = [asyncio.create_task(self._beat()), asyncio.create_task(self._write_on())]
        watched: list[asyncio.Future[Any]] = [sending, *beside]
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for task in watched:
                if task.done():
                    task.result()
        except asyncio.CancelledError:
            self._over = self._over or Over.STOPPED
            raise
        finally:
            # Not before: a request whose task is cancelled answers, and its worker must not go on.
            self._over = self._over or Over.DONE
            for running in (*workers, *beside):
                running.cancel()
            await asyncio.gather(sending, *workers, *beside, return_exceptions=True)
            if self._over is not Over.LOST:
                await self._write()
        return self._over

    async def _work(self) -> None:
        """Send one line after the other."""
        while self._over is None:
            if not self._ahead:
                async with self._filling:
                    if not self._ahead:
                        self._ahead.extend(await whole(self._pieces.next))
                if not self._ahead:
                    return
            number, data = self._ahead.popleft()
            found = lines.read(data)
            if isinstance(found, Line):
                await self._answer(number, found)
            else:
                # The file was looked through; somebody has changed it since.
                await self._add(
                    number, lines.unanswered(self._record.name, number, "", found.code, found.message), False
                )

    async def _answer(self, number: int, line: Line) -> None:
        """Send a line until it has an answer that counts, and keep that. Return without one if the batch is over."""
        parts, record, tries = self._parts, self._record, 0
        while self._over is None:
            async with parts.slots:
                if self._over is not None:
                    return
                answer = await parts.send(record.owner, ENDPOINTS[line.url], line.body)
            if self._over not in (None, Over.STOPPED):
                return
            tries += 1
            found = _verdict(answer)
            if found is Verdict.WAIT or (found is Verdict.TRY and tries < TRIES):
                parts.metrics.retries.cell("waited" if found is Verdict.WAIT else "failed").value += 1
                await asyncio.sleep(pause(tries, answer.retry_after))
                continue
            await self._add(number, _written(record.name, number, line, answer), found is Verdict.DONE)
            return

    async def _add(self, number: int, line: bytes, good: bool) -> None:
        await self._room.wait()
        self._results.add(number, line, good)
        self._parts.metrics.requests.cell("completed" if good else "failed").value += 1
        self._news.set()
        if self._results.pending > MOST_PENDING:
            self._room.clear()

    async def _write_on(self) -> None:
        """Write results as they come, until cancelled. Raises OSError."""
        while True:
            await self._news.wait()
            await asyncio.sleep(WRITE)
            await self._write()

    async def _write(self) -> None:
        async with self._writing:
            self._news.clear()
            await whole(self._results.write, self._results.take())
            self._room.set()

    async def _beat(self) -> None:
        """Tell the store how far the batch is, until it is over, for whatever reason."""
        while self._over is None or self._over is Over.STOPPED:
            await asyncio.sleep(BEAT)
            if self._parts.clock() >= self._record.expires and self._over is None:
                self._over = Over.EXPIRED
            elif not await self._told():
                self._over = Over.LOST
            elif self._record.status == "cancelling" and self._over is None:
                self._over = Over.CANCELLED

    async def _told(self) -> bool:
        """Write how far the batch is, and renew the lease. Return whether it is still this process's."""
        await whole(self._results.sync)
        until = self._parts.now() + LEASE
        return await self._changed(
            partial(
                shelf.change,
                id=self._record.id,
                me=self._parts.me,
                lease_until=until,
                **_so_far(self._results),
            )
        )

    async def _changed(self, work: Callable[[Any], BatchRecord | None]) -> bool:
        """Change the batch in the store, and take over what it is then. Return whether it is still this process's."""
        found = await self._parts.store.write(work)
        if found is not None:
            self._record = found
        return found is not None

    # after

    async def _expire(self) -> bool:
        """Write of all lines that are left over that they came too late. Return whether the lease is still held."""
        record, parts = self._record, self._parts
        log.info("batch %s of '%s' has expired", record.id, record.owner)
        pieces = Pieces(parts.files / record.input_file, parts.longest_line, self._results.is_done)
        while piece := await asyncio.to_thread(pieces.next):
            for number, data in piece:
                found = lines.read(data)
                name = found.custom_id if isinstance(found, Line) else ""
                line = lines.unanswered(record.name, number, name, "batch_expired", _EXPIRED)
                self._results.add(number, line, False)
                parts.metrics.requests.cell("expired").value += 1
            await whole(self._results.write, self._results.take())
            if not await self._told():
                return False
        return await self._changed(partial(shelf.change, id=record.id, me=parts.me, expired=parts.now()))

    async def _finish(self) -> None:
        """Make files of what was written, and end the batch."""
        parts, results = self._parts, self._results
        if self._record.status != "finalizing":
            await whole(results.sync)
            values = _so_far(results)
            if self._record.status != "cancelling":
                values |= {"status": "finalizing", "finalizing": parts.now()}
            if not await self._changed(partial(shelf.change, id=self._record.id, me=parts.me, **values)):
                return
        record, now = self._record, parts.now()
        await whole(results.sync)
        ids = outputs_of(record.id)
        found: list[FileRecord] = []
        for file, count, what in zip(
            ids, (results.completed, results.failed), ("output", "error"), strict=True
        ):
            path = parts.files / file
            if count:
                expires = None if record.output_seconds is None else now + record.output_seconds
                size = await asyncio.to_thread(lambda path=path: path.stat().st_size)  # type: ignore[misc]
                found.append(
                    FileRecord(file, record.owner, OUTPUT, f"{record.id}_{what}.jsonl", size, now, expires)
                )
            else:
                await asyncio.to_thread(path.unlink, True)
        status = record.ends_as
        kept = {each.id for each in found}
        ending: dict[str, Any] = {
            "status": status,
            _ENDED[status]: now,
            "output_file": ids[0] if ids[0] in kept else None,
            "error_file": ids[1] if ids[1] in kept else None,
        }
        self._ended = await parts.store.write(
            lambda connection: shelf.end(connection, record.id, parts.me, found, **ending)
        )
        log.info("batch %s of '%s' is %s", record.id, record.owner, status)


_ENDED: Final = {"completed": "completed_at", "cancelled": "cancelled", "expired": "expired"}
"""The time of each status that a batch may end with."""


def _so_far(results: Results) -> dict[str, Any]:
    """Return how far a batch is, as the store keeps it."""
    usage = msgspec.json.encode(results.spent.shown())
    return {"completed": results.completed, "failed": results.failed, "usage": usage}


async def whole(function: Callable[..., T], *arguments: Any) -> T:
    """Return what a function returns in a thread. Where the task is cancelled, it ends when the function has."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _verdict(answer: Answer) -> Verdict:
    if answer.hopeful:
        return Verdict.WAIT
    body = answer.body
    return verdict(answer.status, "" if body is None or answer.status < 300 else code_of(body))


def _written(name: str, number: int, line: Line, answer: Answer) -> bytes:
    """Return the output line of an answer."""
    if answer.body is None:
        message = "the answer is too long to be kept"
        return lines.unanswered(name, number, line.custom_id, "answer_too_large", message)
    return lines.answered(name, number, line.custom_id, answer.status, answer.request_id, answer.body)
