"""Errors of engines: six shapes with one meaning, nothing private shown to a client, no exception for any input."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Failure, Headers, Kind
from backends.dialect.errors import read_failure, readable
from backends.dialect.waits import retry_after
from gateway.errors import GatewayError

RECORDINGS = Path(__file__).resolve().parent.parent / "recordings"


def read(status: int, body: object, headers: Headers = ()) -> Failure:
    """Return the failure in a body, given as bytes or as a value to encode."""
    return read_failure(status, headers, body if isinstance(body, bytes) else json.dumps(body).encode())


SHAPES = {
    "nested": {"error": {"message": "m n", "type": "BadRequestError", "param": "p", "code": 400}},
    "nested, words for code": {"error": {"message": "m n", "type": "t", "param": "p", "code": "c"}},
    "nested, nulls": {"error": {"message": "m n", "type": "t", "param": None, "code": None}},
    "flat": {"object": "error", "message": "m n", "type": "t", "param": "p", "code": 400},
    "a string": {"error": "m n"},
    "with error_type": {"error": "m n", "error_type": "validation"},
    "detail": {"detail": "m n"},
    "an event": b'data: {"error":"m n"}\n\n',
    "text": b"m n",
    "text with line breaks": b"  m\r\n n\n",
    "a JSON string": b'"m n"',
}


@pytest.mark.parametrize("body", SHAPES.values(), ids=SHAPES.keys())
def test_the_shapes_are_read_alike(body: object) -> None:
    failure = read(400, body)
    said = failure.message.strip('"')
    assert (failure.kind, failure.status, said) == (Kind.REJECTED, 400, "m n")


def test_param_and_code_are_kept_where_an_engine_has_them() -> None:
    nested, flat = read(400, SHAPES["nested, words for code"]), read(400, SHAPES["flat"])
    assert (nested.param, nested.code) == ("p", "c")
    assert (flat.param, flat.code) == ("p", None)  # a number repeats the status
    assert read(400, SHAPES["nested, nulls"]) == Failure(Kind.REJECTED, "m n", status=400, detail="m n")


@pytest.mark.parametrize(
    ("detail", "message", "param"),
    [
        ([{"loc": ["body", "messages"], "msg": "field required"}], "messages: field required", "messages"),
        (
            [
                {"loc": ["body", "messages", 0, "content"], "msg": "a", "type": "x"},
                {"loc": ["body"], "msg": "b"},
            ],
            "messages.0.content: a",
            "messages",
        ),
        ([{"loc": ["body"], "msg": "not JSON"}], "not JSON", None),
        ([], "the engine rejected the request", None),
        (["a", "b"], '["a", "b"]', None),
    ],
)
def test_of_a_list_of_complaints_the_first_is_told(detail: Any, message: str, param: str | None) -> None:
    failure = read(422, {"detail": detail})
    assert (failure.message, failure.param) == (message, param)


KINDS = {
    300: Kind.GARBLED,
    302: Kind.GARBLED,
    400: Kind.REJECTED,
    401: Kind.REFUSED,
    403: Kind.REFUSED,
    404: Kind.MISSING,
    405: Kind.UNSUPPORTED,
    408: Kind.FAILED,
    409: Kind.REJECTED,
    413: Kind.REJECTED,
    415: Kind.REJECTED,
    418: Kind.GARBLED,
    422: Kind.REJECTED,
    424: Kind.FAILED,
    429: Kind.OVERLOADED,
    500: Kind.FAILED,
    501: Kind.UNSUPPORTED,
    502: Kind.FAILED,
    503: Kind.OVERLOADED,
    504: Kind.FAILED,
    529: Kind.OVERLOADED,
    599: Kind.FAILED,
    299: Kind.GARBLED,
    600: Kind.GARBLED,
    999: Kind.GARBLED,
}


@pytest.mark.parametrize(("status", "kind"), KINDS.items())
def test_the_status_decides(status: int, kind: Kind) -> None:
    failure = read(status, {"error": {"message": "it is so", "type": "t", "code": None}})
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.detail == "it is so"


OVERFLOWS = {
    "vLLM": (
        400,
        {"error": {"message": "This model's maximum context length is 4096 tokens. However, you sent 9000."}},
    ),
    "vLLM, with max_tokens": (
        400,
        {
            "error": {
                "message": "You passed 894 input characters and requested 4096 output tokens. However, the model's "
                "context length is only 4096 tokens.",
                "type": "BadRequestError",
                "param": "input_text",
                "code": 400,
            }
        },
    ),
    "llama.cpp": (
        400,
        {
            "error": {
                "code": 400,
                "message": "request (1825 tokens) exceeds the available context size (256 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 1825,
                "n_ctx": 256,
            }
        },
    ),
    "llama-cpp-python": (
        400,
        {"error": {"message": "too long", "code": "context_length_exceeded", "type": "t"}},
    ),
    "SGLang": (
        400,
        {
            "object": "error",
            "message": "The input (9000 tokens) is longer than the model's context length",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "SGLang, with max_tokens": (
        400,
        {"object": "error", "message": "Requested token count exceeds it", "code": 400},
    ),
    "TensorRT-LLM": (
        400,
        {"object": "error", "message": "m", "type": "t", "code": "context_length_exceeded"},
    ),
    "TGI, prompt": (
        422,
        {
            "error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
            "error_type": "validation",
        },
    ),
    "TGI, prompt and answer": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000",
            "error_type": "validation",
        },
    ),
    "TGI, in a stream": (
        500,
        {
            "error": {
                "message": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
                "http_status_code": 422,
            }
        },
    ),
    "LMDeploy": (
        400,
        {"object": "error", "message": "Prompt length must be smaller than the model context length"},
    ),
    "LMDeploy, its engine": (
        400,
        {"object": "error", "message": "The request exceeds the model context length."},
    ),
    "Ollama": (400, {"error": "the input length exceeds the context length"}),
    "Ollama's cloud": (
        400,
        {"error": "prompt too long; exceeded max context length by 5404 tokens (ref: 0)"},
    ),
    "OpenAI": (
        400,
        {"error": {"message": "m", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    ),
}


@pytest.mark.parametrize(("status", "body"), OVERFLOWS.values(), ids=OVERFLOWS.keys())
def test_a_prompt_too_long_is_told_from_other_rejections(status: int, body: dict[str, Any]) -> None:
    failure = read(status, body)
    assert failure.kind is Kind.CONTEXT
    assert failure.message == failure.detail != ""


def test_a_failure_of_the_engine_that_speaks_of_context_is_still_its_failure() -> None:
    assert read(500, {"error": "maximum context length of the cache reached"}).kind is Kind.FAILED


@pytest.mark.parametrize("status", [400, 404])
def test_a_missing_model_is_known_by_its_code(status: int) -> None:
    body = {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}
    assert read(status, body).kind is Kind.MISSING


def test_another_gateway_says_that_no_engine_behind_it_can_do_it() -> None:
    error = {"message": "no", "type": "invalid_request_error", "param": "messages", "code": "not_supported"}
    assert read(400, {"error": error}).kind is Kind.UNSUPPORTED
    assert read(400, {"error": error | {"code": "other"}}).kind is Kind.REJECTED


@pytest.mark.parametrize("code", [400, "400", 429, 503])
@pytest.mark.parametrize("field", ["code", "http_status_code"])
def test_in_a_stream_the_body_has_the_status(code: int | str, field: str) -> None:
    failure = read(500, {"error": {"message": "m", field: code}})
    assert (failure.status, failure.kind) == (int(code), KINDS[int(code)])


@pytest.mark.parametrize(
    "code", [200, 399, 600, 40, 4000, -400, 400.0, True, "4e2", "²", "٤٠٠", "4" * 5000, [400], {}]
)
def test_a_code_that_is_no_error_status_changes_nothing(code: object) -> None:
    failure = read(500, {"error": {"message": "m", "code": code}})
    assert (failure.status, failure.kind, failure.code) == (500, Kind.FAILED, None)


def test_the_true_status_wins_over_the_body() -> None:
    assert read(503, {"error": {"message": "m", "code": 400}}).kind is Kind.OVERLOADED


SECRET = "Traceback: /srv/model.py at 10.0.0.7, prompt was 'my password'"


@pytest.mark.parametrize("status", [302, 401, 403, 404, 408, 424, 429, 500, 502, 503, 504, 529])
@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": SECRET, "type": SECRET, "param": SECRET, "code": SECRET}},
        {"object": "error", "message": SECRET, "param": "secret_param", "code": None},
        {"error": SECRET},
        {"detail": SECRET},
        SECRET.encode(),
        f"<html>{SECRET}</html>".encode(),
    ],
)
def test_what_is_not_about_the_request_stays_in_the_log(status: int, body: object) -> None:
    failure = read(status, body)
    assert "Traceback" in failure.detail
    assert "password" not in failure.message and "10.0.0.7" not in failure.message
    assert (failure.code, failure.param) == (None, None)


@pytest.mark.parametrize("status", [400, 405, 422])
def test_a_page_of_a_proxy_is_no_message(status: int) -> None:
    failure = read(
        status, b"\n<!DOCTYPE html><html><h1>Bad Request</h1><address>nginx at 10.0.0.7</address></html>"
    )
    assert "nginx" not in failure.message
    assert "nginx" in failure.detail


def test_a_stack_trace_is_no_message() -> None:
    failure = read(
        400, {"error": 'Failed: Traceback (most recent call last):\n File "/srv/model.py", line 1'}
    )
    assert (failure.kind, failure.message) == (Kind.REJECTED, "the engine rejected the request")
    assert "/srv/model.py" in failure.detail


@pytest.mark.parametrize(
    "body", [b"", b"null", b"{}", b"[]", b'{"error":{}}', b'{"error":""}', b'{"error":true}']
)
@pytest.mark.parametrize("status", [400, 500])
def test_without_words_there_is_a_plain_message(status: int, body: bytes) -> None:
    failure = read(status, body)
    assert failure.message.startswith("the engine ")
    assert failure.detail == ""


def test_messages_are_short_and_on_one_line() -> None:
    failure = read(
        400, {"error": {"message": "a\x00b\x1b[31mc\n\r\td\x7fe\u2028f\u202eg\u200bh" + "x" * 10_000}}
    )
    assert failure.message.startswith("a b [31mc d e f g h")
    assert failure.message.isprintable()
    assert len(failure.message) == len(failure.detail) == 500


@pytest.mark.parametrize("value", ["x" * 101, "a b", "a\nb", "1", 1.5, {"a": 1}, ["a"], "<b>", "é"])
def test_code_and_param_are_words(value: object) -> None:
    failure = read(400, {"error": {"message": "m", "code": value, "param": value}})
    assert (failure.message, failure.kind) == ("m", Kind.REJECTED)
    assert (failure.code, failure.param) == (None, None)


@pytest.mark.parametrize("param", ["messages", "messages[0].content", "input_text", "tools[1].function.name"])
def test_params_as_engines_write_them(param: str) -> None:
    assert read(400, {"error": {"message": "m", "param": param}}).param == param


ODD = [
    b'{"error":5}',
    b'{"error":[1,{"a":2}]}',
    b'{"error":true}',
    b'{"error":{"message":[],"type":5,"param":{},"code":{}}}',
    b'{"error":{"message":{"a":1}}}',
    b'{"message":5,"object":"error","code":[]}',
    b'{"detail":{"msg":"m"}}',
    b'{"error":{"message":"\xff\xfe"}}',
    b'{"error":"\\ud83d"}',
    b'{"error":{"message":1e999}}',
    b'{"error":{"message":' + b"9" * 5000 + b"}}",
    b'{"error":{"code":' + b"9" * 5000 + b"}}",
    b'{"error":' + b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"error":' + b'{"error":' * 5000 + b"1" + b"}" * 5001,
    b'{"error":"cut o',
    b"\xff\xfe\x00{",
    b"\x00" * 1000,
    b'\xef\xbb\xbf{"error":"m"}',
    b'{"error":NaN}',
]


@pytest.mark.parametrize("body", ODD)
@pytest.mark.parametrize("status", [400, 404, 500])
def test_odd_bodies_are_read_without_complaint(status: int, body: bytes) -> None:
    failure = read(status, body)
    assert failure.kind is KINDS[status]
    check(failure)


def check(failure: Failure) -> None:
    """Assert what is true of every failure."""
    assert 0 < len(failure.message) <= 500 and failure.message.isprintable()
    assert len(failure.detail) <= 500 and failure.detail.isprintable()
    for word in (failure.code, failure.param):
        assert word is None or (word.isascii() and word.isprintable() and 0 < len(word) <= 100)
    msgspec.json.encode([failure.message, failure.detail, failure.code, failure.param])


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["400", "²", "\ud800"])
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "type", "code", "param", "http_status_code", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.integers(100, 999), ANY_JSON, st.booleans())
def test_no_json_makes_it_fail(status: int, said: object, ascii_only: bool) -> None:
    check(read_failure(status, (), json.dumps(said, ensure_ascii=ascii_only).encode(errors="surrogatepass")))


@given(
    st.integers(100, 999),
    st.binary(),
    st.lists(st.tuples(st.sampled_from([b"retry-after", b"date"]), st.binary())),
)
def test_no_bytes_make_it_fail(status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    failure = read_failure(status, headers, body)
    check(failure)
    assert failure.retry_after is None or failure.retry_after >= 0


@given(st.text(st.characters()))
def test_readable_text_is_one_printable_line(text: str) -> None:
    line = readable(text)
    assert line.isprintable() and line == " ".join(line.split())
    assert len(line) <= 500


DATE = b"Wed, 21 Oct 2026 07:28:00 GMT"
WAITS = {
    "seconds": ([(b"retry-after", b"7")], 7.0),
    "zero": ([(b"retry-after", b"0")], 0.0),
    "white space": ([(b"retry-after", b" 7 ")], 7.0),
    "very long": ([(b"retry-after", b"1" * 400)], 2_592_000.0),
    "a date": ([(b"date", DATE), (b"retry-after", b"Wed, 21 Oct 2026 07:29:30 GMT")], 90.0),
    "a date, headers the other way": (
        [(b"retry-after", b"Wed, 21 Oct 2026 07:29:30 GMT"), (b"date", DATE)],
        90.0,
    ),
    "a date without zone": ([(b"date", DATE), (b"retry-after", b"Wed, 21 Oct 2026 07:29:30 -0000")], 90.0),
    "a date in another zone": ([(b"date", DATE), (b"retry-after", b"Wed, 21 Oct 2026 09:29:30 +0200")], 90.0),
    "in the old form": ([(b"date", DATE), (b"retry-after", b"Wednesday, 21-Oct-26 07:29:30 GMT")], 90.0),
    "now": ([(b"date", DATE), (b"retry-after", DATE)], 0.0),
    "the past": ([(b"date", DATE), (b"retry-after", b"Wed, 21 Oct 2026 07:27:00 GMT")], None),
    "a date, no clock to read it by": ([(b"retry-after", DATE)], None),
    "a date, a broken clock": ([(b"date", b"yesterday"), (b"retry-after", DATE)], None),
    "before all time": ([(b"date", DATE), (b"retry-after", b"Mon, 01 Jan 0001 00:00:00 +1400")], None),
    "after all time": ([(b"date", DATE), (b"retry-after", b"Fri, 31 Dec 9999 23:59:59 -1400")], None),
    "negative": ([(b"retry-after", b"-7")], None),
    "a fraction": ([(b"retry-after", b"1.5")], 1.5),
    "milliseconds": ([(b"retry-after", b"7"), (b"retry-after-ms", b"1250")], 1.25),
    "a fraction of a millisecond": ([(b"retry-after-ms", b"0.5")], 0.0005),
    "milliseconds that are none": ([(b"retry-after-ms", b"x"), (b"retry-after", b"7")], 7.0),
    "a reset": ([(b"x-ratelimit-reset", b"12")], 12.0),
    "a reset that was not asked for": ([(b"retry-after", b"7"), (b"x-ratelimit-reset", b"12")], 7.0),
    "resets of two limits": (
        [(b"x-ratelimit-reset-requests", b"8.64s"), (b"x-ratelimit-reset-tokens", b"6m0s")],
        360.0,
    ),
    "the reset of the one that is used up": (
        [
            (b"x-ratelimit-remaining-requests", b"0"),
            (b"x-ratelimit-reset-requests", b"350ms"),
            (b"x-ratelimit-remaining-tokens", b"10"),
            (b"x-ratelimit-reset-tokens", b"6m0s"),
        ],
        0.35,
    ),
    "a reset at a point in time": ([(b"date", DATE), (b"x-ratelimit-reset", b"1792567710")], 30.0),
    "the same in milliseconds": ([(b"date", DATE), (b"x-ratelimit-reset", b"1792567710000")], 30.0),
    "a point in time, no clock to read it by": ([(b"x-ratelimit-reset", b"1792567710")], None),
    "a point in time that is past": ([(b"date", DATE), (b"x-ratelimit-reset", b"1792567600")], None),
    "a reset as a date": ([(b"date", DATE), (b"x-ratelimit-reset-requests", b"2026-10-21T07:28:30Z")], 30.0),
    "a reset in words": ([(b"x-ratelimit-reset", b"soon"), (b"x-ratelimit-reset-x", b"\xff")], None),
    "words": ([(b"retry-after", b"soon")], None),
    "other digits": ([(b"retry-after", "٣".encode())], None),
    "a raised digit": ([(b"retry-after", b"\xb2")], None),
    "empty": ([(b"retry-after", b"")], None),
    "absent": ([(b"date", DATE)], None),
}


@pytest.mark.parametrize(("headers", "seconds"), WAITS.values(), ids=WAITS.keys())
def test_retry_after(headers: Headers, seconds: float | None) -> None:
    assert retry_after(headers) == seconds
    assert read(429, {"error": "busy"}, headers).retry_after == seconds


RECORDED = {
    "error_bad_json.http": (Kind.REJECTED, "parse error"),
    "error_context.http": (Kind.CONTEXT, "exceeds the available context size"),
    "error_embeddings_off.http": (Kind.UNSUPPORTED, "does not support embeddings"),
    "error_no_messages.http": (Kind.REJECTED, "'messages' is required"),
}


@pytest.mark.parametrize(("name", "kind", "words"), [(name, *row) for name, row in RECORDED.items()])
def test_recorded_answers_of_llamacpp(name: str, kind: Kind, words: str) -> None:
    answer = (RECORDINGS / "llamacpp" / name).read_bytes().replace(b"\r\n", b"\n")
    head, _, body = answer[answer.index(b"HTTP/1.1 ") :].partition(b"\n\n")
    failure = read(int(head.split()[1]), body)
    assert failure.kind is kind
    assert words in failure.message


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("see https://host:8000/docs?k=1 for it", "see … for it"),
        ("there is no /models/llama/8b here", "there is no … here"),
        ("File '/usr/lib/python3/x.py', line 3", "File '…', line 3"),
        (r"cannot open C:\models\a.bin now", "cannot open … now"),
        ("Incorrect API key provided: sk-proj-****abcd.", "Incorrect API key provided: …."),
        ("Bearer abcdefgh12345 is not valid", "… is not valid"),
        ("POST /v1/chat/completions takes 'messages'", "POST /v1/chat/completions takes 'messages'"),
        ("call /wakeup first, and/or wait", "call /wakeup first, and/or wait"),
        ("the type must be image/png", "the type must be image/png"),
    ],
)
def test_no_address_path_or_key_reaches_a_client(said: str, shown: str) -> None:
    """Whoever has put the message together: the reader of errors, or an engine's adapter."""
    failure = read(400, {"error": {"message": said}})
    assert (failure.kind, failure.message) == (Kind.REJECTED, said)
    assert GatewayError.of(failure).message == shown
    for kind in Kind:
        told = GatewayError.of(Failure(kind, said), "model 'm' at backend '/a/b'").message
        assert told.startswith(shown) and (told == shown or told.endswith("'/a/b')"))


