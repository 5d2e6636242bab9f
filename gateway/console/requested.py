"""What `gateway batch` reads and has written: the lines of its input as requests, and its output file.

Rules:
- Input lines are those of OpenAI's Batch API, or plain ones: the body of a request and nothing around it, or a text.
- An input file is read line by line, twice: nothing is kept of it but a digest of each line's id.
- The output file grows by whole lines. What follows on its last line end was cut off by the end of a run, and is
  removed before the next one writes.
- Two runs never write the same output file: it is locked.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import msgspec

from backends.dialect.members import Members
from gateway.batches.inputs import skip_mark
from gateway.batches.lines import LONGEST_ID, Line, Wrong, is_blank, read, request
from gateway.console.client import Failed

CHAT: Final = "/v1/chat/completions"
_BY_MEMBER: Final = {"messages": CHAT, "prompt": "/v1/completions", "input": "/v1/embeddings"}
"""Where a plain line goes, by the member that it has."""
_SHOWN: Final = 10
"""Mistakes that are shown at most."""
_LONGEST: Final = 64 << 20
"""Bytes of a line at most."""
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class How(NamedTuple):
    """How input lines are taken."""

    model: str | None = None
    """The model that is asked instead of those that the lines name; None for these."""
    endpoint: str | None = None
    """Where plain lines go; None: where their members belong."""
    text: bool = False
    """Whether each line is the text of a prompt."""


def requests(file: Path, how: How) -> Iterator[tuple[int, Line | Wrong]]:
    """Yield the number of each line that is not blank, from 1, and the request in it. Raises Failed."""
    try:
        with file.open("rb") as lines:
            skip_mark(lines)
            number = 0
            while data := lines.readline(_LONGEST + 1):
                number += 1
                if len(data) > _LONGEST:
                    raise Failed(f"{file}:{number}: a line has more than {_LONGEST >> 20} MiB")
                if not is_blank(data):
                    yield number, _taken(data, number, how)
    except OSError as error:
        raise Failed(f"cannot read {file}: {error.strerror}") from None


def _taken(data: bytes, number: int, how: How) -> Line | Wrong:
    """Return the request in a line."""
    found = _plain(data, number, how)
    if found is None:
        found = read(data)
    if isinstance(found, Wrong):
        return found
    return found if how.model is None else _asking(found, how.model)


def _asking(line: Line, model: str) -> Line:
    """Return a request for another model."""
    members = Members(line.body)
    members.put("model", msgspec.json.encode(model))
    return line._replace(model=model, body=members.body())


def _plain(data: bytes, number: int, how: How) -> Line | Wrong | None:
    """Return the request in a plain line; None where the line is one of OpenAI's, or no JSON."""
    custom_id = f"line-{number}"
    if how.text:
        try:
            return _said(data.decode().strip("\r\n"), custom_id, how)
        except UnicodeDecodeError:
            return Wrong("invalid_text", "this line is not valid UTF-8")
    try:
        if data.lstrip().startswith(b'"'):
            return _said(json.loads(data), custom_id, how)
        members = _object.decode(data)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    known = next((name for name in _BY_MEMBER if name in members), None)
    if "body" in members or known is None:
        return None
    own = members.pop("custom_id", None)
    if own is not None:
        named = _id_of(own)
        if not named:
            message = f"'custom_id' must be text of 1 to {LONGEST_ID} characters"
            return Wrong("invalid_custom_id", message, "custom_id")
        custom_id = named
    return request(custom_id, how.endpoint or _BY_MEMBER[known], msgspec.json.encode(members))


def _id_of(found: msgspec.Raw) -> str:
    try:
        named = msgspec.json.decode(found)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    return named if isinstance(named, str) and len(named) <= LONGEST_ID else ""


def _said(text: str, custom_id: str, how: How) -> Line | Wrong:
    """Return the request that has this text for a prompt."""
    endpoint = how.endpoint or CHAT
    body: dict[str, Any]
    if endpoint == CHAT:
        body = {"messages": [{"role": "user", "content": text}]}
    else:
        body = {"prompt" if endpoint == "/v1/completions" else "input": text}
    return request(custom_id, endpoint, json.dumps(body).encode())


def digest(custom_id: str) -> bytes:
    """Return what is kept of a line's id."""
    return blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def checked(file: Path, how: How) -> int:
    """Return how many requests are in a file. Raises Failed with the places of all mistakes, if there are any."""
    total, seen, wrong = 0, dict[bytes, int](), list[str]()
    for number, found in requests(file, how):
        total += 1
        if isinstance(found, Wrong):
            wrong.append(f"{file}:{number}: {found.message}")
            continue
        before = seen.setdefault(digest(found.custom_id), number)
        if before != number:
            wrong.append(f"{file}:{number}: line {before} has the same 'custom_id'")
    if wrong:
        more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        raise Failed("\n".join([f"{len(wrong)} lines cannot be sent", *wrong[:_SHOWN], *more]))
    return total


class _Written(msgspec.Struct):
    """What an earlier run has written of a request."""

    custom_id: str
    error: Any = None
    response: _Response | None = None


class _Response(msgspec.Struct):
    status_code: int = 0


_written: Final = msgspec.json.Decoder(_Written)


class Output:
    """The output file: what earlier runs have written, and what this one adds."""

    def __init__(self, path: Path, again: bool = False) -> None:
        """Open and lock it, and remove what is cut off. Raises Failed.

        `again`: the lines of requests that failed are removed too, so that they are sent again.
        """
        self.path = path
        self.done: set[bytes] = set()
        """The digests of the ids of requests that need not be sent."""
        self.failed = 0
        """How many of them failed."""
        try:
            self._file: IO[bytes] = path.open("a+b", buffering=0)
        except OSError as error:
            raise Failed(f"cannot write {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._take_up(again)
        except BlockingIOError:
            self._file.close()
            raise Failed(f"another run writes {path}") from None
        except BaseException:
            self._file.close()
            raise

    def _take_up(self, again: bool) -> None:
        """Read what is there, and keep what counts."""
        kept: IO[bytes] | None = None
        end = 0
        with self.path.open("rb") as lines:
            if again:
                kept = self.path.with_name(self.path.name + ".new").open("w+b")
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                known, failed = self._known(line)
                if not (failed and again):
                    self.done.add(known)
                    self.failed += failed
                    if kept is not None:
                        kept.write(line)
        if kept is None:
            os.ftruncate(self._file.fileno(), end)
            return
        kept.flush()
        os.fsync(kept.fileno())
        fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(kept.name, self.path)
        self._file.close()
        self._file = kept

    def _known(self, line: bytes) -> tuple[bytes, bool]:
        """Return the digest of the id in an output line, and whether the request failed. Raises Failed."""
        try:
            found = _written.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Failed(
                f"{self.path} has lines that are none of a batch: name another by --output"
            ) from None
        status = 0 if found.response is None else found.response.status_code
        return digest(found.custom_id), not 200 <= status < 300

    def add(self, line: bytes) -> None:
        """Write a whole line. Raises Failed."""
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._file.fileno(), view) :]
        except OSError as error:
            raise Failed(f"cannot write {self.path}: {error.strerror}") from None

    def close(self) -> None:
        """Have everything on the disk, and let others write it."""
        os.fsync(self._file.fileno())
        self._file.close()
