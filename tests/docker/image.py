"""`make image`: build the images, run the one with llama.cpp as compose would, and look at all that it promises.

Rules:
- The image that runs is the one that was built; what is asked of it is asked from within, as its own user.
- Every check that fails is told with the container's log, and the exit status is 1. What was measured is printed, never
  judged.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.docker.builders import NAME, Builder, Container, Missing, find

KEY = "gw-of-the-image-check"
PATIENCE = 180.0
"""Seconds until the gateway and its engine must be ready; a busy machine takes most of a minute."""
DRAIN = 45.0
"""Seconds from SIGTERM to the end, as long as compose waits."""

ASK = """
import json, os, sys, urllib.request
path, body = sys.argv[1:]
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["GATEWAY_KEY"]}
url = "http://127.0.0.1:8080" + path
answer = urllib.request.urlopen(urllib.request.Request(url, body.encode() or None, headers), timeout=60)
for line in answer:
    print(line.decode(), end="", flush=True)
"""
"""A client of the standard library, which the image has: `python -c ASK PATH BODY` prints the answer as it comes."""

LOOK = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/1/status").read().splitlines())
try:
    open("/opt/gateway/written", "w")
    writable = True
except OSError:
    writable = False
print(json.dumps({
    "command": open("/proc/1/cmdline").read().split(chr(0)), "user": status["Uid"].split(), "own": os.getuid(),
    "capabilities": int(status["CapEff"], 16), "privileges": status["NoNewPrivs"].strip(), "writable": writable,
}))
"""
"""What the container's first process is and may do."""


class Failed(Exception):
    """A check failed; the message says which."""


def check(holds: object, what: str) -> None:
    """Raise Failed unless something holds."""
    if not holds:
        raise Failed(what)


def ask(container: Container, path: str, body: str = "") -> subprocess.Popen[str]:
    """Start a request in the container."""
    return container.start("python", "-c", ASK, path, body)


def answer(process: subprocess.Popen[str], seconds: float = 90.0) -> str:
    """Return what a process in the container prints. Raises Failed if it fails."""
    output, errors = process.communicate(timeout=seconds)
    check(process.returncode == 0, f"exit status {process.returncode}: {errors.strip()[-500:]}")
    return output


def wait_until_ready(container: Container) -> float:
    """Wait for the gateway and its engine. Return the seconds."""
    began = time.monotonic()
    while True:
        process = ask(container, "/readyz")
        _, errors = process.communicate(timeout=30)
        if process.returncode == 0:
            return time.monotonic() - began
        check(container.alive(), "it has ended")
        check(
            time.monotonic() - began < PATIENCE, f"not ready after {PATIENCE:.0f} s: {errors.strip()[-300:]}"
        )
        time.sleep(0.2)


def look(container: Container) -> None:
    """Check who runs in the container, and what it may do."""
    seen = json.loads(answer(container.start("python", "-c", LOOK)))
    check("gateway" in " ".join(seen["command"]), f"the first process is {seen['command']}")
    check(set(seen["user"]) == {"10001"} and seen["own"] == 10001, f"it runs as {seen['user']}")
    check(seen["capabilities"] == 0, f"it has the capabilities {seen['capabilities']:x}")
    check(seen["privileges"] == "1", "it may get new privileges")
    check(not seen["writable"], "its root can be written to")


def complete(container: Container) -> float:
    """Ask for a completion. Return the seconds it took, a start of Python included."""
    began = time.monotonic()
    question = [{"role": "user", "content": "What is this gateway?"}]
    body = {"model": "demo", "messages": question, "max_tokens": 40}
    whole = json.loads(answer(ask(container, "/v1/chat/completions", json.dumps(body))))
    seconds = time.monotonic() - began
    text, used = whole["choices"][0]["message"]["content"], whole["usage"]
    check(text and used["completion_tokens"] > 0, f"an empty answer: {whole}")
    print(f"completion: {text!r} ({used['completion_tokens']} tokens)")
    return seconds


def drain(container: Container) -> tuple[float, int]:
    """Stop the gateway in the middle of a stream. Return the seconds, and the events that came after SIGTERM."""
    body = {"model": "demo", "prompt": "The gateway", "max_tokens": 300, "stream": True, "ignore_eos": True}
    process = ask(container, "/v1/completions", json.dumps(body))
    assert process.stdout is not None
    first = process.stdout.readline()
    check(first.startswith("data: "), f"no stream: {first!r} {process.poll()}")
    began = time.monotonic()
    container.terminate()
    rest = [line for line in process.stdout if line.strip()]
    check(process.wait(DRAIN) == 0, "the stream was cut by SIGTERM")
    check(
        rest and rest[-1].strip() == "data: [DONE]",
        f"after {len(rest)} events the stream ended with {rest[-1:]}",
    )
    check(len(rest) > 20, f"only {len(rest)} events came after SIGTERM: it came too late to show anything")
    status, seconds = container.wait(DRAIN), time.monotonic() - began
    check(status == 0, f"the gateway ended with {status}")
    check(seconds < 25, f"it ended after {seconds:.1f} s, though nothing ran any more: server.drain is 30 s")
    return seconds, len(rest)


@contextmanager
def running(builder: Builder, target: str) -> Iterator[Container]:
    """Yield a container, and show its log if anything goes wrong."""
    container = builder.run(target, {"GATEWAY_KEY": KEY})
    try:
        yield container
    except Exception:
        print(f"--- the log of the container ---\n{container.log()}---", file=sys.stderr)
        raise
    finally:
        container.remove()


def try_it(builder: Builder) -> None:
    """Run the image with llama.cpp and check it."""
    health = builder.health_check("cpu")
    with running(builder, "cpu") as container:
        print(f"ready: {wait_until_ready(container):.1f} s after its start")
        look(container)
        answer(container.start(*health))
        print(f"health check: {' '.join(health)} says that it is alive")
        print(f"compiled: {answer(container.start('gateway', 'version')).strip()}")
        print(f"completion: {complete(container):.2f} s, the client's start included")
        seconds, events = drain(container)
        print(f"SIGTERM in a stream: {events} more events to its end, exit status 0 after {seconds:.1f} s")
    without_key = builder.run("cpu", {})
    try:
        check(without_key.wait(60) == 1, "it started without a key")
        check(
            "GATEWAY_KEY" in without_key.log(), f"it does not say which key is missing: {without_key.log()}"
        )
    finally:
        without_key.remove()


def main() -> int:
    """Build, run and report. Return the exit status."""
    builder: Builder | None = None
    try:
        began = time.monotonic()
        builder = find()
        print(f"building with {builder.name} (prepared in {time.monotonic() - began:.0f} s)", flush=True)
        for target in builder.targets:
            began = time.monotonic()
            builder.build(target)
            print(f"{target}: built in {time.monotonic() - began:.0f} s", flush=True)
        for target in ("gateway", "cpu"):
            print(f"{NAME}:{target}: {builder.size(target) / 1e6:.0f} MB", flush=True)
        try_it(builder)
    except (Missing, Failed, subprocess.SubprocessError) as error:
        print(f"make image: {error}", file=sys.stderr)
        return 1
    finally:
        if builder is not None and "--keep" not in sys.argv:
            builder.close()
    print("the images do what they should")
    return 0


if __name__ == "__main__":
    sys.exit(main())
