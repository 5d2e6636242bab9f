"""Rows of the fault catalogue that end a connection, or break the rules of HTTP."""

from __future__ import annotations

from tests.faults.support import FAULTY
from tests.faults.upstream_rows import (
    CHUNKED_HEAD,
    CUT_GARBLED,
    CUT_RESET,
    FINE,
    FIRST_BYTE,
    GARBLED,
    HUGE,
    IDLE,
    NO_HEAD,
    OK_HEAD,
    RESET,
    TOO_LONG,
    Case,
    Cut,
    at,
    both,
    raw,
    stream,
    whole,
)

CONNECTIONS = (
    stream("U03", "says nothing", at("request", "hang"), NO_HEAD, clocks=FIRST_BYTE),
    whole("U03", "says nothing till the deadline", at("request", "hang"), TOO_LONG, clocks="total: 300ms"),
    both("U04", "closes at accept", at("accept", "close"), RESET),
    both("U04", "closes without a byte", at("request", "close"), RESET),
    both("U04", "resets without a byte", at("request", "reset"), RESET),
    both("U05", "resets within the head", at("byte 30", "reset"), RESET),
    both("U05", "closes within the head", at("byte 30", "close"), RESET),
    both("U05", "resets after the head", at("headers", "reset"), RESET),
    stream("U06", "resets within the stream", at("event 3", "reset"), CUT_RESET),
    stream("U07", "closes within the stream", at("event 3", "close"), CUT_RESET),
    stream("U07", "ends the body within the stream", at("event 3", "end"), CUT_RESET),
    stream("U07", "closes before [DONE]", at("event -1", "close"), FINE),
    stream("U07", "closes after [DONE], without the last chunk", at("event 8", "close"), FINE),
    stream("U07", "resets after [DONE], without the last chunk", at("event 8", "reset"), FINE),
    stream("U07", "hangs after [DONE]", at("event 8", "hang"), FINE, clocks=IDLE),
    whole("U07", "closes in chunks", {**at("body byte 50", "close"), "http": {"framing": "chunked"}}, RESET),
    whole("U08", "has a length beyond its body", {"http": {"length_off": 10}}, RESET),
    stream("U08", "has a length beyond its stream", {"http": {"framing": "length", "length_off": 10}}, FINE),
    whole("U08", "has a length short of its body", {"http": {"length_off": -10}}, GARBLED),
    both("U09", "ends by closing", {"http": {"framing": "close"}}, FINE),
    both("U09", "speaks HTTP/1.0", {"http": {"version": "1.0"}}, FINE),
    Case(
        "U09",
        "closes too early where closing is the end",
        {**at("body byte 500", "close"), "http": {"framing": "close"}, "say": FAULTY + " four" * 100},
        GARBLED,
        Cut("upstream_reset", "reset", said="faulty"),
    ),
    both("U10", "sends garbage", at("request", "garbage"), GARBLED),
    both("U10", "is an SSH server", raw("SSH-2.0-OpenSSH_9.9\r\n"), GARBLED),
    both("U10", "is a TLS server", raw(bytes.fromhex("15030300020246")), GARBLED),
    both("U11", "gives length and chunks", {"http": {"framing": "both"}}, GARBLED),
    both(
        "U11", "gives two lengths", raw(OK_HEAD, "content-length: 3\r\ncontent-length: 4\r\n\r\nabc"), GARBLED
    ),
    both("U11", "has a bad chunk size", raw(CHUNKED_HEAD, "zz\r\nabc\r\n0\r\n\r\n"), GARBLED),
    both("U11", "has a chunk size beyond numbers", raw(CHUNKED_HEAD, HUGE, "abc"), GARBLED),
    stream("U11", "has a bad chunk size within the stream", at("event 3", "raw", data="zz\r\n"), CUT_GARBLED),
    both(
        "U44",
        "compresses in the transfer",
        raw(OK_HEAD, "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        GARBLED,
    ),
)
