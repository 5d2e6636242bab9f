"""Forms: files are found whatever they contain; ambiguous forms are refused."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.framing.multipart import (
    LONGEST_HEAD,
    MOST_PARTS,
    FormError,
    boundary_of,
    is_form,
    parts_of,
    replaced,
)
from tests.looped import looped

Field = tuple[str, bytes, bytes]
"""A name, further parameters of its disposition, and the content."""


def form(*fields: Field, boundary: bytes = b"x1") -> bytes:
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        % (boundary, name.encode(), rest, content)
        for name, rest, content in fields
    ]
    return b"".join([*parts, b"--", boundary, b"--\r\n"])


def contents(body: bytes, boundary: bytes = b"x1") -> list[tuple[str, bytes]]:
    return [(part.name, body[part.start : part.end]) for part in parts_of(body, boundary)]


MODEL: Field = ("model", b"", b"whisper")
FILE: Field = ("file", b'; filename="a.wav"', b"RIFF\r\n\x00--x\r\n--\r\n\r\n")


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        (b"multipart/form-data; boundary=x1", b"x1"),
        (b'multipart/form-data; boundary="x1"', b"x1"),
        (b'Multipart/Form-Data ;charset=utf-8; BOUNDARY="a b"', b"a b"),
        (b"multipart/form-data;boundary=----WebKitFormBoundary7M ", b"----WebKitFormBoundary7M"),
        (b"multipart/form-data; boundary=a/b=c:d?e", b"a/b=c:d?e"),
        (b'multipart/form-data; boundary="(a)"', b"(a)"),
        (b"multipart/form-data; boundary=" + b"a" * 70, b"a" * 70),
    ],
)  # fmt: skip
def test_the_boundary_of_a_header(header: bytes, boundary: bytes) -> None:
    assert is_form(header)
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"application/json",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary=""',
        b'multipart/form-data; boundary="a\\b"',
        b'multipart/form-data; boundary="a ',
        b"multipart/form-data; boundary=a b",
        b"multipart/form-data; boundary=a; boundary=b",
        b"multipart/form-data; boundary=\xe4",
        b'multipart/form-data; boundary="a "',
        b"multipart/form-data; boundary=" + b"a" * 71,
        b"multipart/form-datas; boundary=a",
    ],
)
def test_headers_without_a_boundary(header: bytes) -> None:
    with pytest.raises(FormError):
        boundary_of(header)


@pytest.mark.parametrize("ending", [b"", b"\r\n"])
@pytest.mark.parametrize("beginning", [b"", b"\r\n"])
def test_parts_are_found_where_they_are(beginning: bytes, ending: bytes) -> None:
    body = beginning + form(MODEL, FILE, ("empty", b"", b"")).removesuffix(b"\r\n") + ending
    assert contents(body) == [("model", b"whisper"), ("file", FILE[2]), ("empty", b"")]
    model, file, _ = parts_of(body, b"x1")
    assert (model.filename, file.filename) == (None, b"a.wav")
    assert contents(replaced(body, model, b"other")) == [
        ("model", b"other"),
        ("file", FILE[2]),
        ("empty", b""),
    ]


def test_headers_as_senders_write_them() -> None:
    head = (
        b'--x1\r\ncontent-DISPOSITION:form-data ; name=file; filename="a\\"b.wav"; filename*=UTF-8\'\'%C3%A4\r\n'
        b"Content-Type: audio/wav\r\nContent-Transfer-Encoding: Binary\r\nContent-Length: 3\r\n\r\nabc\r\n--x1--"
    )
    (part,) = parts_of(head, b"x1")
    assert (part.name, part.filename, head[part.start : part.end]) == ("file", b'a\\"b.wav', b"abc")


def part(head: bytes, content: bytes = b"v") -> bytes:
    return b"--x1\r\n" + head + b"\r\n\r\n" + content + b"\r\n--x1--\r\n"


NAMED = b'Content-Disposition: form-data; name="model"'

REFUSED = {
    "nothing": b"",
    "no form": b'{"model":"m"}',
    "text before it": b"hello\r\n" + form(MODEL),
    "text after it": form(MODEL) + b"more",
    "text in its end": form(MODEL).removesuffix(b"\r\n") + b"-",
    "only its end missing": form(MODEL).removesuffix(b"--x1--\r\n"),
    "another boundary": form(MODEL, boundary=b"y"),
    "a boundary that goes on": form(MODEL).replace(b"--x1\r\n", b"--x1y\r\n"),
    "padding after the boundary": form(MODEL).replace(b"--x1\r\n", b"--x1 \r\n"),
    "a boundary within a part": form(("model", b"", b"a\r\n--x1b")),
    "a boundary after a line feed alone": form(("model", b"", b"a\n--x1\r\n")),
    "line feeds alone": form(MODEL).replace(b"\r\n", b"\n"),
    "a line feed in the headers": part(NAMED + b"\nX: y"),
    "a folded header": part(b'Content-Disposition: form-data;\r\n name="model"'),
    "no headers": b"--x1\r\n\r\nv\r\n--x1--\r\n",
    "no blank line": b"--x1\r\n" + NAMED + b"\r\n--x1--\r\n",
    "a shared line end": b"--x1\r\n" + NAMED + b"\r\n\r\n--x1--\r\n",
    "no name": part(b"Content-Disposition: form-data"),
    "no disposition": part(b"Content-Type: text/plain"),
    "an attachment": part(b'Content-Disposition: attachment; name="model"'),
    "another kind": part(b'Content-Disposition: form-data2; name="model"'),
    "two names": part(NAMED + b'; name="b"'),
    "two names in two cases": part(NAMED + b'; NAME="b"'),
    "an encoded name": part(NAMED + b"; name*=UTF-8''b"),
    "two dispositions": part(NAMED + b"\r\n" + NAMED),
    "an escape in a name": part(b'Content-Disposition: form-data; name="mo\\del"'),
    "a comment": part(b"Content-Disposition: form-data; name=model(x)"),
    "a name that is not UTF-8": part(b'Content-Disposition: form-data; name="\xff"'),
    "a quote without its end": part(b'Content-Disposition: form-data; name="model'),
    "a control character": part(b'Content-Disposition: form-data; name="mo\x00del"'),
    "a header without a colon": part(NAMED + b"\r\nhello"),
    "a space before the colon": part(NAMED.replace(b":", b" :")),
    "base64": part(NAMED + b"\r\nContent-Transfer-Encoding: base64", b"dg=="),
    "endless headers": part(NAMED + b"\r\nX: " + b"y" * LONGEST_HEAD),
    "too many parts": form(*[MODEL] * (MOST_PARTS + 1)),
}  # fmt: skip


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_form_or_two(body: bytes) -> None:
    with pytest.raises(FormError) as error:
        parts_of(body, b"x1")
    assert str(error.value).isprintable()


def test_as_many_parts_as_allowed() -> None:
    assert len(parts_of(form(*[MODEL] * MOST_PARTS), b"x1")) == MOST_PARTS


def test_a_form_that_is_cut_off_is_refused() -> None:
    whole = form(MODEL, FILE)
    with looped(160) as loop:
        for size in range(len(whole) - 2):
            with loop.case("bytes", size), pytest.raises(FormError):
                parts_of(whole[:size], b"x1")


TRICKY = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"-", b"--", b"x", b"x1", b"\r\n--x", b"\x00", b"\xff", b"a"]),
    max_size=12,
).map(b"".join)


@given(st.lists(st.tuples(st.sampled_from(["model", "file", "ä", "a b"]), TRICKY), min_size=1, max_size=4))
def test_any_content_is_found_again(fields: list[tuple[str, bytes]]) -> None:
    body = form(*[(name, b'; filename="f"', content) for name, content in fields])
    if any(b"\n--x1" in b"\r\n" + content for _, content in fields):
        with pytest.raises(FormError):
            parts_of(body, b"x1")
    else:
        assert contents(body) == fields


@given(st.integers(0, len(form(MODEL, FILE)) - 1), st.binary(max_size=2))
def test_a_damaged_form_is_refused_or_reads_as_mail_does(at: int, other: bytes) -> None:
    """The standard library's parser finds the same fields in every form that is accepted."""
    whole = form(MODEL, FILE)
    body = whole[:at] + other + whole[at + 1 :]
    try:
        found = contents(body)
    except FormError:
        return
    if b"\r--x1" in body:
        return  # mail readers take that for a line's end; nobody who reads forms does
    mail = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: multipart/form-data; boundary=x1\r\n\r\n" + body
    )
    assert mail.is_multipart()
    names = [piece.get_param("name", header="content-disposition") for piece in mail.iter_parts()]
    assert names == [name for name, _ in found]
