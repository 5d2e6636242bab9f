"""The access log: one line of JSON for each request that has ended, for people's tools and for `gateway replay`.

Rules:
- Nothing a client wrote is kept but what rules may look at: of headers and `metadata` only those that the rules of the
  config name. Never a prompt, an answer or a key.
- A line says where the time went: milliseconds in each hop, which sum to the total.
- A file that was moved away or deleted is begun anew, so that it can be rotated.
- Nobody waits for the file: what is not written in time is dropped, and a line says how much that was.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Collection
from time import time
from typing import Any, Final

import msgspec

from gateway.asked import Asked
from gateway.config.inherit import looked_at
from gateway.config.schema import Config
from gateway.outlet import Outlet
from gateway.request import Exchange, FinishedSink
from gateway.telemetry.timeline import HOPS

_MILLISECOND: Final = 1e6
"""Nanoseconds per millisecond."""
_LONGEST: Final = 256
"""Most characters of anything that a client wrote."""

log = logging.getLogger("gateway.access")

_encode = msgspec.json.Encoder().encode


class AccessLog:
    """A sink that writes a line for each request, in front of another one."""

    def __init__(self, sink: FinishedSink, outlet: Outlet, session: Callable[[Asked], str]) -> None:
        """Pass requests on to `sink`, and write to `outlet`. `session` returns the session that a request names."""
        self._sink = sink
        self._session = session
        self._outlet = outlet
        self.headers: Collection[str] = ()
        """The headers that are kept, in lower case."""
        self.metadata: Collection[str] = ()
        """The entries of the body's `metadata` that are kept."""

    def finished(self, exchange: Exchange) -> None:
        """Record one request that has ended."""
        self._sink.finished(exchange)
        self._outlet.put(_encode(self._line(exchange)).decode())

    def _line(self, exchange: Exchange) -> dict[str, Any]:
        timeline = exchange.timeline
        line: dict[str, Any] = {
            "time": round(time() - timeline.total / 1e9, 3),
            "id": exchange.name,
            "operation": exchange.operation.value,
            "outcome": exchange.outcome,
            "backend": exchange.backend,
            "attempts": exchange.attempts,
            "milliseconds": round(timeline.total / _MILLISECOND, 3),
            "hops": {
                hop: round(spent / _MILLISECOND, 3)
                for hop, spent in zip(HOPS, timeline.spent, strict=True)
                if spent
            },
        }
        decision = exchange.decision
        if decision is not None:
            line |= {"decision": decision.id.decode(), "rule": decision.rule or None, "model": exchange.model}
            line["asked"] = facts(exchange.asked, self._session(exchange.asked), self.headers, self.metadata)
        attempt = exchange.attempt
        if attempt is not None:
            line["tokens"] = {"in": attempt.tokens.input, "out": attempt.tokens.output}
        return line


class AccessLogs:
    """The access log of whichever config is in force."""

    def __init__(self, sink: FinishedSink, session: Callable[[Asked], str]) -> None:
        """Start without a log; finished requests go to `sink`. `session` returns the session that a request names."""
        self._sink = sink
        self._session = session
        self._outlet: Outlet | None = None
        self._path: str | None = None

    def apply(self, config: Config) -> FinishedSink:
        """Return the sink of requests by this config. A log that cannot be opened is said, and there is none."""
        path = config.server.log.access
        if path != self._path:
            self.close()
            self._outlet, self._path = _opened(path), path
        if self._outlet is None:
            return self._sink
        found = AccessLog(self._sink, self._outlet, self._session)
        found.headers, found.metadata = looked_at(config)
        return found

    def close(self) -> None:
        """Write what is still to be written, for a moment at most, and let the file go."""
        if self._outlet is not None:
            self._outlet.flush()
            if self._path != "-":
                self._outlet.close()
        self._outlet = self._path = None


def _opened(path: str | None) -> Outlet | None:
    """Return what writes to a file, or to standard output where it is `-`."""
    if path is None:
        return None
    if path == "-":
        return Outlet(sys.stdout, _dropped)
    try:
        return Outlet(open(path, "a", encoding="utf-8"), _dropped, before=_Followed(path))
    except OSError as error:
        log.error("there is no access log: %s cannot be written: %s", path, error.strerror)
        return None


class _Followed:
    """Has a file descriptor follow a path: what is there now is written to, not what was there once."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, file: int) -> None:
        try:
            if os.path.samestat(os.stat(self._path), os.fstat(file)):
                return
        except FileNotFoundError:
            pass
        except OSError:
            return
        try:
            fresh = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError:
            return
        os.dup2(fresh, file, inheritable=False)
        os.close(fresh)


def _dropped(count: int) -> str:
    return _encode({"time": round(time(), 3), "dropped": count}).decode()


def facts(asked: Asked, session: str, headers: Collection[str], metadata: Collection[str]) -> dict[str, Any]:
    """Return what rules may look at, without what does not apply; of headers and metadata only those of these names."""
    request = asked.request
    sent = {name: asked.headers.get(name.encode(), b"").decode("latin-1")[:_LONGEST] for name in headers}
    entries = {name: asked.metadata(name)[:_LONGEST] for name in metadata}
    found = {
        "model": request.model[:_LONGEST],
        "key": asked.caller.name,
        "user": asked.user[:_LONGEST],
        "session": session[:_LONGEST],
        "stream": request.stream,
        "prompt_tokens": asked.prompt_tokens,
        "max_tokens": asked.max_tokens,
        "tools": asked.has_tools,
        "images": asked.has_images,
        "headers": {name: value for name, value in sent.items() if value},
        "metadata": {name: value for name, value in entries.items() if value},
    }
    return {name: value for name, value in found.items() if value not in ("", None, False, {})}
