"""`gateway top`: a table of what a running gateway does, refreshed; the rates are those of the last seconds.

Rules:
- All of it comes from the gateway's own metrics and views, so it costs the gateway a metrics page per frame.
- A gateway that goes away is said, what is shown stays, and the next frame tries again.
- `q` and Ctrl-C leave with exit status 0. `--once` shows one frame, and fails where the gateway does not answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque

from gateway.console.client import Client, Failed, add_arguments, printable
from gateway.console.frames import BACKENDS, MODELS, Line, Picture, frame
from gateway.console.rates import Look, read, restarted
from gateway.console.terminal import Screen

WINDOW = 10.0
"""Seconds that rates and percentiles are of, once that much has been seen."""
PATIENCE = 3.0
"""Seconds the gateway may take for an answer, during which no key is looked at."""
HINT = "b: by backend   m: by model   q: quit"


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_arguments(parser)
    parser.add_argument(
        "--interval", type=_interval, default=1.0, metavar="SECONDS", help="between two frames (default: 1)"
    )
    parser.add_argument(
        "--by", choices=(BACKENDS, MODELS), default=BACKENDS, help="what the rows are (default: backend)"
    )
    parser.add_argument(
        "--once", action="store_true", help="show one frame, of what happens within the interval"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show frames until somebody leaves. Return the exit status."""
    screen = Screen()
    try:
        top = Top(Client.of(options, PATIENCE), options.by)
        if options.once:
            top.look(time.monotonic())
            time.sleep(options.interval)
            top.look(time.monotonic())
            for line in top.lines(screen.size and (screen.size[0], sys.maxsize)):
                print(line.text)
            return 0
        with screen.taken():
            _watch(top, screen, options.interval)
    except Failed as error:
        print(f"gateway: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


class Top:
    """What was read of a gateway so far, as much as the window needs."""

    def __init__(self, client: Client, by: str) -> None:
        """Show rows `by` backend or model."""
        self.by = by
        self._client = client
        self._looks: deque[Look] = deque()
        self._picture: Picture | None = None
        self._gone = ""

    def look(self, now: float) -> None:
        """Read everything once more at `now`, in seconds of a clock that never goes back. Raises Failed."""
        client = self._client
        status = client.status()
        page = read(client.metrics())
        running = {(each["model"], each["backend"]): each["tokens"] for each in status["targets"]}
        new = Look(now, page, running)
        if self._looks and restarted(self._looks[-1], new):
            self._looks.clear()
        self._looks.append(new)
        while len(self._looks) > 2 and self._looks[1].at <= now - WINDOW:
            self._looks.popleft()
        old = self._looks[0] if len(self._looks) > 1 else None
        self._picture = Picture(client.url, status, client.backends(), client.models(), old, new)
        self._gone = ""

    def try_to_look(self, now: float) -> None:
        """Read everything once more, or keep why that cannot be done."""
        try:
            self.look(now)
        except Failed as error:
            self._gone = printable(str(error))

    def lines(self, size: tuple[int, int] | None, hint: str = "") -> list[Line]:
        """Return the frame to show now."""
        if self._picture is None:
            return [Line(self._gone or "not asked yet"), *([Line(hint)] if hint else [])]
        return frame(self._picture, self.by, size, hint, self._gone)


def _watch(top: Top, screen: Screen, interval: float) -> None:
    """Show one frame after the other until a key says to leave."""
    hint = HINT if screen.is_terminal else ""
    due = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= due:
            top.try_to_look(now)
            due = max(due + interval, time.monotonic() + interval / 2)
        screen.draw(top.lines(screen.size, hint))
        # A key is looked at after every frame, also where frames take longer than the interval.
        key = screen.key(max(0.0, due - time.monotonic()))
        if key in ("q", "Q"):
            return
        top.by = {"m": MODELS, "b": BACKENDS}.get(key or "", top.by)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return seconds