def test_who_has_to_pay_is_told_why() -> None:
    failure = read(402, {"error": {"message": "Insufficient balance", "code": "insufficient_quota"}})
    assert (failure.kind, failure.message) == (Kind.REFUSED, "Insufficient balance")


def test_an_error_in_a_list_is_read() -> None:
    failure = read(400, [{"error": {"code": 400, "message": "m n", "status": "INVALID_ARGUMENT"}}])
    assert (failure.kind, failure.message) == (Kind.REJECTED, "m n")
    for body in (b"[", b"[]", b"[1]", b"[" * 100_000):
        assert read(400, body).kind is Kind.REJECTED


@pytest.mark.parametrize(
    "error",
    [
        {"message": "Invalid URL (POST /v1/score)", "type": "invalid_request_error", "code": None},
        {"message": "Unknown request URL: POST /v1/x. Please check the URL for typos", "code": "unknown_url"},
        {"message": "no such path", "code": "unknown_url"},
        {"message": "Not Found", "type": "Not Found", "code": 404},
    ],
)
def test_an_unknown_path_in_the_shape_of_openai_is_no_missing_model(error: dict[str, Any]) -> None:
    failure = read(404, {"error": error})
    assert (failure.kind, failure.message, failure.code) == (
        Kind.UNSUPPORTED,
        "the engine does not offer this operation",
        None,
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"type": "invalid_request_error", "message": "no such tool"}, Kind.REJECTED),
        ({"code": "invalid_prompt", "message": "the prompt is empty"}, Kind.REJECTED),
        ({"type": "invalid_request_error", "message": "exceeds the model context length"}, Kind.CONTEXT),
        ({"type": "invalid_request_error", "message": "x", "code": 503}, Kind.OVERLOADED),
        ({"type": "server_error", "message": "exceeds the model context length"}, Kind.FAILED),
    ],
)
def test_an_error_in_a_stream_may_be_about_the_request(error: dict[str, object], kind: Kind) -> None:
    assert read(500, {"error": error}).kind is kind
