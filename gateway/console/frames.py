"""What `gateway top` and `gateway status` show, as lines: pure functions from what was read to text that fits.

Rules:
- A line is never wider than the terminal, nor are there more lines than it has; what was left out is said.
- Where nothing is known there is a `-`, never a zero.
- What engines and clients may have named is printable before it is shown.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

from gateway.console.backends import ago, error, state
from gateway.console.client import printable
from gateway.console.gpus import HEAD, gpu_rows
from gateway.console.rates import IN_FLIGHT, QUEUED, Look, Page, Traffic, faults_so_far, total, traffic

View = dict[str, Any]

BACKENDS, MODELS = "backend", "model"


class Picture(NamedTuple):
    """Everything a frame is made of."""

    url: str
    status: View
    backends: Sequence[View]
    models: Sequence[View]
    old: Look | None
    """The look at the beginning of the window; None while there is only one."""
    new: Look


class Line(NamedTuple):
    """A line, and whether it stands out."""

    text: str
    bold: bool = False


def frame(
    picture: Picture, by: str, size: tuple[int, int] | None, hint: str = "", gone: str = ""
) -> list[Line]:
    """Return the lines of one frame. `size` is columns and lines of the terminal; None: as long as they are.

    `hint` is the last line; `gone` says why the gateway does not answer, if it does not: then the rest is old.
    """
    head = [Line(text, number == 0) for number, text in enumerate(_head(picture))]
    if gone:
        head.insert(1, Line(f"no answer, what is shown is old; trying again: {gone}", True))
    rows = table(*(_models(picture) if by == MODELS else _backends(picture)))
    body = [Line(text, number == 0) for number, text in enumerate(rows)]
    lines = [*head, Line(""), *body]
    foot = [Line(""), Line(hint)] if hint else []
    if size is None:
        return [*lines, *foot]
    columns, height = size
    room = max(1, height - len(foot))
    if len(lines) > room:
        left = len(lines) - room + 1
        lines = [*lines[: room - 1], Line(f"... {left} more lines")]
    shown = [*lines, *foot][: max(1, height)]
    return [Line(cut(line.text, columns), line.bold) for line in shown]


def status_lines(url: str, status: View, backends: Sequence[View], page: Page, now: Any) -> list[str]:
    """Return what `gateway status` prints; `now` is the time as errors have theirs."""
    state_now = "ready" if status["ready"] else f"not ready: {status['reason']}"
    finished, failed = faults_so_far(page)
    share = (
        f"{int(finished)} finished, {percent(failed / finished)} of them failed"
        if finished
        else "no data yet"
    )
    rows = [
        (
            view["name"],
            view["engine"],
            state(view),
            str(view["in_flight"]),
            waiting(view),
            view["breaker"],
            "yes" if view["orders"]["drained"] else "no",
            error(view["last_error"], now),
        )
        for view in backends
    ]
    head = ("BACKEND", "ENGINE", "STATE", "IN FLIGHT", "QUEUE", "BREAKER", "DRAINED", "LAST ERROR")
    gpus = gpu_rows(page)
    return [
        printable(f"gateway {status['version']} at {url}: {state_now}"),
        printable(
            f"up {ago(status['uptime'])}, {_plural(status['processes'], 'process', 'processes')}, "
            f"config {status.get('config') or '-'}"
        ),
        f"requests: {_phases(status)}; {share}",
        "",
        *table(head, rows),
        *(["", *table(HEAD, gpus)] if gpus else []),
    ]


def waiting(view: View) -> str:
    """Return how many requests wait in an engine's own queue, as it tells; `-` where that is not known."""
    told = view["signals"].get("waiting")
    return f"{told['value']:g}" if told is not None and told["status"] == "ok" else "-"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table, the columns as wide as what is in them."""
    cells = [head, *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(width(row[column]) for row in cells) for column in range(len(head) - 1)]
    return ["  ".join([*map(_padded, row, widths), row[-1]]).rstrip() for row in cells]


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def cut(text: str, columns: int) -> str:
    """Return the beginning of a text that fits into so many columns; what is cut off leaves a mark."""
    if width(text) <= columns:
        return text
    kept, room = "", max(0, columns - 1)
    for letter in text:
        room -= width(letter)
        if room < 0:
            break
        kept += letter
    return kept + "…" if columns > 0 else ""


def seconds(value: float | None) -> str:
    """Return a time to a first token in words."""
    if value is None:
        return "-"
    if value == inf:
        return "> 30 min"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def rate(value: float) -> str:
    """Return how often a second, in as many digits as say something."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def percent(share: float | None) -> str:
    """Return a share in percent; a small one is not taken for none."""
    if share is None:
        return "-"
    return "< 0.1 %" if 0 < share < 0.001 else f"{share * 100:.1f} %" if share else "0 %"


def _padded(text: str, size: int) -> str:
    return text + " " * (size - width(text))


def _head(picture: Picture) -> list[str]:
    status, new = picture.status, picture.new
    ready = "ready" if status["ready"] else f"not ready: {status['reason']}"
    first = f"gateway {status['version']} at {picture.url}, up {ago(status['uptime'])}: {ready}"
    queued = int(total(new.page, QUEUED, {}))
    now = f"requests now: {status['requests']}, of them in the queue: {queued}"
    found = None if picture.old is None else traffic(picture.old, new)
    if picture.old is None or found is None:
        return [printable(first), now, "rates: not yet"]
    span = f"last {new.at - picture.old.at:.0f} s"
    if not (found.requests or found.tokens_out or found.p50 is not None):
        return [printable(first), now, f"{span}: no data, nothing was asked"]
    happened = (
        f"{span}: {rate(found.requests)} requests/s, failed {percent(found.faults)}, tokens/s: "
        f"{rate(found.tokens_out)} out, {rate(found.tokens_in)} in, first token: p50 {seconds(found.p50)}, "
        f"p95 {seconds(found.p95)}"
    )
    return [printable(first), now, happened]


def _backends(picture: Picture) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    head = ("BACKEND", "STATE", "IN FLIGHT", "QUEUE", *_COLUMNS)
    return head, [
        (
            view["name"],
            state(view),
            str(view["in_flight"]),
            waiting(view),
            *_traffic(picture, BACKENDS, view["name"]),
        )
        for view in picture.backends
    ]


def _models(picture: Picture) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    head = ("MODEL", "SLOTS", "IN FLIGHT", "QUEUE", *_COLUMNS)
    page = picture.new.page
    return head, [
        (
            model["name"],
            "-" if model["slots"] is None else f"{model['slots_held']}/{model['slots']}",
            str(int(total(page, IN_FLIGHT, {"model": model["name"]}))),
            str(model["queued"]),
            *_traffic(picture, MODELS, model["name"]),
        )
        for model in picture.models
    ]


_COLUMNS = ("REQUESTS/S", "TOKENS/S", "FIRST P50", "P95", "FAILED")


def _traffic(picture: Picture, label: str, value: str) -> tuple[str, ...]:
    found = None if picture.old is None else traffic(picture.old, picture.new, label, value)
    if found is None or _is_silent(found):
        return ("-",) * len(_COLUMNS)
    return (
        rate(found.requests),
        rate(found.tokens_out),
        seconds(found.p50),
        seconds(found.p95),
        percent(found.faults),
    )


def _is_silent(found: Traffic) -> bool:
    return not (found.requests or found.tokens_out or found.tokens_in or found.p50 is not None)


def _phases(status: View) -> str:
    phases = ", ".join(f"{phase} {count}" for phase, count in status["phases"].items())
    return f"{status['requests']} now" + (f" ({phases})" if phases else "")


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
