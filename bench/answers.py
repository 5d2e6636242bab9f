"""What a client of the chaos run asks, and whether the answer it got is right: complete, or failed and told so.

Rules:
- Each request carries a token of its own, in its text and as its id. The engine echoes the text, so every byte of an
  answer can be checked: content that is not a prefix of the client's own text was meant for somebody else.
- A stream that ends cleanly is complete. One that is broken ends with an error event and a cut connection.
- Nothing here reads or waits: bytes in, verdicts out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

OK, TOLD = "complete", "failure told in the stream"
_HEAD_END = b"\r\n\r\n"


class WrongAnswer(Exception):
    """An answer that must not exist; the message says why."""


@dataclass(frozen=True)
class Asked:
    """One chat completion."""

    token: str
    model: str
    stream: bool
    words: int
    fault: str = ""
    """What the engines do to this request, the name of a rule of their script; "" for a healthy answer."""
    word_size: int = 0
    """Bytes added to each word, for answers that fill buffers."""

    @property
    def text(self) -> str:
        """What a complete answer says."""
        return " ".join(f"{self.token}w{number}{'x' * self.word_size}" for number in range(self.words))

    def request(self, port: int, key: str) -> bytes:
        """Return the bytes of the request."""
        body = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": f"fault={self.fault};"},
                {"role": "user", "content": self.text},
            ],
            "stream": self.stream,
        }
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
            f"x-request-id: {self.token}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


@dataclass
class Answer:
    """One HTTP answer, parsed as its bytes arrive."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    """The framing came to its proper end."""
    wrong: str = ""
    """What is not HTTP in it; "" for nothing."""
    _buffer: bytearray = field(default_factory=bytearray)
    _left: int = 0
    """Bytes of a body with a length, or of a chunk with its line end, that are still to come."""

    @property
    def begun(self) -> bool:
        """Whether the head is complete."""
        return self.status > 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return those that belong to the next answer."""
        self._buffer += data
        try:
            return self._read()
        except ValueError as error:
            self.wrong = f"not HTTP: {error}"
            return b""

    def _read(self) -> bytes:
        if not self.begun and not self._read_head():
            return b""
        if self._chunked:
            while not self.ended and self._read_chunk():
                pass
        else:
            self.body += self._take(min(self._left, len(self._buffer)))
            self.ended = not self._left
        return bytes(self._take_all()) if self.ended else b""

    def _read_head(self) -> bool:
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + len(_HEAD_END)]
        if not first.startswith("HTTP/1.1 ") or not first[9:12].isdigit():
            raise ValueError(f"{first[:80]!r}")
        self.status = int(first[9:12])
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        self._left = 0 if self._chunked else int(self.headers.get("content-length", 0))
        return True

    @property
    def _chunked(self) -> bool:
        return self.headers.get("transfer-encoding") == "chunked"

    def _read_chunk(self) -> bool:
        """Take one chunk, or as much of it as there is; tell whether there may be another."""
        if not self._left:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return False
            size = int(self._buffer[:end], 16)
            if not size:
                self.ended = self._buffer[end : end + 4] == _HEAD_END
                if self.ended:
                    del self._buffer[: end + 4]
                return False
            del self._buffer[: end + 2]
            self._left = size + 2
        if len(self._buffer) < self._left:
            return False
        self.body += self._take(self._left)[:-2]
        return True

    def _take(self, size: int) -> bytearray:
        taken = self._buffer[:size]
        del self._buffer[:size]
        self._left -= size
        return taken

    def _take_all(self) -> bytearray:
        taken, self._buffer = self._buffer, bytearray()
        return taken


def judge(asked: Asked, answer: Answer, *, patient: bool = True) -> str:
    """Say how an answer ended, as a word for the count. Raises WrongAnswer if it must not exist.

    `patient`: the client has read everything there was. One that has not is only held to what it has.
    """
    if answer.wrong:
        raise WrongAnswer(answer.wrong)
    if not answer.begun:
        if patient:
            raise WrongAnswer("closed without an answer")
        return "left before the answer"
    if answer.headers.get("x-request-id") != asked.token:
        raise WrongAnswer(f"the answer of another request: {answer.headers.get('x-request-id')}")
    if answer.status != 200:
        return _judge_error(answer, patient)
    if asked.stream:
        return _judge_stream(asked, answer, patient)
    if not answer.ended:
        if patient:
            raise WrongAnswer("an answer with a length broke off")
        return "left within the answer"
    message = json.loads(answer.body)["choices"][0]["message"]
    if message["content"] != asked.text:
        raise WrongAnswer(f"the text of another: {message['content'][:80]!r}")
    return OK


def _judge_error(answer: Answer, patient: bool) -> str:
    if answer.ended and not json.loads(answer.body)["error"]["message"]:
        raise WrongAnswer("an error without a message")
    if patient and not answer.ended:
        raise WrongAnswer("an error that broke off")
    return f"status {answer.status}"


def _judge_stream(asked: Asked, answer: Answer, patient: bool) -> str:
    *events, rest = bytes(answer.body).split(b"\n\n")
    said, finished, done, failed = "", False, False, False
    for event in events:
        if done or failed:
            raise WrongAnswer(f"something after the end: {event[:80]!r}")
        if not event.startswith(b"data: "):
            raise WrongAnswer(f"no event: {event[:80]!r}")
        if event == b"data: [DONE]":
            done = True
            continue
        chunk = json.loads(event[6:])
        failed = "error" in chunk
        if not failed:
            text, finish = _piece(asked, chunk)
            said += text
            finished = finished or finish
    if not asked.text.startswith(said):
        raise WrongAnswer(f"the text of another: {said[-80:]!r}")
    whole = finished and done and said == asked.text and not rest
    if (answer.ended or done) and not whole:
        raise WrongAnswer("the clean end of a broken stream")
    if whole:
        return OK
    if failed:
        return TOLD
    if patient:
        raise WrongAnswer("a stream broke off without a word")
    return "left within the stream"


def _piece(asked: Asked, chunk: dict[str, Any]) -> tuple[str, bool]:
    """Return the text of a chunk, and whether it holds the reason of the end."""
    if chunk["model"] != asked.model:
        raise WrongAnswer(f"the name of another model: {chunk['model']!r}")
    [choice] = chunk["choices"]
    return choice["delta"].get("content") or "", choice["finish_reason"] is not None
