"""Streams of OpenAI chunks: as each engine writes them, cut at every byte, and with everything that can go wrong.

Rules:
- Expected results come from `oracle`, which reads the whole text with the standard library.
- The fast path, for an event that is like a decoded one, is compared with decoding every event.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Kind, Operation, Request, Usage
from backends.dialect.stream import EventStream
from backends.engines.openai import OpenAI
from tests.looped import looped

DONE = b"data: [DONE]\n\n"
LIMIT = 1 << 20
"""The most bytes of one event in these tests."""


class Seen(NamedTuple):
    """The result of decoding a stream."""

    out: bytes
    content: int
    usage: Usage | None
    finished: bool
    failure: Kind | None


class DecodeAll(EventStream):
    """An `EventStream` without its fast path."""

    def _alike(self, data: bytes, start: int, end: int) -> bytes | None:
        return None


def watch(
    pieces: Iterable[bytes], wanted: str = "m", ask: bool = True, kind: type[EventStream] = EventStream
) -> Seen:
    stream = kind(OpenAI(), Request(Operation.CHAT, b"", wanted, stream=True, include_usage=ask))
    stream.bound(LIMIT)
    out = b""
    for piece in pieces:
        out += stream.feed(piece)
        if stream.failure is not None:
            break
    else:
        out += stream.close()
    failure = stream.failure.kind if stream.failure is not None else None
    return Seen(out, stream.content, stream.usage, stream.finished, failure)


def bytewise(text: bytes) -> Iterator[bytes]:
    return (text[place : place + 1] for place in range(len(text)))


def by_event(text: bytes) -> list[bytes]:
    return re.findall(rb".*?\n\n|.+\Z", text, re.DOTALL)


def sent(out: bytes) -> list[Any]:
    """Return the JSON of every event the client gets."""
    events = [event.removeprefix("data: ") for event in out.decode().split("\n\n") if event]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


# How engines write their streams.

MODEL = "served/model"


def event(value: object, spaced: bool = False, prefix: str = "data: ", end: str = "\n\n") -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    return f"{prefix}{json.dumps(value, separators=separators)}{end}".encode()


def chunk(delta: dict[str, Any], reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
    } | more


def say(text: str, **more: Any) -> dict[str, Any]:
    return chunk({"content": text}, **more)


def text(text: str, reason: str | None = None) -> dict[str, Any]:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}
    return {"choices": [choice], "created": 1, "model": MODEL, "object": "text_completion", "id": "cmpl-1"}


def llamacpp(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {
        "choices": [{"finish_reason": reason, "index": 0, "delta": delta}],
        "created": 1,
        "id": "c",
        "model": MODEL,
    }


def tool(arguments: str, index: int = 0, **more: Any) -> dict[str, Any]:
    return chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments} | more}]})


ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")
COUNTS = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 4},
}
USAGE = chunk({}) | {"choices": [], "usage": COUNTS}
COUNTED = Usage(7, 2, 4)


def stream(*values: object, end: bytes = DONE, **style: Any) -> bytes:
    return b"".join(event(value, **style) for value in values) + end


HI = (say("Hel"), say("lo"))
ENGINES: dict[str, tuple[bytes, int]] = {
    "vLLM": (stream(ROLE, *HI, STOP, USAGE), 2),
    "vLLM, usage all along": (stream(ROLE, *(say(t, usage=COUNTS) for t in "abc"), STOP, USAGE), 3),
    "vLLM, keep-alive": (b": keep-alive\n\n".join(by_event(stream(ROLE, *HI, STOP, USAGE))), 2),
    "llama.cpp": (
        stream(
            llamacpp({"role": "assistant", "content": None}),
            llamacpp({"content": "D"}),
            llamacpp({"content": "k"}),
            llamacpp({}, "length"),
            USAGE | {"timings": {"predicted_n": 5, "predicted_ms": 3.942}},
        ),
        2,
    ),
    "llama.cpp, text": (stream(text("a"), text("b"), text("", "length") | {"usage": COUNTS}), 2),
    "llama.cpp, comments": (b":\n\n" + b":\n\n".join(by_event(stream(*HI, STOP))), 2),
    "llama-cpp-python": (stream(ROLE, *HI, STOP, end="\r\n\r\n".join(["data: [DONE]", ""]).encode()), 2),
    "TGI": (stream(*HI, STOP, USAGE, prefix="data:"), 2),
    "TensorRT-LLM": (stream(ROLE, *HI, STOP, USAGE, end=" \n\n".join(["data: [DONE]", ""]).encode()), 2),
    "TensorRT-LLM, spaces at the end": (
        b"".join(event(value, end=" \n\n") for value in (ROLE, *HI, say("."), STOP)) + DONE,
        3,
    ),
    "LMDeploy": (stream(*(value | {"usage": None} for value in (ROLE, *HI, STOP)), USAGE), 2),
    "SGLang": (
        stream(
            *(chunk({"content": t, "reasoning_content": None, "tool_calls": None}) for t in ("", "a", "b")),
            chunk({"content": None, "reasoning_content": None}, "stop") | {"matched_stop": 2},
        ),
        2,
    ),
    "transformers": (stream(*HI, STOP | {"usage": COUNTS}, end=b""), 2),
    "Ollama": (stream(*(chunk({"role": "assistant", "content": t}) for t in "abc"), STOP, USAGE), 3),
    "Triton": (stream(ROLE, *HI, say(".", reason="stop")), 3),
    "Ray, many events in a read": (
        stream(ROLE, *(say(str(number)) for number in range(20)), STOP, USAGE),
        20,
    ),
    "json.dumps with spaces": (stream(ROLE, *HI, STOP, USAGE, spaced=True), 2),
    "CRLF": (stream(ROLE, *HI, STOP, USAGE).replace(b"\n", b"\r\n"), 2),
    "CR": (stream(ROLE, *HI, STOP, USAGE).replace(b"\n", b"\r"), 2),
    "byte order mark": (b"\xef\xbb\xbf" + stream(*HI, STOP), 2),
    "id and event lines": (b"id: 1\nevent: message\n".join([b"", *by_event(stream(*HI, STOP))]), 2),
    "events over several lines": (stream(ROLE, *HI, STOP, USAGE).replace(b',"', b',\ndata: "'), 2),
    "reasoning first": (
        stream(
            ROLE,
            chunk({"reasoning": "h"}),
            chunk({"reasoning": "m"}),
            *HI,
            chunk({"reasoning_content": "m"}),
            STOP,
        ),
        5,
    ),
    "refusal": (stream(chunk({"refusal": "no"}), chunk({"refusal": "!"}), STOP), 2),
    "tool calls in pieces": (
        stream(
            ROLE,
            tool("", name="get_time", id="call-1"),
            tool('{"zo'),
            tool('ne": "'),
            tool('UTC"}'),
            tool('{"a', 1),
            tool('{"b', 0),
            chunk({"content": ""}, "tool_calls"),
        ),
        6,
    ),
    "function call": (
        stream(chunk({"function_call": {"name": "f", "arguments": ""}}), chunk({}, "function_call")),
        1,
    ),
    "logprobs": (
        stream(*(say(t) | {"logprobs": {"content": [{"token": t, "bytes": [1]}]}} for t in "ab"), STOP),
        2,
    ),
    "two choices": (
        stream(
            chunk({"role": "assistant"}),
            chunk({"role": "assistant"}, index=1),
            say("a"),
            say("b", index=1),
            chunk({}, "stop"),
            say("c", index=1),
            chunk({}, "length", index=1),
            USAGE,
        ),
        3,
    ),
    "two choices in one event": (
        stream(
            {"model": MODEL, "choices": [*say("a")["choices"], *say("b", index=1)["choices"]]},
            STOP,
            chunk({}, "stop", 1),
        ),
        1,
    ),
    "empty reasons until the last": (stream(*(chunk({"content": t}, "") for t in "abc"), STOP), 3),
    "no reason key until the last": (
        stream({"choices": [{"delta": {"content": "a"}}], "model": MODEL}, STOP),
        1,
    ),
    "a filter's event without choices": (stream({"choices": [], "prompt_filter_results": []}, *HI, STOP), 2),
    "no model name": (stream(*({k: v for k, v in c.items() if k != "model"} for c in (*HI, STOP))), 2),
    "the model name changes": (
        stream(say("a"), say("b", model="other"), say("c"), STOP | {"model": "other"}),
        3,
    ),
    "created changes": (stream(*(say("a", created=number // 3) for number in range(9)), STOP), 9),
    "an empty answer": (stream(ROLE, STOP), 0),
    "missing [DONE]": (stream(ROLE, *HI, STOP, end=b""), 2),
    "missing [DONE] and blank line": (stream(ROLE, *HI, STOP, end=b"").rstrip(b"\n"), 2),
    "[DONE] without blank line": (stream(ROLE, *HI, STOP, end=DONE.rstrip()), 2),
    "[DONE] twice": (stream(ROLE, *HI, STOP) + DONE, 2),
    "more after [DONE]": (
        stream(*HI, STOP) + stream(say("x"), USAGE, {"error": "late"}, end=b"{\xff garbage"),
        2,
    ),
    "a last event cut off after the end": (stream(*HI, STOP, end=event(USAGE)[:40]), 2),
    "[DONE] cut off": (stream(*HI, STOP, end=DONE[:9]), 2),
    "empty events": (b"data:\n\n".join([b"", *by_event(stream(*HI, STOP))]), 2),
    "usage that cannot be read": (stream(*HI, STOP, USAGE | {"usage": {"prompt_tokens": "7"}}), 2),
    "error null everywhere": (stream(*(value | {"error": None} for value in (*HI, STOP))), 2),
}


def oracle(text: bytes, wanted: str, ask: bool) -> tuple[list[Any], Usage | None]:
    """Return what the client must get for a complete stream, and its usage."""
    lines = text.decode(errors="replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    out: list[Any] = []
    usage = None
    for block in lines.split("\n\n"):
        payload = "\n".join(
            line.removeprefix("data:") for line in block.split("\n") if line.startswith("data:")
        )
        if payload.strip() == "[DONE]":
            break
        try:
            value = json.loads(payload)
        except json.JSONDecodeError:
            continue
        if value.get("usage") == COUNTS:
            usage = COUNTED
        if not ask and value.get("usage") == COUNTS:
            del value["usage"]
            if not value["choices"]:
                if "timings" in value:
                    out[-1] = out[-1] | {"timings": value["timings"]}
                continue
        for choice in value.get("choices") or ():
            if choice.get("finish_reason") == "":
                choice["finish_reason"] = None
        out.append(value | ({"model": wanted} if "model" in value else {}))
    return [*out, "[DONE]"], usage


@pytest.mark.parametrize(("text", "content"), ENGINES.values(), ids=ENGINES.keys())
def test_a_good_stream_reaches_the_client_whole(text: bytes, content: int) -> None:
    with looped(8) as loop:
        for wanted, ask in itertools.product([MODEL, "public", 'q"u\\o/te', "模型"], [True, False]):
            with loop.case(wanted, "asked for usage" if ask else "did not ask"):
                events, usage = oracle(text, wanted, ask)
                seen = watch([text], wanted, ask)
                assert sent(seen.out) == events
                assert all(line.startswith(b"data: ") for line in seen.out.split(b"\n") if line)
                assert seen == (seen.out, content, usage, True, None)
                for pieces in (by_event(text), bytewise(text), [text[:-1], text[-1:]]):
                    assert watch(pieces, wanted, ask) == seen


@pytest.mark.parametrize(
    "name", ["vLLM", "llama.cpp", "llama.cpp, text", "SGLang", "Ollama", "tool calls in pieces"]
)
def test_an_ordinary_stream_keeps_its_bytes(name: str) -> None:
    text, _ = ENGINES[name]
    assert watch([text], MODEL).out == text
    stream = EventStream(OpenAI(), Request(Operation.CHAT, b"", MODEL, stream=True, include_usage=True))
    assert [stream.feed(piece) for piece in by_event(text)] == by_event(text)


@pytest.mark.parametrize("name", ["vLLM", "TGI", "tool calls in pieces", "CRLF", "two choices"])
def test_cut_in_two_at_every_byte(name: str) -> None:
    text, _ = ENGINES[name]
    whole = watch([text], "public")
    for place in range(len(text)):
        assert watch([text[:place], text[place:]], "public") == whole


def test_usage_beside_a_finish_is_counted_and_not_told_to_who_did_not_ask() -> None:
    text = ENGINES["llama.cpp, text"][0]
    for ask in (True, False):
        seen = watch([text], ask=ask)
        assert seen.usage == COUNTED
        last = sent(seen.out)[-2]
        assert last["choices"][0]["finish_reason"] == "length"
        assert ("usage" in last) == ask


# What goes wrong.

SAID = (ROLE, *HI)
BUSY = {"message": "m", "type": "t", "code": 503}
# The good part of a stream, what follows it, and the failure that is expected.
FAILED: dict[str, tuple[tuple[dict[str, Any], ...], bytes, Kind]] = {
    "nothing": ((), b"", Kind.RESET),
    "only comments": ((), b": ping\n\n" * 5, Kind.RESET),
    "only a role": ((ROLE,), b"", Kind.RESET),
    "cut off between events": (SAID, b"", Kind.RESET),
    "cut off inside an event": (SAID, event(say("lost"))[:-20], Kind.RESET),
    "cut off behind the reason": (SAID, event(say("lost"))[:-4], Kind.RESET),
    "Ollama's silent end": ((*SAID, chunk({"content": ""})), b"", Kind.RESET),
    "one of two choices goes on": ((say("a"), say("b", index=1), STOP), b"", Kind.RESET),
    "[DONE] alone": ((), DONE, Kind.GARBLED),
    "[DONE] without a reason": (SAID, DONE, Kind.GARBLED),
    "usage, [DONE], no reason": ((*SAID, USAGE), DONE, Kind.GARBLED),
    "an error first": ((), event({"error": BUSY}) + DONE, Kind.OVERLOADED),
    "an error in the middle": (SAID, event({"error": BUSY}) + DONE, Kind.OVERLOADED),
    "an error without a status": (SAID, event({"error": {"message": "m"}}), Kind.FAILED),
    "an error with others' mistakes": (SAID, event({"error": {"message": "m", "code": 400}}), Kind.REJECTED),
    "a flat error": (SAID, event({"object": "error"} | BUSY), Kind.OVERLOADED),
    "a flat error, nested": (SAID, event({"error": {"object": "error"} | BUSY}) + DONE, Kind.OVERLOADED),
    "an error as a string": (SAID, event({"error": "m"}), Kind.FAILED),
    "an error as a number": (SAID, event({"error": 5}), Kind.FAILED),
    "an error of TGI": (
        SAID,
        event({"error": {"message": "m", "http_status_code": 429}}, prefix="data:"),
        Kind.OVERLOADED,
    ),
    "an error beside a choice": (SAID, event(say("x", error=BUSY)), Kind.OVERLOADED),
    "an error without blank line": (SAID, event({"error": "m"}, end=""), Kind.FAILED),
    "an error after the end": ((*SAID, STOP), event({"error": "m"}), Kind.FAILED),
    "the reason is an error": (SAID, event(chunk({}, "error")) + DONE, Kind.FAILED),
    "cut off JSON": (SAID, b'data: {"choices":[{"delta"\n\n' + DONE, Kind.GARBLED),
    "text": (SAID, b"data: hello\n\n", Kind.GARBLED),
    "HTML": ((), b"data: <html>\n\n", Kind.GARBLED),
    "a list": (SAID, event([]), Kind.GARBLED),
    "choices of the wrong type": (SAID, event({"choices": {}}), Kind.GARBLED),
    "a reason of the wrong type": (SAID, event({"choices": [{"finish_reason": 5}]}), Kind.GARBLED),
    "NaN": (SAID, event(say("x", logprob=float("nan"))), Kind.GARBLED),
    "not UTF-8": (SAID, event(chunk({}, "?")).replace(b"?", b"\xff"), Kind.GARBLED),
    "nested too deep": (SAID, b'data: {"x":' + b"[" * 100_000 + b"\n\n", Kind.GARBLED),
    "a quote too many": (SAID, event(say("x")).replace(b'"x"', b'"x"x"'), Kind.GARBLED),
    "a bad escape": (SAID, event(say("x")).replace(b'"x"', b'"\\x"'), Kind.GARBLED),
    "an escaped quote at the end": (SAID, event(say("x")).replace(b'"x"', b'"x\\"'), Kind.GARBLED),
    "a raw control character": (SAID, event(say("x")).replace(b'"x"', b'"\x01"'), Kind.GARBLED),
    "an event named error": (
        SAID,
        b'event: error\ndata: {"message":"m","code":503}\n\n' + DONE,
        Kind.OVERLOADED,
    ),
    "an event named error, as text": (SAID, b"event: error\ndata: it broke\n\n" + DONE, Kind.FAILED),
    "an event named error after the end": ((*SAID, STOP), b"event: error\ndata: {}\n\n" + DONE, Kind.FAILED),
    "an event named error, first": ((), b'event: error\ndata: {"error":{"message":"m"}}\n\n', Kind.FAILED),
    "a field named error": (SAID, b'error: {"message":"m","code":429}\n\n', Kind.OVERLOADED),
    "aborted": (SAID, event(chunk({}, "abort")) + DONE, Kind.FAILED),
    "cancelled": (SAID, event(chunk({}, "cancelled")) + DONE, Kind.FAILED),
    "a reason nobody knows": (SAID, event(chunk({}, "because")) + DONE, Kind.FAILED),
    "[DONE] in the middle of a choice": ((say("a"), say("b", index=1), STOP), DONE, Kind.GARBLED),
    "more text after the reason": ((*SAID, STOP, say("more")), b"", Kind.RESET),
    "more text after the reason, [DONE]": ((*SAID, STOP, say("more")), DONE, Kind.GARBLED),
    "a call after the reason": ((*SAID, STOP, tool("x")), b"", Kind.RESET),
    "half an escape": (SAID, event(say("x")).replace(b'"x"', b'"a\\u12"'), Kind.GARBLED),
    "no hexadecimal escape": (SAID, event(say("x")).replace(b'"x"', b'"\\u00zz"'), Kind.GARBLED),
    "the first half of a pair": (SAID, event(say("x")).replace(b'"x"', b'"\\ud83d"'), Kind.GARBLED),
    "the first half, and no second": (
        SAID,
        event(say("x")).replace(b'"x"', b'"\\ud83d\\u0041"'),
        Kind.GARBLED,
    ),
    "the second half of a pair": (SAID, event(say("x")).replace(b'"x"', b'"\\uDE00"'), Kind.GARBLED),
    "not UTF-8 after a text like it": (SAID, event(say("x")).replace(b'"x"', b'"\xff"'), Kind.GARBLED),
    "half a character": (SAID, event(say("x")).replace(b'"x"', b'"\xe6\x97"'), Kind.GARBLED),
    "a surrogate in UTF-8": (SAID, event(say("x")).replace(b'"x"', b'"\xed\xa0\xbd"'), Kind.GARBLED),
    "an overlong character": (SAID, event(say("x")).replace(b'"x"', b'"\xc0\xaf"'), Kind.GARBLED),
    "not UTF-8 in a member nobody reads": (
        SAID,
        event(say("x", note="?")).replace(b"?", b"\xff"),
        Kind.GARBLED,
    ),
    "an event without end": (SAID, b"data: " + b"x" * (LIMIT + 1), Kind.LIMIT),
}


@pytest.mark.parametrize(("good", "bad", "kind"), FAILED.values(), ids=FAILED.keys())
def test_a_broken_stream_is_a_failure_and_keeps_what_came_before(
    good: tuple[dict[str, Any], ...], bad: bytes, kind: Kind
) -> None:
    text = stream(*good, end=bad)
    seen = watch([text])
    assert seen.failure is kind
    assert sent(seen.out) == [value | {"model": "m"} for value in good]
    assert watch(by_event(text)) == seen
    assert watch([text], kind=DecodeAll) == seen
    if len(text) < 10_000:
        assert watch(bytewise(text)) == seen


def ended(events: Iterable[bytes], body: bytes = b"", choices: int = 1, kind: str = "chat") -> Kind | None:
    """Return the failure of a stream that was asked for so many choices."""
    stream = EventStream(OpenAI(), Request(Operation(kind), body, "m", stream=True, choices=choices))
    for piece in events:
        stream.feed(piece)
    if stream.failure is None:
        stream.close()
    assert stream.finished == (stream.failure is None)
    return None if stream.failure is None else stream.failure.kind


@pytest.mark.parametrize("done", [[DONE], []], ids=["[DONE]", "the end"])
def test_a_stream_has_the_choices_that_were_asked_for(done: list[bytes]) -> None:
    one = [event(say("a")), event(STOP)]
    two = [*one, event(say("b", index=1)), event(chunk({}, "stop", index=1))]
    missing = Kind.UNSUPPORTED if done else Kind.RESET
    assert ended([*one, *done]) is None
    assert ended([*one, *done], choices=2) is missing
    assert ended([*two, *done], choices=2) is None
    assert ended([*two, *done], choices=3) is missing


@pytest.mark.parametrize(
    ("body", "choices", "wanted"),
    [
        (b'{"prompt":"a"}', 1, 1),
        (b'{"prompt":["a"]}', 1, 1),
        (b'{"prompt":["a","b"]}', 1, 2),
        (b'{"prompt":[ "a", "b" ]}', 2, 4),
        (b'{"prompt":[[1,2],[3]]}', 1, 2),
        (b'{"prompt":[1,2,3]}', 1, 1),
        (b'{"prompt":"[a,b]"}', 2, 2),
        (b'{"prompt":["' + b"a" * (1 << 20) + b'","b"]}', 1, 1),
    ],
    ids=str,
)
def test_each_prompt_has_its_choices(body: bytes, choices: int, wanted: int) -> None:
    pieces = [
        event(text("a", "stop") | {"choices": [{"text": "a", "index": i, "finish_reason": "stop"}]})
        for i in range(wanted)
    ]
    assert ended([*pieces, DONE], body, choices, "completions") is None
    assert wanted == 1 or ended([*pieces[1:], DONE], body, choices, "completions") is Kind.UNSUPPORTED


@pytest.mark.parametrize(
    ("said", "told"),
    [("eos_token", "stop"), ("MAX_TOKENS", "length"), ("repetition", "length"), ("tool_use", "tool_calls")],
)
@pytest.mark.parametrize("wanted", [MODEL, "public"])
def test_a_finish_reason_is_one_of_the_five(said: str, told: str, wanted: str) -> None:
    out, *facts = watch([stream(*HI, chunk({"content": "!"}, said, logprobs=[1.50, 1e2]))], wanted)
    assert facts == [3, None, True, None]
    *_, last, _ = sent(out)
    assert last == chunk({"content": "!"}, told, logprobs=[1.50, 1e2], model=wanted)


def test_a_reason_that_is_null_as_text_ends_nothing() -> None:
    open_ended = [chunk({"content": t}, "null") for t in "abc"]
    out, *facts = watch([stream(*open_ended, STOP)])
    assert facts == [3, None, True, None]
    assert [value["choices"][0]["finish_reason"] for value in sent(out)[:-1]] == [
        None,
        None,
        None,
        "stop",
    ]
    assert watch([stream(*open_ended)]).failure is Kind.GARBLED
    for way in (EventStream, DecodeAll):
        assert watch(by_event(stream(*open_ended, STOP)), "public", kind=way) == watch(
            [stream(*open_ended, STOP)], "public"
        )


SPEAKING: dict[str, Any] = {
    "text": {"content": "a"},
    "parts": {"content": [{"type": "text", "text": "a"}]},
    "reasoning details": {"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "step"}]},
    "thinking of somebody": {"thinking_blocks": [{"thinking": "hm"}]},
    "images": {"images": [{"image_url": {"url": "data:image/png;base64,AA"}}]},
    "sound": {"audio": {"data": "QQ=="}},
    "a transcript": {"audio": {"transcript": "hi"}},
    "annotations": {"annotations": [{"type": "url_citation"}]},
    "a refusal": {"refusal": "no"},
    "a call": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]},
    "a call of another shape": {"tool_calls": {"name": "f"}},
    "an old call": {"function_call": {"name": "f"}},
}
SILENT: dict[str, Any] = {
    "a role": {"role": "assistant"},
    "a role and empty text": {"role": "assistant", "content": ""},
    "nulls": {"content": None, "reasoning": None, "tool_calls": None, "audio": None},
    "empty lists": {"tool_calls": [], "annotations": [], "images": [], "reasoning_details": []},
    "nothing": {},
}


@pytest.mark.parametrize("delta", SPEAKING.values(), ids=SPEAKING.keys())
def test_whatever_a_client_could_use_is_content(delta: Any) -> None:
    assert watch([stream(ROLE, chunk(delta), STOP)]).content == 1


@pytest.mark.parametrize("delta", SILENT.values(), ids=SILENT.keys())
def test_what_only_makes_room_for_content_is_silence(delta: Any) -> None:
    assert watch([stream(chunk(delta), STOP)]).content == 0


def test_progress_and_tokens_are_content_too() -> None:
    assert watch([stream(chunk({}, prompt_progress={"total": 90, "processed": 8}), STOP)]).content == 1
    for more in ({"token_ids": [5]}, {"logprobs": {"content": [{"token": ""}]}}):
        value = chunk({"content": ""})
        value["choices"][0] |= more
        assert watch([stream(value, STOP)]).content == 1
    assert watch([stream(chunk({"content": ""}, prompt_token_ids=[1] * 9), STOP)]).content == 0


def test_who_did_not_ask_for_usage_gets_no_event_without_choices() -> None:
    empty = USAGE | {"timings": None, "kv_transfer_params": {}}
    for counted in (USAGE, empty):
        assert sent(watch([stream(*HI, STOP, counted)], MODEL, ask=False).out)[-2] == STOP
        assert sent(watch([stream(*HI, STOP, counted)], MODEL, ask=True).out)[-2] == counted


def test_what_an_engine_tells_beside_its_counts_is_kept_with_the_last_finish_reason() -> None:
    timings = {"timings": {"predicted_per_second": 35.4}}
    seen = watch([stream(*HI, STOP, USAGE | timings)], MODEL, ask=False)
    assert sent(seen.out)[-2] == STOP | timings
    assert seen.failure is None and seen.finished and seen.usage == COUNTED
    assert sent(watch([stream(*HI, STOP, USAGE | timings)], MODEL, ask=True).out)[-2] == USAGE | timings


def test_the_last_finish_reason_waits_for_the_counts_and_is_never_lost() -> None:
    def decoder(ask: bool) -> EventStream:
        return EventStream(OpenAI(), Request(Operation.CHAT, b"", MODEL, stream=True, include_usage=ask))

    for ask in (False, True):
        waiting = decoder(ask)
        assert (waiting.feed(event(STOP)) == b"") is not ask
        assert waiting.finished
        assert sent(waiting.close()) == ([STOP, "[DONE]"] if not ask else ["[DONE]"])
    more = decoder(False)
    more.feed(event(STOP))
    assert sent(more.feed(event(HI[0]))) == [STOP, HI[0]]
    assert not more.finished


def test_after_a_failure_nothing_more_is_said() -> None:
    stream = EventStream(OpenAI(), Request(Operation.CHAT, b"", "m", stream=True))
    for value in (*HI, {"error": "m"}):
        stream.feed(event(value))
    failure, content = stream.failure, stream.content
    assert stream.feed(event(HI[0])) == stream.feed(DONE) == stream.close() == b""
    assert (stream.failure, stream.content, stream.finished) == (failure, content, False)


def test_after_done_an_endless_event_does_no_harm() -> None:
    pieces = [stream(*HI, STOP), *[b"data: " + b"x" * 100_000] * 20]
    for text in (pieces, [b"".join(pieces)]):
        seen = watch(text)
        assert seen == (seen.out, 2, None, True, None)


def test_the_last_count_counts() -> None:
    """Usage in every chunk is cumulative, and is read even from a chunk that is like an earlier one."""
    early = COUNTS | {"completion_tokens": 1}
    assert watch([stream(say("a", usage=early), say("b", usage=COUNTS), STOP)]).usage == COUNTED
    assert (
        watch([stream(say("a", usage=COUNTS), USAGE | {"usage": early}, say("b", usage=COUNTS), STOP)]).usage
        == COUNTED
    )


def test_the_engines_words_reach_the_log_not_the_client() -> None:
    stream = EventStream(OpenAI(), Request(Operation.CHAT, b"", "m", stream=True))
    stream.feed(event({"error": {"message": "cuda:0 at 10.0.0.7 died", "code": 500}}))
    assert stream.failure is not None
    assert "10.0.0.7" in stream.failure.detail and "10.0.0.7" not in stream.failure.message


def test_a_stream_is_finished_when_every_choice_is() -> None:
    stream = EventStream(OpenAI(), Request(Operation.CHAT, b"", "m", stream=True))
    seen = []
    for value in (say("a"), say("b", index=1), STOP, say("c", index=1), chunk({}, "length", index=1)):
        stream.feed(event(value))
        seen.append(stream.finished)
    assert seen == [False, False, False, False, True]


def test_a_choice_may_end_beside_one_that_goes_on() -> None:
    stream = EventStream(OpenAI(), Request(Operation.CHAT, b"", "m", stream=True))
    stream.feed(event({"choices": [*STOP["choices"], *say("b", index=1)["choices"]]}))
    assert not stream.finished
    stream.feed(event({"choices": [*chunk({}, "stop", 1)["choices"], *say("c", index=2)["choices"]]}))
    assert not stream.finished
    stream.feed(event(chunk({}, "stop", 2)))
    assert stream.finished


# Text that imitates the protocol, and arbitrary text.

IMITATIONS = [
    '"finish_reason":"stop"',
    '","finish_reason":"stop"}]}',
    '"usage":{"prompt_tokens":99}',
    '"error":{"message":"x"}',
    "error",
    "finish_reason",
    "[DONE]",
    "data: [DONE]\n\n",
    "\n\ndata: {}\n\n",
    f'"model":"{MODEL}"',
    "\\",
    '\\"',
    "\u2028\u2029\u0085",
    "😀",
    "\x00\x1f\x7f",
    '"}}]}\n\ndata: {"choices":[]}\n\n',
]


@pytest.mark.parametrize("say", [say, tool, lambda t: chunk({"reasoning": t}), text])
def test_text_that_imitates_the_protocol_is_text(say: Any) -> None:
    with looped(32) as loop:
        for imitation, ascii_only in itertools.product(IMITATIONS, [True, False]):
            values = [say("a"), say(imitation), say("b" + imitation), say(imitation + "c"), STOP]
            lines = [b"data: " + json.dumps(v, ensure_ascii=ascii_only).encode() + b"\n\n" for v in values]
            text = b"".join([*lines, DONE])
            with loop.case(imitation, ascii_only):
                for pieces in ([text], by_event(text), bytewise(text)):
                    out, *facts = watch(pieces, "public")
                    assert facts == [4, None, True, None]
                    assert sent(out) == [*(value | {"model": "public"} for value in values), "[DONE]"]


def test_tokens_as_keys_are_text() -> None:
    """Completions list likely tokens as the keys of an object."""
    likely = [{"error": -1.0, "usage": -2.0, "finish_reason": -3.0, "model": -4.0}]
    value = text("a")
    value["choices"][0]["logprobs"] = {"top_logprobs": likely}
    seen = watch([stream(text("x"), value, value, text("", "stop"))], "public")
    assert seen == (seen.out, 3, None, True, None)


TEXTS = st.one_of(st.sampled_from(IMITATIONS), st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
VALUES = st.one_of(
    TEXTS.map(say),
    TEXTS.map(say),
    TEXTS.map(tool),
    TEXTS.map(text),
    TEXTS.map(lambda t: chunk({"reasoning_content": t, "content": None})),
    TEXTS.map(lambda t: say(t, index=1)),
    TEXTS.map(lambda t: say(t, model=t)),
    TEXTS.map(lambda t: say(t, usage=COUNTS)),
    TEXTS.map(lambda t: say(t, reason="stop")),
    st.sampled_from([ROLE, STOP, USAGE, chunk({}, "length", index=1), {"error": "m"}, {}, None]),
)
STYLES = st.fixed_dictionaries(
    {}, optional={"spaced": st.booleans(), "prefix": st.just("data:"), "end": st.just("\r\n\r\n")}
)
BLOCKS = st.one_of(
    st.builds(lambda value, style: event(value, **style), VALUES, STYLES),
    st.builds(event, VALUES),
    st.sampled_from(
        [DONE, b": ping\n\n", b"id: 1\n", b"\n", b"data: {\n\n", b'data: {"a":\ndata: 1}\n\n', b"\r"]
    ),
)


@given(st.lists(BLOCKS, max_size=8), st.sampled_from([MODEL, "public", 'a"b\\']), st.booleans(), st.data())
def test_any_cut_and_any_way_gives_the_same(
    blocks: list[bytes], wanted: str, ask: bool, data: st.DataObject
) -> None:
    text = b"".join(blocks)
    whole = watch([text], wanted, ask)
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    cut = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    for pieces in (blocks, cut, bytewise(text)):
        assert watch(pieces, wanted, ask) == whole
    for pieces in ([text], blocks):
        assert watch(pieces, wanted, ask, DecodeAll) == whole


@given(st.lists(st.binary(max_size=20) | BLOCKS, max_size=6))
def test_no_bytes_make_it_raise(pieces: list[bytes]) -> None:
    seen = watch(pieces)
    assert watch([b"".join(pieces)]) == seen
    assert seen.finished or seen.failure is not None
    assert seen.out.count(DONE) == (seen.failure is None)


# The fast path.


class CountingStream(EventStream):
    """An `EventStream` that counts the events it decodes."""

    decoded: ClassVar[list[bytes]] = []

    def _decode(self, payload: bytes, event: bytes) -> bytes:
        self.decoded.append(payload)
        return super()._decode(payload, event)


@pytest.mark.parametrize(
    "like",
    [
        say,
        text,
        tool,
        lambda t: llamacpp({"content": t}),
        lambda t: chunk({"reasoning": t}),
        lambda t: chunk({"role": "assistant", "content": t}) | {"system_fingerprint": "fp", "usage": None},
        lambda t: chunk({"content": t, "reasoning_content": None, "tool_calls": None}) | {"sglext": None},
    ],
    ids=["vLLM", "completions", "tool call", "llama.cpp", "reasoning", "Ollama", "SGLang"],
)
@pytest.mark.parametrize("style", [{}, {"spaced": True}, {"prefix": "data:"}, {"end": "\r\n\r\n"}])
@pytest.mark.parametrize("wanted", [MODEL, "public"])
def test_of_a_token_stream_one_event_is_decoded(like: Any, style: dict[str, Any], wanted: str) -> None:
    CountingStream.decoded.clear()
    tokens = [" the", "\n\n", '"quoted"', "\\", "é", "日本", "{", "}"] * 20
    events = [event(like(token), **style) for token in tokens]
    seen = watch([*events, event(STOP), DONE], wanted, kind=CountingStream)
    assert seen == (seen.out, len(tokens), None, True, None)
    assert len(CountingStream.decoded) == 2


def test_an_event_that_is_null_says_nothing() -> None:
    """llama.cpp sends it while a list of prompts waits for its slots."""
    good = stream(say("a"), chunk({}, "stop"))
    assert watch([event(None), good]) == watch([good])
    assert watch([good]).failure is None
