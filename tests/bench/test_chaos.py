"""The chaos run finds nothing, and would find something: its judge refuses each kind of lie.

Rules:
- The small run is the real one with fewer requests: a real gateway process, real engines, real sockets.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import probe
from bench.answers import OK, TOLD, Answer, Asked, WrongAnswer, judge

ROOT = Path(__file__).resolve().parents[2]
ASKED = Asked("t1", "m", stream=True, words=3)
HEAD = b"HTTP/1.1 200 OK\r\nx-request-id: t1\r\ntransfer-encoding: chunked\r\n\r\n"
ERROR = b'data: {"error":{"message":"broken"}}\n\n'
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_small_chaos_run_finds_nothing() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "bench.chaos", "--streams", "400", "--clients", "40"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "| violations | 0 |" in ran.stdout
    # It is no run if nothing went wrong in it.
    for kind in (TOLD, "left within the stream", "left while sending the body", f"while draining: {TOLD}"):
        assert kind in ran.stdout


def event(text: str = "", *, model: str = "m", finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return b"data: " + json.dumps({"model": model, "choices": [choice]}).encode() + b"\n\n"


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


WHOLE = (event("t1w0"), event(" t1w1"), event(" t1w2"), event(finish="stop"))


def answer(*pieces: bytes) -> Answer:
    found = Answer()
    for piece in pieces:
        assert found.feed(piece) == b""
    return found


def test_a_whole_answer_and_a_told_failure_are_the_truth() -> None:
    assert judge(ASKED, answer(HEAD, chunks(*WHOLE, DONE), END)) == OK
    assert judge(ASKED, answer(HEAD, chunks(WHOLE[0], ERROR))) == TOLD
    assert judge(ASKED, answer(HEAD, chunks(WHOLE[0])), patient=False) == "left within the stream"
    assert judge(ASKED, Answer(), patient=False) == "left before the answer"
    refused = (
        b'HTTP/1.1 503 Busy\r\nx-request-id: t1\r\ncontent-length: 27\r\n\r\n{"error":{"message":"busy"}}'
    )
    assert judge(ASKED, answer(refused.replace(b"27", b"28"))) == "status 503"


@pytest.mark.parametrize(
    ("bytes_of_the_answer", "lie"),
    [
        (b"", "closed without an answer"),
        (HEAD.replace(b"t1", b"t2"), "the answer of another request"),
        (HEAD + chunks(event("t2w0")), "the text of another"),
        (HEAD + chunks(WHOLE[0], event(" t1w1", model="upstream")), "the name of another model"),
        (HEAD + chunks(*WHOLE[:2]), "broke off without a word"),
        (HEAD + chunks(*WHOLE[:2]) + END, "the clean end of a broken stream"),
        (HEAD + chunks(*WHOLE[:2], DONE) + END, "the clean end of a broken stream"),
        (HEAD + chunks(*WHOLE[:3], DONE) + END, "the clean end of a broken stream"),
        (HEAD + chunks(WHOLE[0], ERROR) + END, "the clean end of a broken stream"),
        (HEAD + chunks(WHOLE[0], ERROR, DONE), "something after the end"),
        (HEAD + chunks(*WHOLE, DONE, WHOLE[0]) + END, "something after the end"),
        (HEAD + chunks(b"garbage\n\n"), "no event"),
        (HEAD + b"zz\r\n", "not HTTP"),
        (b"SSH-2.0\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 503 Busy\r\nx-request-id: t1\r\ncontent-length: 99\r\n\r\n{}", "an error that broke off"),
    ],
)
def test_every_lie_is_found(bytes_of_the_answer: bytes, lie: str) -> None:
    with pytest.raises(WrongAnswer, match=lie):
        judge(ASKED, answer(bytes_of_the_answer))


def test_an_answer_is_the_same_wherever_its_bytes_are_cut() -> None:
    data = HEAD + chunks(*WHOLE, DONE) + END
    for cut in range(1, len(data)):
        found = Answer()
        assert found.feed(data[:cut]) == b"" and not found.ended
        assert found.feed(data[cut:] + b"next") == b"next"
        assert judge(ASKED, found) == OK


def test_the_request_carries_its_token_and_its_fate() -> None:
    head, _, body = Asked("t7", "m", True, 2, "resets").request(80, "key").partition(b"\r\n\r\n")
    assert b"\r\nx-request-id: t7\r\n" in head and f"content-length: {len(body)}".encode() in head
    sent: dict[str, Any] = json.loads(body)
    assert [message["content"] for message in sent["messages"]] == ["fault=resets;", "t7w0 t7w1"]


def test_the_metrics_page_is_added_up() -> None:
    page = '# HELP a x\na{m="x",o="ok"} 2.0\na{m="y",o="ok"} 3.0\na{m="x",o="no"} 1.0\nab{m="x"} 9.0\nb 4.0\n'
    assert probe.total(page, "a") == 6
    assert probe.total(page, "b") == 4
    assert probe.by_label(page, "a", "m") == {"x": 3, "y": 3}
