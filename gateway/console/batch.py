"""`gateway batch`: the requests in a file, sent to a running gateway from the terminal; it goes on where it was ended.

Rules:
- It needs nothing of the gateway but its API: no `server.data`, and no rights beyond those of any client.
- Its requests wait in the class `background`, so that everybody else's go first.
- A request is done once its line is in the output file. However a run ends, the next one sends the others alone.
- What passes is waited for (`gateway.batches.again`), a gateway that is stopped and started again too.
- Exit 0: each request has its answer. 1: some failed, or nothing could be sent. 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.batches.again import TRIES, Verdict, code_of, pause, verdict
from gateway.batches.lines import ENDPOINTS, Line, answered
from gateway.console.client import LONG, Answered, Client, Failed, add_arguments, printable
from gateway.console.progress import Progress
from gateway.console.requested import How, Output, checked, digest, requests
from gateway.priority import BACKGROUND, CLASSES

_HEADERS: Final = {"x-gateway-priority": CLASSES[BACKGROUND]}
_NAME: Final = "cli"
"""What the ids of output lines have for the name of a batch."""
_MOST: Final = 512
"""Requests under way at once, at most."""
_LOOK: Final = 0.2
"""Seconds between two looks at how far it is."""


def add_command(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("file", type=Path, help="the requests, one on each line")
    add_arguments(parser, key="a key of the gateway")
    parser.add_argument("--model", metavar="NAME", help="ask this model, whatever the lines name")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the answers (default: the input's name with `.out.jsonl`)",
    )
    parser.add_argument(
        "--concurrency", type=_count, default=16, metavar="N", help="requests at once (default: 16)"
    )
    parser.add_argument(
        "--endpoint",
        choices=sorted(ENDPOINTS),
        help="where lines go that say nothing (default: by their members)",
    )
    parser.add_argument("--text", action="store_true", help="each line is the text of a prompt, not JSON")
    parser.add_argument(
        "--retry-failed", action="store_true", help="send requests again that failed in an earlier run"
    )
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Send the requests that no earlier run has. Return the exit status."""
    how = How(options.model, options.endpoint, options.text)
    path = options.output or options.file.with_suffix(".out.jsonl")
    try:
        Client.of(options).alive()
        total = checked(options.file, how)
        output = Output(path, options.retry_failed)
        try:
            sending = _Sending(options, how, output, total)
            sending.run()
        finally:
            output.close()
    except Failed as error:
        print(f"gateway: {printable_lines(str(error))}", file=sys.stderr)
        return 1
    print(f"answers: {path}", file=sys.stderr)
    if sending.failed:
        print(
            f"gateway: {sending.failed} of {total} requests failed; --retry-failed sends them again",
            file=sys.stderr,
        )
    return 1 if sending.failed else 0


def printable_lines(text: str) -> str:
    """Return text without control characters but for its line ends."""
    return "\n".join(printable(line) for line in text.split("\n"))


class _Sending:
    """The threads that send the requests of a file, and what they share."""

    def __init__(self, options: argparse.Namespace, how: How, output: Output, total: int) -> None:
        self._options = options
        self._output = output
        self._left = self._not_done(requests(options.file, how))
        self._total = total
        self._lock = threading.Lock()
        self._over = threading.Event()
        """Set where nothing more is to be sent or written."""
        self._why: Failed | None = None
        self.done = len(output.done)
        self.failed = output.failed

    def run(self) -> None:
        """Send everything. Raises Failed where it makes no sense to go on, KeyboardInterrupt at Ctrl-C."""
        progress = Progress(self._total, self.done)
        count = min(self._options.concurrency, max(1, self._total - self.done))
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(_LOOK)
                    progress.show(self.done, self.failed)
        finally:
            with self._lock:  # whoever writes a line finishes it
                self._over.set()
            progress.end(self.done, self.failed)
        if self._why is not None:
            raise self._why

    def _not_done(self, every: Iterator[tuple[int, object]]) -> Iterator[tuple[int, Line]]:
        for number, found in every:
            if isinstance(found, Line) and digest(found.custom_id) not in self._output.done:
                yield number, found

    def _work(self) -> None:
        """Send one request after the other, until there is none."""
        client = Client.of(self._options, LONG)
        try:
            while not self._over.is_set():
                with self._lock:
                    number, line = next(self._left, (0, None))
                if line is None:
                    return
                answer = self._answer(client, line)
                if answer is not None:
                    self._write(number, line, answer)
        except Failed as error:
            self._why = self._why or error
            self._over.set()
        finally:
            client.close()

    def _answer(self, client: Client, line: Line) -> Answered | None:
        """Return the answer to a request; None where the run is over. Raises Failed where no request has one."""
        tries = 0
        while not self._over.is_set():
            asked: float | None = None
            tries += 1
            try:
                answer = client.send(line.url, line.body, _HEADERS)
            except Failed:
                # The gateway is started again, or the network is gone for a while.
                self._over.wait(pause(tries, None))
                continue
            if answer.status in (401, 403):
                raise Failed(client.refusal(answer, "a key"))
            code = code_of(answer.body) if answer.status >= 300 else ""
            if code == "model_not_found" and self._options.model is not None:
                raise Failed(client.refusal(answer))
            found, asked = verdict(answer.status, code), answer.retry_after
            if found is Verdict.WAIT or (found is Verdict.TRY and tries < TRIES):
                self._over.wait(pause(tries, asked))
                continue
            return answer
        return None

    def _write(self, number: int, line: Line, answer: Answered) -> None:
        written = answered(_NAME, number, line.custom_id, answer.status, answer.request_id, answer.body)
        with self._lock:
            if self._over.is_set():
                return
            self._output.add(written)
            self.done += 1
            self.failed += not 200 <= answer.status < 300
