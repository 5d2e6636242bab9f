"""Rows of the fault catalogue about what a stream says, when, and in which spelling."""

from __future__ import annotations

import json

from tests.faults.support import FAULTY
from tests.faults.upstream_rows import (
    CUT_GARBLED,
    CUT_TOO_LARGE,
    FAILED,
    FINE,
    FIRST_TOKEN,
    GARBLED,
    IDLE,
    NAN,
    NO_TOKEN,
    OVERLOADED,
    SILENT,
    TOO_LARGE,
    Cut,
    Fine,
    answered,
    at,
    both,
    chunk,
    events,
    stream,
    whole,
)

STREAMS = (
    stream(
        "U26",
        "sends its head and no token",
        {"http": {"early_headers": True}, "first_token": 60},
        NO_TOKEN,
        clocks=FIRST_TOKEN,
    ),
    stream("U26", "gives its role and no token", at("event 1", "hang"), NO_TOKEN, clocks=FIRST_TOKEN),
    stream("U27", "falls silent", at("event 3", "hang"), SILENT, clocks=IDLE),
    stream(
        "U28",
        "drips tokens past the deadline",
        {"endless": True, "gap": 0.02},
        Cut("upstream_timeout_total", "timeout", said=None, counts=False),
        clocks="total: 500ms",
    ),
    stream(
        "U28",
        "drips bytes past the deadline",
        at("event 2", "drip", every=0.02),
        Cut("upstream_timeout_total", "timeout", said=None, counts=False),
        clocks="total: 500ms, idle: 20s",
    ),
    stream(
        "U28",
        "drips bytes of its events past the idle limit",
        at("event 3", "drip", every=0.004),
        FINE,
        # Each event takes a second.
        clocks="idle: 600ms",
    ),
    stream(
        "U29",
        "sends comments and no token",
        at("event 1", "comments", every=0.02),
        NO_TOKEN,
        clocks=FIRST_TOKEN,
    ),
    stream("U29", "sends comments after a token", at("event 3", "comments", every=0.02), SILENT, clocks=IDLE),
    stream("U31", "sends an event too large, first", at("event 0", "event", size=2 << 20), TOO_LARGE),
    stream("U31", "sends an event too large, later", at("event 3", "event", size=2 << 20), CUT_TOO_LARGE),
    both("U32", "sends byte after byte", {"http": {"split": 1}}, FINE),
    both(
        "U32",
        "says what looks like line ends",
        {"say": "faulty\u2028one \u2029two \x85\U0001f469\u200d\U0001f4bb", "http": {"split": 1}},
        Fine("faulty\u2028one \u2029two \x85\U0001f469\u200d\U0001f4bb"),
    ),
    stream("U32", "sends several events at once", {"sse": {"coalesce": 3}}, FINE),
    stream("U32", "sends all at once", {"sse": {"coalesce": 100}}, FINE),
    stream("U33", "ends lines with CRLF", {"sse": {"newline": "crlf"}}, FINE),
    stream("U33", "ends lines with CR", {"sse": {"newline": "cr"}, "http": {"split": 1}}, FINE),
    stream("U33", "mixes line ends", {"sse": {"newline": "mixed", "bom": True}}, FINE),
    stream("U33", "leaves spaces out", {"sse": {"space": False}}, FINE),
    stream("U33", "begins with a BOM", {"sse": {"bom": True}, "http": {"split": 1}}, FINE),
    stream(
        "U33",
        "leaves the last blank line out",
        answered(
            200,
            headers={"content-type": "text/event-stream"},
            body="\n\n".join(
                f"data: {json.dumps(each)}" for each in (chunk(content=FAULTY), chunk(finish="stop"))
            ),
        ),
        FINE,
    ),
    stream(
        "U34",
        "sends comments and fields",
        {"sse": {"comment_every": 1, "id": True, "event": "message", "retry": 10}},
        FINE,
    ),
    stream("U35", "spreads events over lines", {"sse": {"multiline": True}}, FINE),
    stream("U36", "sends broken JSON first", at("event 0", "event", data="{oops"), GARBLED),
    stream("U36", "sends broken JSON later", at("event 3", "event", data="{oops"), CUT_GARBLED),
    stream("U37", "sends an error first", at("event 0", "error"), FAILED),
    stream("U37", "sends an error after its role", at("event 1", "error"), FAILED),
    stream("U37", "sends an error later", at("event 3", "error"), Cut("upstream_error", "failed")),
    whole("U37", "finishes with an error", {"finish": "error"}, FAILED),
    stream(
        "U37",
        "finishes a stream with an error",
        {"finish": "error"},
        Cut("upstream_error", "failed", said=FAULTY),
    ),
    stream("U38", "leaves [DONE] out", {"sse": {"done": "never"}}, FINE),
    stream(
        "U39",
        "sends [DONE] without a finish",
        {"finish": None},
        Cut("upstream_protocol_error", "garbled", said=FAULTY),
    ),
    stream(
        "U39",
        "just ends",
        {"finish": None, "sse": {"done": "never"}},
        Cut("upstream_reset", "reset", said=FAULTY),
    ),
    stream("U39", "sends [DONE] twice", {"sse": {"done": "twice"}}, FINE),
    stream(
        "U39",
        "goes on after [DONE]",
        {"sse": {"after_done": {"choices": [{"index": 0, "delta": {"content": "more"}}]}}},
        FINE,
    ),
    *(
        stream("U40", f"tells usage: {how}", {"usage": how}, FINE)
        for how in ("never", "always", "every", "null")
    ),
    stream(
        "U41",
        "repeats the role and says null",
        events(
            chunk(role="assistant", content=None),
            chunk(role="assistant", content="faulty"),
            chunk(role="assistant", content=" one two three"),
            chunk(content=None, finish="stop"),
        ),
        FINE,
    ),
    stream("U43", "streams NaN", events(chunk(content="faulty one"), NAN % "delta"), CUT_GARBLED),
    stream(
        "U55",
        "is overloaded later",
        at("event 3", "event", data={"error": {"message": "slow down", "code": 429}}),
        Cut("overloaded", "overloaded", counts=False),
    ),
    stream(
        "U55",
        "is overloaded in its first event",
        at("event 0", "event", data={"error": {"message": "slow down", "code": 429}}),
        OVERLOADED,
    ),
)
