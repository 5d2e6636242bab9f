"""From notes of a request to its spans, as pure values: whatever was noted, every span is within the one above it."""

from __future__ import annotations

import inspect

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.semconv import schemas
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import (
    client_attributes,
    error_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)

from backends.base import Operation
from gateway.telemetry import conventions
from gateway.telemetry.spans import Ended, Span, spans
from gateway.telemetry.timeline import CONNECT, FINISH, FIRST_BYTE, HOPS, RECEIVE, ROUTE, SEND, STREAM
from gateway.telemetry.trace import Trace

TIMES = st.lists(st.integers(0, 1000), min_size=2, max_size=12).map(sorted)


def ended(trace: Trace, journal: list[int], end: int) -> Ended:
    return Ended(trace, Operation.CHAT, "/v1/chat/completions", {}, None, journal, end, 1_000_000)


def trace() -> Trace:
    return Trace(b"a" * 32, b"", b"b" * 16, True)


@given(TIMES, st.data())
def test_every_span_is_within_the_one_above_it(times: list[int], data: st.DataObject) -> None:
    *starts, end = times
    hops = data.draw(st.lists(st.integers(0, len(HOPS) - 1), min_size=len(starts), max_size=len(starts)))
    journal = [value for pair in zip(hops, starts, strict=True) for value in pair]
    noted = trace()
    for began in sorted(data.draw(st.lists(st.sampled_from(times), max_size=3))):
        leg = noted.begin_leg()
        leg.began = began
        leg.ended = data.draw(st.sampled_from([time for time in times if time >= began]))
        if data.draw(st.booleans()):
            leg.own = [RECEIVE, began, SEND, began]
            leg.led = data.draw(st.sampled_from([0, *(t for t in times if began <= t <= leg.ended)]))
    made = list(spans(ended(noted, journal, end)))
    known = {span.span_id: span for span in made}
    assert len(known) == len(made)
    request = made[0]
    assert (request.start, request.end) == (starts[0] + 1_000_000, end + 1_000_000)
    for span in made[1:]:
        above = known[span.parent]
        assert above.start <= span.start <= span.end <= above.end, (span, above)


def test_the_hops_of_one_attempt_add_up() -> None:
    noted = trace()
    leg = noted.begin_leg()
    leg.began, leg.ended, leg.model = 15, 99, "m"
    journal = [RECEIVE, 0, ROUTE, 10, CONNECT, 20, SEND, 30, FIRST_BYTE, 35, STREAM, 80, FINISH, 98]
    request, attempt, *hops = spans(ended(noted, journal, 105))

    def below(parent: Span) -> int:
        return sum(span.end - span.start for span in hops if span.parent == parent.span_id)

    assert attempt.end - attempt.start == below(attempt) == 78
    assert request.end - request.start == below(request) + 78 == 105
    assert [span.name for span in hops] == [
        "connect",
        "send",
        "first_byte",
        "stream",
        "receive",
        "route",
        "finish",
    ]


def test_names_are_those_of_the_conventions() -> None:
    modules = (
        *(gen_ai_attributes, client_attributes, error_attributes),
        *(http_attributes, server_attributes, url_attributes),
    )
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    known.add("http.request.resend_count")
    source = inspect.getsource(conventions)
    used = {
        word.strip('"')
        for word in source.replace("[", " ").replace(",", " ").replace(":", " ").replace("]", " ").split()
        if word[:1] == '"'
    }
    names = {
        word
        for word in used
        if word.partition(".")[0] in ("gen_ai", "http", "server", "client", "url", "error")
    }
    assert len(names) > 15
    assert names <= known, names - known
    versions = [value.value for value in schemas.Schemas]
    assert conventions.SCHEMA in versions
