"""Rows of the fault catalogue with an answer that is HTTP, and not what was asked for."""

from __future__ import annotations

from tests.faults.upstream_rows import (
    AUTH,
    CHUNKED_HEAD,
    COMPLETION,
    CONTEXT,
    FAILED,
    FINE,
    FIRST_BYTE,
    GARBLED,
    HTML,
    MISSING,
    NAN,
    NO_HEAD,
    OVERLOADED,
    OVERLONG,
    REJECTED,
    RESET,
    TOO_LONG,
    Refused,
    answered,
    at,
    both,
    stream,
    whole,
)

ANSWERS = (
    both("U12", "answers with a web page", answered(200, **HTML), GARBLED),
    both("U12", "answers nothing", answered(200, body=""), GARBLED),
    both("U12", "answers {}", answered(200, body="{}"), GARBLED),
    both("U12", "answers null", answered(200, body="null"), GARBLED),
    both("U12", "answers a list", answered(200, body="[1]"), GARBLED),
    both("U12", "answers half an object", answered(200, body='{"choices":[{"ind'), GARBLED),
    both("U12", "answers with no choices", answered(200, body='{"choices":[]}'), GARBLED),
    stream("U12", "streams nothing", {"sse": {"events": []}}, RESET),
    stream("U13", "answers a stream request whole", {"reply": {"form": "json"}}, FINE),
    both("U13", "answers 200 with an error", answered(200, body={"error": {"message": "broken"}}), FAILED),
    both(
        "U13",
        "answers 200 with a 400",
        answered(200, body={"error": {"message": "x", "code": 400}}),
        REJECTED,
    ),
    both(
        "U13",
        "answers 200 with a 429",
        answered(200, body={"error": {"message": "x", "code": 429}}),
        OVERLOADED,
    ),
    whole("U14", "streams what was not to be streamed", {"reply": {"form": "sse"}}, FINE),
    both("U15", "answers 400", answered(400), REJECTED),
    both(
        "U15",
        "answers 413",
        answered(413),
        Refused(413, "invalid_value", "rejected", elsewhere=False, counts=False),
    ),
    both(
        "U15",
        "answers 422",
        answered(422),
        Refused(422, "invalid_value", "rejected", elsewhere=False, counts=False),
    ),
    both("U16", "answers 401", answered(401), AUTH),
    both("U16", "answers 403", answered(403), AUTH),
    both("U17", "answers 404", answered(404), MISSING),
    both("U18", "answers 429", answered(429), OVERLOADED),
    both("U19", "answers 500", answered(500), FAILED),
    both("U19", "answers 500 with a web page", answered(500, **HTML), FAILED),
    both("U20", "answers 502", answered(502), FAILED),
    both("U20", "answers 503", answered(503), OVERLOADED),
    both("U20", "answers 504", answered(504), FAILED),
    both("U21", "answers 529", answered(529), OVERLOADED),
    both("U21", "answers 599", answered(599), FAILED),
    both("U21", "answers 299", answered(299, body=COMPLETION), GARBLED),
    both("U21", "answers 204", answered(204), GARBLED),
    both("U21", "answers 999", answered(999), GARBLED),
    both("U21", "gives no reason phrase", answered(500, reason=""), FAILED),
    *(
        both(
            "U22", f"answers {status}", answered(status, headers={"location": "http://127.0.0.1:9/"}), GARBLED
        )
        for status in (301, 302, 307, 308)
    ),
    both("U23", "switches protocols", answered(101), GARBLED),
    both("U23", "sends early hints", {"http": {"interim": {"status": 103, "count": 3}}}, FINE),
    both("U23", "sends 100 first", {"http": {"interim": {"status": 100}}}, FINE),
    both("U23", "sends interim answers without end", {"http": {"interim": {"count": 100_000}}}, GARBLED),
    stream(
        "U23",
        "gains no time by interim answers",
        {"http": {"interim": {"count": 10, "every": 0.1}}},
        NO_HEAD,
        clocks=FIRST_BYTE,
    ),
    stream("U24", "drips its head", at("request", "drip", every=0.02), NO_HEAD, clocks=FIRST_BYTE),
    whole(
        "U24",
        "drips its answer till the deadline",
        at("request", "drip", every=0.02),
        TOO_LONG,
        clocks="total: 300ms",
    ),
    both(
        "U25", "has a header of 200 kB", {"http": {"extra_headers": 1, "extra_header_size": 200_000}}, GARBLED
    ),
    both("U25", "has 10 000 headers", {"http": {"extra_headers": 10_000}}, GARBLED),
    both(
        "U25",
        "has a head without end",
        {"faults": [{"at": "byte 40", "do": "raw", "data": "x" * 200_000}, {"at": "byte 40", "do": "hang"}]},
        GARBLED,
    ),
    both("U43", "says NaN", answered(200, body=NAN % "message"), GARBLED),
    both("U44", "compresses", {"http": {"gzip": True}}, GARBLED),
    both("U44", "says it compresses", answered(200, headers={"content-encoding": "br"}), GARBLED),
    both(
        "U45",
        "sends headers that are none of the client's business",
        answered(
            200,
            headers={
                "connection": "x-hop",
                "x-hop": "1",
                "keep-alive": "timeout=1",
                "set-cookie": "a=b",
                "server": "engine",
                "location": "/x",
            },
        ),
        FINE,
    ),
    both(
        "U45",
        "sends trailers",
        {"http": {"framing": "chunked", "trailers": {"content-type": "text/html", "x-after": "1"}}},
        FINE,
    ),
    both(
        "U45",
        "sends a trailer without end",
        {
            "http": {"framing": "chunked"},
            "faults": [
                {"at": "request", "do": "raw", "data": CHUNKED_HEAD + "0\r\nx-after: " + "x" * 200_000},
                {"at": "request", "do": "hang"},
            ],
        },
        GARBLED,
    ),
    both(
        "U11",
        "has a chunk's extension without end",
        {
            "faults": [
                {"at": "request", "do": "raw", "data": CHUNKED_HEAD + "2;" + "x" * 200_000},
                {"at": "request", "do": "hang"},
            ],
        },
        GARBLED,
    ),
    both("U54", "finds the prompt too long", answered(400, body={"error": OVERLONG}), CONTEXT),
)
