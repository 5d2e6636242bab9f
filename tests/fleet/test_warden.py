"""The warden with real processes: whatever happens to the gateway, nothing of an engine stays behind.

Rules:
- Every process of a test inherits one end of a pipe. End of file at the other end means that all of them are gone, so
  no test waits by the clock.
- Engines are a few lines of Python that write a byte to that pipe when they have come to the point of interest.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.fleet import warden

WARDEN = [sys.executable, "-I", "-S", str(Path(warden.__file__))]
LINUX = sys.platform == "linux"

SAY = "import os, signal, sys, time\nsay = lambda: os.write({fd}, b'.')\n"
WAIT = "say()\nsignal.pause()\n"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT
# A daemon as old programs make it: forked twice, in a session of its own, deaf to SIGTERM.
DAEMON = f"""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        {WAIT.replace(chr(10), "; ").rstrip("; ")}
    os._exit(0)
os.wait()
"""
# A gateway that starts a warden and waits to be killed.
GATEWAY = """
import os, signal, subprocess, sys
warden = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, pass_fds=[int(sys.argv[1])])
signal.pause()
"""


class Life:
    """A pipe that every process of a test holds."""

    def __init__(self) -> None:
        self._read, self.fd = os.pipe()

    def close_ours(self) -> None:
        os.close(self.fd)
        self.fd = -1

    def signs(self, count: int) -> None:
        """Wait until so many processes have written their byte."""
        got = b""
        while len(got) < count:
            data = os.read(self._read, count - len(got))
            assert data, "all processes ended before they came to the point"
            got += data

    def over(self) -> None:
        """Wait until no process of the test is left."""
        while os.read(self._read, 100):
            pass

    def close(self) -> None:
        os.close(self._read)
        if self.fd >= 0:
            self.close_ours()


@pytest.fixture
def life() -> Iterator[Life]:
    pipe = Life()
    yield pipe
    pipe.close()


def command(life: Life, code: str, grace: float = 30) -> list[str]:
    engine = [sys.executable, "-I", "-S", "-c", SAY.format(fd=life.fd) + code]
    return [*WARDEN, "--grace", str(grace), "--", *engine]


def start(life: Life, code: str, grace: float = 30) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command(life, code, grace), stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[life.fd]
    )
    life.close_ours()
    return process


def let_go(process: subprocess.Popen[bytes]) -> int:
    """End an engine as the gateway does. Return the warden's exit status."""
    assert process.stdin is not None and process.stderr is not None
    process.stdin.close()
    process.stderr.close()
    return process.wait()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 128 + signal.SIGSEGV),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_the_exit_status_passes(life: Life, code: str, status: int) -> None:
    process = start(life, code)
    life.over()
    assert process.wait() == status
    let_go(process)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    there, not_a_program = tmp_path / "there", tmp_path / "not-a-program"
    not_a_program.write_text("")
    for path, status, words in (
        (there, 127, "No such file or directory"),
        (not_a_program, 126, "Permission denied"),
    ):
        done = subprocess.run(
            [*WARDEN, "--grace", "1", "--", str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr.decode()) == (status, f"cannot run {path}: {words}\n")


def test_wrong_arguments() -> None:
    done = subprocess.run([*WARDEN, "--", "true"], capture_output=True, check=False)
    assert done.returncode == 2 and b"usage" in done.stderr


def test_end_of_file_ends_the_engine(life: Life) -> None:
    process = start(life, WAIT)
    life.signs(1)
    assert let_go(process) == 128 + signal.SIGTERM
    life.over()


def test_an_engine_may_end_in_its_own_way(life: Life) -> None:
    process = start(life, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n" + WAIT)
    life.signs(1)
    assert let_go(process) == 3
    life.over()


def test_sigterm_ends_the_engine(life: Life) -> None:
    process = start(life, WAIT)
    life.signs(1)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    life.over()
    let_go(process)


def test_an_engine_deaf_to_sigterm_is_killed(life: Life) -> None:
    process = start(life, STUBBORN, grace=0.1)
    life.signs(1)
    assert let_go(process) == 128 + signal.SIGKILL
    life.over()


def test_what_the_engine_forked_ends_with_it(life: Life) -> None:
    process = start(
        life, f"if os.fork() == 0:\n    {STUBBORN.replace(chr(10), '; ').rstrip('; ')}\n{WAIT}", grace=0.1
    )
    life.signs(2)
    assert let_go(process) == 128 + signal.SIGTERM
    life.over()


@pytest.mark.skipif(not LINUX, reason="only Linux tells who descends from whom after a double fork")
def test_a_daemon_does_not_escape(life: Life) -> None:
    process = start(life, DAEMON + WAIT, grace=0.1)
    life.signs(2)
    assert let_go(process) == 128 + signal.SIGTERM
    life.over()


@pytest.mark.skipif(not LINUX, reason="only Linux tells who descends from whom after a double fork")
def test_an_engine_that_ends_leaves_no_daemon(life: Life) -> None:
    process = start(life, DAEMON + "sys.exit(5)", grace=0.1)
    life.signs(1)
    life.over()
    assert process.wait() == 5
    let_go(process)


def test_ctrl_c_does_nothing_here(life: Life) -> None:
    heard = "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5))\n"
    is_default = "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            command(life, heard + is_default + WAIT), stdin=theirs.fileno(), pass_fds=[life.fd]
        )
        life.close_ours()
        engine = int(ours.recv(32))
        life.signs(1)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            process.send_signal(number)
        os.kill(engine, signal.SIGUSR1)
        life.over()
        # It ended as it was told to, not by a SIGTERM from the warden.
        assert process.wait() == 5


@pytest.mark.parametrize("code", [WAIT, DAEMON + WAIT, STUBBORN])
def test_a_killed_gateway_leaves_nothing(life: Life, code: str) -> None:
    gateway = subprocess.Popen(
        [sys.executable, "-I", "-c", GATEWAY, str(life.fd), *command(life, code, grace=0.1)],
        pass_fds=[life.fd],
    )
    life.close_ours()
    life.signs(2 if code.startswith(DAEMON) else 1)
    gateway.kill()
    assert gateway.wait() == -signal.SIGKILL
    life.over()


@pytest.mark.skipif(not LINUX, reason="only Linux ends a process with its parent")
def test_a_killed_warden_takes_its_engine_along(life: Life) -> None:
    process = start(life, STUBBORN)
    life.signs(1)
    process.kill()
    life.over()
    let_go(process)


def test_the_family_tree() -> None:
    table = [warden.Entry(2, 1, 2), warden.Entry(5, 3, 9), warden.Entry(3, 2, 2), warden.Entry(9, 8, 9)]
    assert [entry.pid for entry in warden.descendants(1, table)] == [2, 3, 5]
    assert warden.descendants(9, table) == []


def stopped_by(life: Life, code: str, stop: str, grace: float = 30, *more: str) -> subprocess.Popen[bytes]:
    """Start an engine that has a stop command, both of them a few lines of Python."""
    python = [sys.executable, "-I", "-S", "-c"]
    say = SAY.format(fd=life.fd)
    words = [*python, say + stop, *python, say + code]
    process = subprocess.Popen(
        [*WARDEN, "--grace", str(grace), *more, "--stop", "5", "--", *words],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[life.fd],
    )
    life.close_ours()
    return process


# A server behind no process tree of ours, as a container is: only its stop command ends it.
HALT = (
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(9))\n"
    + WAIT
)
END_IT = """
table = [entry.split() for entry in os.popen("ps -eo pid=,ppid=").read().splitlines()]
for pid, parent in table:
    if int(parent) == os.getppid() and int(pid) != os.getpid():
        os.kill(int(pid), signal.SIGUSR1)
"""


