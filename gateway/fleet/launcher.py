"""Launched engines: one supervised child process per backend, started anew whenever it ends.

Rules:
- Each engine is the child of a warden process (`gateway.fleet.warden`), which holds one end of a socket pair. When the
  gateway closes the other end, or is killed, the warden ends the engine and all it forked, unless it is to keep it for
  the next gateway (`gateway.fleet.adoption`).
- Every start gets a fresh port on loopback, unless the engine has a fixed one, which must be free then. Restarts come
  with growing delays, so that a broken engine costs little.
- An engine that can be given a key by environment gets a new one with each start, so that nobody else on this machine
  may use its port. The key is in no command line and no log.
- A command that cannot be made or started, for whatever reason, is tried again like an engine that died.
- Whether a running engine is ready is found out by `gateway.fleet.health`; this module only knows processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import NamedTuple

from backends.base import Launch, LaunchError
from gateway.fleet.adoption import Remote
from gateway.fleet.arrival import Arrivals
from gateway.fleet.left import Mark
from gateway.fleet.output import Output
from gateway.fleet.ring import Ring
from gateway.fleet.spawning import HOST, exit_words, given_key
from gateway.fleet.start import AdapterBug, Started, Warden, guess
from gateway.fleet.start import ProcessState as ProcessState  # noqa: PLC0414 (others import it from here)

log = logging.getLogger("gateway.fleet")

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds between an engine's end and its next start: the first time, and at most."""
STEADY = 60.0
"""Seconds an engine must have run for its next end to count as the first."""
HOPE = 3
"""Ends in a row after which an engine is still expected back soon."""
LAST_WORDS = 1.0
"""Seconds for reading what an engine printed before it ended."""
WARDEN_MARGIN = 5.0
"""Seconds beyond the engine's grace until a warden that does not end is ended."""


def restart_delay(failures: int, rng: Random) -> float:
    """Return the seconds to wait after this many ends in a row: up to a quarter less than the schedule, by chance."""
    scheduled: float = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(failures - 1, 16))
    return scheduled * rng.uniform(0.75, 1.0)


class End(NamedTuple):
    """Why a run of the engine is over, and the level at which to log it."""

    words: str
    level: int = logging.ERROR


def _always_info(line: str) -> int:
    """Log every line of an engine as information."""
    return logging.INFO


