"""Uploaded forms read as they come: the same parts wherever the bytes are cut, as the reader of whole bodies reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.framing.form import Begin, Content, Reader
from backends.framing.multipart import FormError, parts_of

BOUNDARY = b"b-1"
FORM = (
    b'--b-1\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b-1\r\nContent-Disposition: form-data; name="empty"\r\n\r\n\r\n'
    b'--b-1\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: text/plain\r\n\r\n'
    b'{"a": 1}\r\n--b-\r\n-b-1\n\r\n\r\n--b-1--\r\n'
)
PARTS = [
    ("purpose", None, b"batch"),
    ("empty", None, b""),
    ("file", b"a.jsonl", b'{"a": 1}\r\n--b-\r\n-b-1\n\r\n'),
]


def read(form: bytes, sizes: list[int]) -> list[tuple[str, bytes | None, bytes]]:
    """Return the parts of a form that comes in pieces of these sizes, again and again."""
    reader, parts, at, turn = Reader(BOUNDARY), list[tuple[str, bytes | None, bytes]](), 0, 0
    while at < len(form):
        size = sizes[turn % len(sizes)]
        for event in reader.feed(form[at : at + size]):
            if isinstance(event, Begin):
                parts.append((event.name, event.filename, b""))
            else:
                assert isinstance(event, Content) and event.data
                name, filename, content = parts[-1]
                parts[-1] = (name, filename, content + event.data)
        at, turn = at + size, turn + 1
    reader.close()
    return parts


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_the_parts_are_the_same_wherever_the_bytes_are_cut(sizes: list[int]) -> None:
    assert read(FORM, sizes) == PARTS
    assert read(b"\r\n" + FORM, sizes) == PARTS
    assert read(FORM[:-2], sizes) == PARTS


def test_a_form_that_is_cut_off_is_refused() -> None:
    for end in range(len(FORM) - 4):
        with pytest.raises(FormError):
            read(FORM[:end], [7])


WRONG = [
    b"x" + FORM,
    FORM + b"x",
    FORM.replace(b'\r\n--b-1\r\nContent-Disposition: form-data; name="empty"', b"\r\n--b-1x", 1),
    b"--b-1\r\n" + b"x" * 9000,
    b'--b-1\r\nContent-Disposition: form-data; name="a"\r\n\r\n--b-1--\r\n',
    b"--b-1\r\nContent-Type: text/plain\r\n\r\nx\r\n--b-1--\r\n",
    b'--b-1\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 300,
]


@pytest.mark.parametrize("form", WRONG)
@given(size=st.integers(1, 5000))
def test_what_is_no_form_is_refused_wherever_it_is_cut(form: bytes, size: int) -> None:
    with pytest.raises(FormError):
        read(form, [size])
    with pytest.raises(FormError):
        parts_of(form, BOUNDARY)


@given(st.binary(max_size=300).filter(lambda data: b"\n--b-1" not in data), st.integers(1, 50))
def test_it_reads_what_the_reader_of_whole_bodies_reads(content: bytes, size: int) -> None:
    form = b'--b-1\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + content + b"\r\n--b-1--\r\n"
    try:
        whole = [(part.name, part.filename, form[part.start : part.end]) for part in parts_of(form, BOUNDARY)]
    except FormError:
        whole = []
    if whole:
        assert read(form, [size]) == whole