@pytest.mark.skipif(not LINUX, reason="the test looks into the table of processes")
def test_a_stop_command_ends_the_engine_in_its_own_way(life: Life) -> None:
    process = stopped_by(life, HALT, END_IT)
    life.signs(1)
    assert let_go(process) == 9
    life.over()


@pytest.mark.skipif(not LINUX, reason="the test looks into the table of processes")
def test_a_killed_gateway_has_the_stop_command_run(life: Life) -> None:
    python = [sys.executable, "-I", "-S", "-c"]
    say = SAY.format(fd=life.fd)
    words = [*python, say + END_IT + "say()", *python, say + HALT]
    warden_words = [*WARDEN, "--grace", "30", "--stop", "5", "--", *words]
    gateway = subprocess.Popen(
        [sys.executable, "-I", "-c", GATEWAY, str(life.fd), *warden_words], pass_fds=[life.fd]
    )
    life.close_ours()
    life.signs(1)
    gateway.kill()
    gateway.wait()
    life.signs(1)
    life.over()


@pytest.mark.parametrize("stop", ["sys.exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_sigterm_follows_a_stop_command_that_fails(life: Life, stop: str) -> None:
    process = stopped_by(life, WAIT, stop)
    life.signs(1)
    assert let_go(process) == 128 + signal.SIGTERM
    life.over()


@pytest.mark.parametrize("stop", ["say()", "say()\n" + STUBBORN, "say()\n" + DAEMON])
def test_a_stop_command_that_does_nothing_is_not_waited_for_longer_than_the_grace(
    life: Life, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = stopped_by(life, STUBBORN, stop, 0.3)
    life.signs(1)
    assert let_go(process) == 128 + signal.SIGKILL
    life.over()


def test_a_stop_command_that_is_not_there(life: Life) -> None:
    engine = [sys.executable, "-I", "-S", "-c", SAY.format(fd=life.fd) + WAIT]
    process = subprocess.Popen(
        [*WARDEN, "--grace", "30", "--stop", "1", "--", "/no/such/program", *engine],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[life.fd],
    )
    life.close_ours()
    life.signs(1)
    assert process.stdin is not None and process.stderr is not None
    process.stdin.close()
    assert (
        process.stderr.read() == b"cannot run the stop command /no/such/program: No such file or directory\n"
    )
    assert process.wait() == 128 + signal.SIGTERM
    life.over()
    process.stderr.close()


def test_the_stop_command_is_run_for_what_an_engine_left_elsewhere(life: Life) -> None:
    process = stopped_by(
        life, "sys.exit(5)", "say()\nprint('no such container', file=sys.stderr)\nsys.exit(1)"
    )
    life.signs(1)
    life.over()
    assert process.wait() == 5
    assert process.stderr is not None and process.stderr.read() == b""
    let_go(process)


def test_an_engine_works_in_its_folder_which_is_removed(life: Life, tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("")
    (folder / "link").symlink_to(outside)
    code = "os.makedirs('a/b')\nopen('a/b/c', 'w').close()\nsay()\n" + WAIT
    options = ["--folder", str(folder), "--remove"]
    process = stopped_by(life, code, "assert os.path.exists('a/b/c')\nsay()\nsys.exit(1)", 30, *options)
    life.signs(2)
    assert (folder / "a" / "b" / "c").exists()
    assert let_go(process) == 128 + signal.SIGTERM
    life.signs(1)
    life.over()
    assert not folder.exists() and (outside / "kept").exists()