class Process:
    """One launched engine, kept running until `stop`."""

    def __init__(
        self,
        name: str,
        command: Callable[[str, int], Launch],
        on_state: Callable[[ProcessState], None],
        crash_reason: Callable[[Sequence[str]], str | None],
        rng: Random,
        log_level: Callable[[str], int] = _always_info,
        new_key: Callable[[], str] = secrets.token_urlsafe,
    ) -> None:
        """Start nothing yet.

        `name` is the backend's, for the log. `command` makes the command line for a host and port, and may raise
        LaunchError. `on_state` is called after every change of `state`. `crash_reason` tells why the engine died, from
        its last lines. `log_level` tells how serious a line of its output is. `new_key` makes the key of a start.
        """
        self.state = ProcessState.STOPPED
        self.restarts = 0
        """Times the engine was started again after it had run."""
        self.last_error: str | None = None
        """Why it last failed, in one line; None if it never did."""
        self.port: int | None = None
        self.pid: int | None = None
        """The engine's process id while it runs."""
        self.key: str | None = None
        """What the running engine asks of its clients as a bearer token, if it was given a key."""
        self.start_deadline: float | None = None
        """The event loop's time by which the engine now starting or running must have become ready."""
        self._start_timeout = 0.0
        self.arrivals = Arrivals(name, command, new_key)
        """What starts it, or takes it over."""
        self._name = name
        self._on_state = on_state
        self._output = Output(name, log_level, crash_reason)
        self._rng = rng
        self._started = False
        self._ran = False
        """Whether there was a process at the last start."""
        self._failures = 0
        """Ends in a row, each of them soon after the start."""
        self._control: socket.socket | None = None
        self._warden: Warden | None = None
        self.adopted = False
        """Whether the engine that runs was taken over from the gateway before."""
        self._mark: Mark | None = None
        """What the next gateway is told of the engine that runs."""
        self.outlived = False
        """Whether the gateway is about to end, and the engine stays where it can."""
        self._killed: str | None = None
        self._renewing = False
        self._woken = asyncio.Event()
        """Set when the wait for the next start is to end."""
        self._stopping = False
        self._finished = asyncio.Event()
        self._finished.set()

    @property
    def url(self) -> str:
        """The URL at which the engine serves. Only while it runs."""
        if self.port is None:
            raise RuntimeError(f"backend '{self._name}' does not run")
        return f"http://{HOST}:{self.port}"

    @property
    def printed(self) -> Ring:
        """The last lines that the engine printed, over all its starts."""
        return self._output.ring

    @property
    def coming(self) -> bool:
        """Whether an engine that has ended is expected back soon: it ran, and has not ended again and again."""
        if self.state is ProcessState.ENDED:
            return not self._stopping and self._failures < HOPE
        return self.state is ProcessState.FAILED and self._ran and self._failures <= HOPE

    async def run(self, once: Callable[[], bool] = lambda: False) -> None:
        """Keep the engine running until `stop` or until cancelled. When this returns, nothing of it runs any more.

        `once` tells, when it has ended by itself, whether this is to return then, too. It may be called again.
        """
        self._finished.clear()
        self._failures = 0
        try:
            while not self._stopping:
                self._woken.clear()
                end = await self._attempt()
                self._output.ring.add("end", f"the engine {end.words}")
                if self._stopping:
                    break
                if self._renewing:
                    self._renewing = self._started = False
                    self._failures = 0
                    continue
                if once():
                    log.log(end.level, "backend '%s' %s", self._name, end.words)
                    self._become(ProcessState.FAILED)
                    break
                self._failures += 1
                delay = restart_delay(self._failures, self._rng)
                log.log(end.level, "backend '%s' %s; next start in %.1f s", self._name, end.words, delay)
                self._become(ProcessState.FAILED)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._woken.wait()
        except asyncio.CancelledError:
            self._output.ring.add("end", "the engine stopped")
            raise
        finally:
            self._become(ProcessState.STOPPED)
            self._stopping = False
            self._finished.set()

    def put_off(self) -> None:
        """Have the time in which the engine must become ready begin now."""
        if self.start_deadline is not None:
            self.start_deadline = asyncio.get_running_loop().time() + self._start_timeout

    @property
    def load_seconds(self) -> float:
        """How long the start of the engine that was taken over took; 0 where nobody has told."""
        return 0.0 if self._mark is None else self._mark.left.load_seconds

    def loaded(self, seconds: float) -> None:
        """Tell the next gateway how long the start of the engine that runs took."""
        if self._mark is not None:
            self._mark.tell_loaded(seconds)

    def kill(self, reason: str) -> None:
        """End the running engine because of `reason`. It is started anew like one that died."""
        if self._control is not None and self._killed is None:
            self._killed = reason
            self._let_go()

    def renew(self) -> None:
        """End the running engine and start it at once with a new command line. That is not counted as a restart."""
        if self._control is not None:
            self._renewing = True
            self._let_go()
        self._woken.set()

    def end(self) -> None:
        """End the engine, and `run` once the engine has ended."""
        self._stopping = True
        self._woken.set()
        self._let_go()

    async def stop(self) -> None:
        """End the engine and `run`, and wait until both have ended."""
        self.end()
        await self._finished.wait()

    async def _attempt(self) -> End:
        """Start the engine, or take over the one that was left, and wait for its end."""
        self._ran = False
        self._become(ProcessState.STARTING)
        try:
            started = await self.arrivals.come()
        except (LaunchError, OSError, ValueError) as error:
            return self._cannot_start(str(error))
        except AdapterBug as error:
            return self._bug(str(error), error.__cause__ or error)
        except Exception as error:  # noqa: BLE001 (an adapter may come from elsewhere)
            return self._bug("its command line could not be used", error)
        self.key, self.adopted = started.key, started.adopted
        self._output.begin(self.key or given_key(started.launch))
        self._control, self._warden, self._killed = started.control, started.warden, None
        self._mark = started.mark
        if self._stopping:  # which was said while it was being started, when there was nobody to tell
            self._let_go()
        stays = False
        try:
            reading = asyncio.create_task(self._output.drain(started.warden.stdout))
            try:
                status = await self._watch(started)
            except asyncio.CancelledError:
                ends = self._stopping or self._renewing or self._killed is not None
                stays = self.outlived and started.mark is not None and started.mark.told and not ends
                raise
            finally:
                if stays:
                    reading.cancel()
                else:
                    self._let_go()  # ends what still runs, also when this task was cancelled
                    await self._end(started.warden, started.launch.stop_timeout, reading)
            return self._ended(status)
        finally:
            self._control = self._warden = self._mark = self.pid = self.port = self.key = (
                self.start_deadline
            ) = None
            await self._close(started, stays)

    async def _close(self, started: Started, stays: bool) -> None:
        """Let go of an engine that has ended, or stays for the next gateway."""
        started.control.close()
        if isinstance(started.warden, Remote):
            started.warden.leave()
        try:
            if not stays:
                await asyncio.to_thread(self._clear, started)
        finally:
            if started.mark is not None:
                started.mark.release()

    def _clear(self, started: Started) -> None:
        """Remove what is left of an engine that has ended."""
        started.folder.remove()
        if started.mark is not None:
            started.mark.forget()

    async def _watch(self, started: Started) -> int:
        loop, warden = asyncio.get_running_loop(), started.warden
        hear = warden.hear if isinstance(warden, Remote) else partial(loop.sock_recv, started.control, 32)
        pid, _, more = (await hear()).partition(b"\n")
        if pid:
            began = loop.time()
            self.pid, self.port = int(pid), started.port
            self._start_timeout = started.launch.start_timeout
            self.start_deadline = began + self._start_timeout
            self._tell_the_next(started)
            self.restarts += self._started
            self._started = self._ran = True
            words = "goes on" if self.adopted else "started"
            log.info("backend '%s' %s: %s, process %d", self._name, words, self.url, self.pid)
            what = "is taken over from the gateway before" if self.adopted else "was started"
            self._output.ring.add("start", f"the engine {what}: process {self.pid}, {self.url}")
            self._become(ProcessState.RUNNING)
            if not more:
                await hear()
            if loop.time() - began >= STEADY:
                self._failures = 0
            self.start_deadline = None
            self._become(ProcessState.ENDED)
        return await warden.wait()

    def _tell_the_next(self, started: Started) -> None:
        """Write down what the next gateway must know of the engine that runs."""
        if started.mark is None or self.pid is None:
            return
        try:
            started.mark.tell(self.pid)
        except OSError as error:
            log.error("backend '%s' cannot be taken over by another gateway: %s", self._name, error)

    async def _end(self, warden: Warden, grace: float, reading: asyncio.Task[None]) -> None:
        """Wait until nothing is left of an engine that has ended or was told to end."""
        try:
            async with asyncio.timeout(grace + WARDEN_MARGIN):
                await warden.wait()
        except TimeoutError:
            warden.kill()
            await warden.wait()
        if warden.returncode is not None and warden.returncode < 0 and self.pid is not None:
            # The warden itself was killed. The kernel has ended the engine; this ends what that had forked.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await reading

    def _let_go(self) -> None:
        """Close our half of the socket pair, which tells the warden to end the engine."""
        if self._control is not None:
            if isinstance(self._warden, Remote):
                self._warden.end()
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    def _become(self, state: ProcessState) -> None:
        if state is not self.state:
            self.state = state
            self._on_state(state)

    def _cannot_start(self, reason: str) -> End:
        known = reason == self.last_error
        self.last_error = reason
        return End(f"cannot start: {reason}", logging.DEBUG if known else logging.ERROR)

    def _bug(self, what: str, error: BaseException) -> End:
        """Return the end of a start that an exception of the adapter has prevented."""
        reason = f"{what}, which is a bug of its adapter ({type(error).__name__}: {error})"
        if reason != self.last_error:
            log.error("backend '%s': %s", self._name, reason, exc_info=error)
        return self._cannot_start(reason)

    def _ended(self, status: int) -> End:
        if self._stopping or self._renewing:
            return End("stopped", logging.DEBUG)
        by_force = status in (128 + signal.SIGKILL, -signal.SIGKILL)
        # One that was killed had no time to say why.
        known = None if by_force else self._output.crash_reason()
        reason = self._killed or known or guess(status, self._output.tail)
        self.last_error = f"{reason} ({exit_words(status)})"
        return End(f"stopped: {self.last_error}")
