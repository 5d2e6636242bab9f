"""The access log: one line for each request that has ended, as JSON for tools and `gateway replay`, or text for people.

Rules:
- Nothing a client wrote is kept but what rules may look at: of headers and `metadata` only those that the rules of the
  config name. Never a prompt, an answer or a key.
- A line says where the time went: milliseconds in each hop, which sum to the total. What is not known is not there.
- So many lines in a second and no more; how many were left out is said.
- A file that was moved away or deleted is begun anew, so that it can be rotated.
- Nobody waits for the file: what is not written in time is dropped, and a line says how much that was.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Collection
from time import localtime, monotonic, strftime, time
from typing import Any, Final

import msgspec

from backends.base import Usage
from gateway.asked import Asked
from gateway.config.inherit import looked_at
from gateway.config.schema import Config
from gateway.logs import one_line
from gateway.outlet import Outlet, dropped
from gateway.request import Exchange, FinishedSink
from gateway.telemetry.cells import NONE
from gateway.telemetry.timeline import HOPS

_MILLISECOND: Final = 1e6
"""Nanoseconds per millisecond."""
_GATHER: Final = 0.1
"""Seconds for which lines are collected before they are written."""
_TOKENS: Final = {"input": "in", "output": "out"}
"""Members of `backends.base.Usage` that are called otherwise here, as in the metrics."""
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
        self._second = 0.0
        self._lines = 0
        """Lines since `_second` began."""
        self.rate = 1000
        """Most lines per second."""
        self.is_text = False
        """Whether the lines are for people."""
        self.headers: Collection[str] = ()
        """The headers that are kept, in lower case."""
        self.metadata: Collection[str] = ()
        """The entries of the body's `metadata` that are kept."""

    def finished(self, exchange: Exchange) -> None:
        """Record one request that has ended."""
        self._sink.finished(exchange)
        now = monotonic()
        if now - self._second >= 1.0:
            self._second, self._lines = now, 0
        self._lines += 1
        if self._lines > self.rate:
            self._outlet.leave_out()
        else:
            self._outlet.put(text(exchange) if self.is_text else _encode(self._line(exchange)).decode())

    def _line(self, exchange: Exchange) -> dict[str, Any]:
        timeline = exchange.timeline
        line: dict[str, Any] = {
            "time": round(time() - timeline.total / 1e9, 3),
            "id": exchange.name,
            **_known(exchange),
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
            line["bytes"] = {"in": len(exchange.request.body)}
        tokens = _tokens(exchange.usage)
        if tokens:
            line["tokens"] = tokens
        return line


class AccessLogs:
    """The access log of whichever config is in force."""

    def __init__(self, session: Callable[[Asked], str]) -> None:
        """Start without a log. `session` returns the session that a request names."""
        self._session = session
        self._outlet: Outlet | None = None
        self._kind: tuple[str | None, str] = (None, "")
        """The path and the format."""

    def apply(self, config: Config, sink: FinishedSink) -> FinishedSink:
        """Return the sink of requests by this config, which passes them on to `sink`.

        A log that cannot be opened is said, and there is none.
        """
        settings = config.server.log
        kind = settings.access, settings.access_format
        if kind != self._kind:
            self.close()
            self._outlet, self._kind = _opened(*kind), kind
        if self._outlet is None:
            return sink
        found = AccessLog(sink, self._outlet, self._session)
        found.headers, found.metadata = looked_at(config)
        found.rate, found.is_text = settings.access_rate, settings.access_format == "text"
        return found

    def close(self) -> None:
        """Write what is still to be written, for a moment at most, and let the file go."""
        if self._outlet is not None:
            self._outlet.flush()
            if self._kind[0] != "-":
                self._outlet.close()
        self._outlet, self._kind = None, (None, "")


def _opened(path: str | None, form: str) -> Outlet | None:
    """Return what writes to a file, or to standard output where it is `-`."""
    if path is None:
        return None
    notice = dropped if form == "text" else _dropped
    if path == "-":
        return Outlet(sys.stdout, notice, gather=_GATHER)
    try:
        return Outlet(open(path, "a", encoding="utf-8"), notice, before=_Followed(path), gather=_GATHER)
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


def _known(exchange: Exchange) -> dict[str, Any]:
    """Return what is not known of every request."""
    known = {
        "key": "" if exchange.key == NONE or exchange.decision is not None else exchange.key,
        "trace": exchange.trace_id,
        "client": exchange.way.client(exchange.headers),
        "status": exchange.status,
        "error": exchange.code[:_LONGEST],
        "first_token": first_token(exchange),
    }
    return {name: value for name, value in known.items() if value}


def first_token(exchange: Exchange) -> float | None:
    """Return the milliseconds from the request's last byte to the first content of a stream; None without any."""
    if not exchange.first_token_at:
        return None
    return round((exchange.first_token_at - exchange.timeline.received) / _MILLISECOND, 3)


def _tokens(usage: Usage | None) -> dict[str, int]:
    """Return the tokens as far as they are known."""
    if usage is None:
        return {}
    counts = msgspec.structs.asdict(usage)
    return {_TOKENS.get(name, name): count for name, count in counts.items() if count}


def text(exchange: Exchange) -> str:
    """Return the line for people: who, what, where, status, tokens, first token, total."""
    who = exchange.key
    peer, tokens, first = (
        exchange.way.client(exchange.headers),
        _tokens(exchange.usage),
        first_token(exchange),
    )
    parts = [
        strftime("%H:%M:%S", localtime()),
        f"{who}@{peer}" if peer else who,
        exchange.operation.value,
        exchange.model,
        "at",
        exchange.backend,
        str(exchange.status or "-"),
        exchange.outcome
        if exchange.code in ("", exchange.outcome)
        else f"{exchange.outcome}:{exchange.code}",
    ]
    if exchange.attempts > 1:
        parts.append(f"attempts={exchange.attempts}")
    if tokens:
        parts.append(f"tokens={tokens.get('in', '?')}+{tokens.get('out', '?')}")
    if first is not None:
        parts.append(f"first={_seconds(first)}")
    parts += (f"total={_seconds(exchange.timeline.total / _MILLISECOND)}", exchange.name)
    return one_line(" ".join(parts))


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds:.0f}ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f}s"


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
