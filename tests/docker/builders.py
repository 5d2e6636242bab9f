"""What builds the images and runs them: Docker or Podman where one is there, else Buildah on a Debian of its own.

Rules:
- Everything that a container gets is what docker/compose.yaml gives: a read-only root, an empty /tmp, no capabilities,
  no way to new privileges. Its network is its own, so that no port of this machine is taken.
- Buildah needs no daemon: `debootstrap` makes the two base images out of Debian's packages, with Debian's Python, and
  processes are isolated by namespaces and `chroot`. That takes root on Debian or Ubuntu.
- Nothing is left behind but the images that were asked for; everything of Buildah lies below `.image/`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".image"
NAME = "llm-serving-gateway"
PACKAGES = ("buildah", "debootstrap")


class Missing(Exception):
    """Something that a build needs is not there; the message says what, in one line."""


class Container(Protocol):
    """A started container."""

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in it, as its user, with pipes for stdout and stderr."""

    def alive(self) -> bool:
        """Return whether its first process runs."""

    def terminate(self) -> None:
        """Send SIGTERM to its first process."""

    def wait(self, seconds: float) -> int:
        """Wait until its first process has ended. Return the exit status."""

    def log(self) -> str:
        """Return what it has printed so far."""

    def remove(self) -> None:
        """End it, whatever it does, and clear it away."""


class Builder(Protocol):
    """What makes images and containers."""

    name: str
    targets: tuple[str, ...]
    """What it builds of docker/Dockerfile."""

    def build(self, target: str) -> None:
        """Build a target of docker/Dockerfile."""

    def size(self, target: str) -> int:
        """Return the bytes of an image, its base included, if need be of one that another holds."""

    def health_check(self, target: str) -> list[str]:
        """Return the command of its HEALTHCHECK."""

    def run(self, target: str, env: Mapping[str, str]) -> Container:
        """Start a container of an image, with its own command."""

    def close(self) -> None:
        """Clear away what was needed for building."""


def call(*words: str | Path, **options: object) -> str:
    """Run a program. Return its stdout. Its stderr goes to this program's."""
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    return run([str(word) for word in words], check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def secrets(folder: Path) -> list[str]:
    """Return the options of a build that name this machine's package index and authorities, where it has its own."""
    options = []
    if given := os.environ.get("PIP_CONFIG_FILE"):
        options.append(f"--secret=id=pip,src={given}")
    elif urls := {
        name: os.environ[key]
        for name in ("index-url", "extra-index-url", "trusted-host")
        if (key := "PIP_" + name.upper().replace("-", "_")) in os.environ
    }:
        file = folder / "pip.conf"
        file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in urls.items()))
        file.chmod(0o600)
        options.append(f"--secret=id=pip,src={file}")
    if authorities := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
        options.append(f"--secret=id=certificates,src={authorities}")
    return options


class Client:
    """Docker or Podman: both have the same commands."""

    def __init__(self, program: str) -> None:
        self.name = program
        self.targets: tuple[str, ...] = ("gateway", "cpu")

    def build(self, target: str) -> None:
        HOME.mkdir(exist_ok=True)
        form = ["--format", "docker"] if self.name == "podman" else []  # its own has no health checks
        words = [
            "build",
            *form,
            "--file",
            "docker/Dockerfile",
            "--target",
            target,
            "--tag",
            f"{NAME}:{target}",
        ]
        call(self.name, *words, *secrets(HOME), ".", cwd=ROOT)

    def size(self, target: str) -> int:
        return int(call(self.name, "image", "inspect", "--format", "{{.Size}}", f"{NAME}:{target}"))

    def health_check(self, target: str) -> list[str]:
        test = json.loads(call(self.name, "image", "inspect", f"{NAME}:{target}"))[0]
        words: list[str] = (test["Config"].get("Healthcheck") or test.get("Healthcheck"))["Test"]
        return words[1:]

    def run(self, target: str, env: Mapping[str, str]) -> Container:
        words = [
            "run",
            "--detach",
            "--read-only",
            "--tmpfs",
            "/tmp",
            "--cap-drop",
            "ALL",
            "--network",
            "none",
        ]
        words += ["--security-opt", "no-new-privileges"]
        words += [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
        return ClientContainer(self.name, call(self.name, *words, f"{NAME}:{target}").strip())

    def close(self) -> None:
        shutil.rmtree(HOME, ignore_errors=True)


class ClientContainer:
    """A container of Docker or Podman."""

    def __init__(self, program: str, key: str) -> None:
        self._program, self._key = program, key

    def start(self, *command: str) -> subprocess.Popen[str]:
        words = [self._program, "exec", self._key, *command]
        return subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def alive(self) -> bool:
        return call(self._program, "inspect", "--format", "{{.State.Running}}", self._key).strip() == "true"

    def terminate(self) -> None:
        call(self._program, "kill", "--signal", "TERM", self._key)

    def wait(self, seconds: float) -> int:
        return int(call(self._program, "wait", self._key, timeout=seconds))

    def log(self) -> str:
        return call(self._program, "logs", self._key, stderr=subprocess.STDOUT)

    def remove(self) -> None:
        call(self._program, "rm", "--force", self._key)


class Buildah:
    """Buildah, with base images made of Debian's packages."""

    name = "buildah"
    targets: tuple[str, ...] = (
        "cpu",
    )  # holds all of the other one; nothing is kept between two builds, and one takes minutes
    SLIM, FULL = "localhost/debian-python:slim", "localhost/debian-python:full"

    def __init__(self) -> None:
        self._own = ("--storage-driver", "vfs", "--root", str(HOME / "store"), "--runroot", str(HOME / "run"))
        self._mounted: dict[str, tuple[str, Path]] = {}

    def prepare(self) -> None:
        """Install what is needed, and make the base images. Raises Missing."""
        if any(shutil.which(name) is None for name in PACKAGES):
            if os.geteuid() != 0 or shutil.which("apt-get") is None:
                raise Missing(f"without Docker or Podman this needs root, and {' and '.join(PACKAGES)}")
            quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "stdin": subprocess.DEVNULL}
            call("apt-get", "update", "-qq", **quiet)
            call("apt-get", "install", "-qq", "--yes", "--no-install-recommends", *PACKAGES, **quiet)
        elif os.geteuid() != 0:
            raise Missing("without Docker or Podman this needs root")
        HOME.mkdir(exist_ok=True)
        if self.SLIM not in self._do("images", "--format", "{{.Name}}:{{.Tag}}"):
            self._make_bases()

    def _make_bases(self) -> None:
        system = HOME / "debian"
        shutil.rmtree(system, ignore_errors=True)
        # The keyring is that of the distribution that debootstrap comes from; the mirror is debootstrap's own.
        mirror = [word for word in (os.environ.get("DEBIAN_MIRROR"),) if word]
        words = ("debootstrap", "--variant=minbase", "--include=python3,ca-certificates", "bookworm", system)
        with open(HOME / "debootstrap.log", "w") as log:
            subprocess.run([*words, *mirror], check=True, stdout=log, stderr=log)
        for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(system / waste)
        (system / "var/cache/apt/archives/partial").mkdir(parents=True)
        (system / "var/lib/apt/lists/partial").mkdir(parents=True)
        container = self._do("from", "scratch").strip()
        root = self._do("mount", container).strip()
        call("cp", "--archive", f"{system}/.", root)
        shutil.rmtree(system)
        self._do("umount", container)
        self._do("commit", "--quiet", container, self.SLIM)
        install = (
            "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends"
            " python3-venv python3-dev gcc libc6-dev >/dev/null && apt-get clean && rm -rf /var/lib/apt/lists/*"
        )
        self._do("run", "--isolation", "chroot", container, "--", "sh", "-c", install)
        self._do("commit", "--rm", "--quiet", container, self.FULL)

    def _do(self, *words: str) -> str:
        return call("buildah", *self._own, *words, stdin=subprocess.DEVNULL, cwd=ROOT)

    def build(self, target: str) -> None:
        bases = ["--build-arg", f"BUILD_BASE={self.FULL}", "--build-arg", f"BASE={self.SLIM}"]
        # Layers would be whole copies here.
        words = [
            "build",
            "--isolation",
            "chroot",
            "--format",
            "docker",
            "--layers=false",
            "--pull-never",
            *bases,
        ]
        words += ["--file", "docker/Dockerfile", "--target", target, "--tag", f"localhost/{NAME}:{target}"]
        with open(HOME / f"build-{target}.log", "w") as log:
            subprocess.run(
                ["buildah", *self._own, *words, *secrets(HOME), "."],
                check=True,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _root(self, target: str) -> Path:
        """Return where the files of an image lie."""
        if target not in self._mounted:
            container = self._do("from", "--pull-never", f"localhost/{NAME}:{target}").strip()
            self._mounted[target] = container, Path(self._do("mount", container).strip())
        return self._mounted[target][1]

    def _config(self, target: str) -> dict[str, object]:
        image = json.loads(self._do("inspect", "--type", "image", f"localhost/{NAME}:{target}"))
        config: dict[str, object] = image["Docker"]["config"]
        return config

    def size(self, target: str) -> int:
        root = self._root("cpu")
        parts = (root / "opt/llamacpp", root / "opt/models", *(root / "usr/local/lib").glob("lib*.so*"))
        whole, *more = (int(call("du", "--summarize", "--bytes", path).split()[0]) for path in (root, *parts))
        return whole if target == "cpu" else whole - sum(more)

    def health_check(self, target: str) -> list[str]:
        check = self._config(target)["Healthcheck"]
        assert isinstance(check, dict)
        words: list[str] = check["Test"]
        return words[1:]

    def run(self, target: str, env: Mapping[str, str]) -> Container:
        config = self._config(target)
        given = dict(word.split("=", 1) for word in _words(config, "Env"))
        return Namespaces(
            self._root(target),
            [*_words(config, "Entrypoint"), *_words(config, "Cmd")],
            str(config["User"]),
            str(config["WorkingDir"]),
            {**given, **env},
            HOME / "container.log",
        )

    def close(self) -> None:
        for container, _ in self._mounted.values():
            self._do("umount", container)
            self._do("rm", container)
        shutil.rmtree(HOME, ignore_errors=True)


def _words(config: Mapping[str, object], name: str) -> list[str]:
    words = config[name]
    assert isinstance(words, list)
    return words


INSIDE = """
ip link set lo up &&
mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" &&
mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/tmp" && mount --rbind /dev "$0/dev" &&
root=$0 user=$1 folder=$2 && shift 2 &&
exec setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid --inh-caps=-all \
    chroot --userspec="$user" --groups= "$root" env -i --chdir="$folder" "$@"
"""
"""The shell's part of a container: `sh -c INSIDE ROOT USER FOLDER NAME=VALUE... COMMAND...`, in new namespaces."""


class Namespaces:
    """A container by hand: namespaces of its own, and the image's files as a read-only root."""

    def __init__(
        self, root: Path, command: Sequence[str], user: str, folder: str, env: Mapping[str, str], log: Path
    ) -> None:
        self._root, self._user, self._folder, self._log = root, user, folder, log
        self._env = [f"{name}={value}" for name, value in env.items()]
        spaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        inside = ["sh", "-c", INSIDE, str(root), user, folder, *self._env, *command]
        with open(log, "w") as file:
            self._outer = subprocess.Popen(
                [*spaces, *inside], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        self._first = self._child()

    def _child(self) -> int:
        """Return the process that is the first one in the namespaces."""
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._outer.poll() is None:
            if found := children.read_text().split():
                return int(found[0])
            time.sleep(0.01)
        raise Missing(f"no container could be started: {self.log()}")

    def start(self, *command: str) -> subprocess.Popen[str]:
        enter = ["nsenter", f"--target={self._first}", "--mount", "--pid", "--net", "--ipc", "--uts"]
        user = [
            "setpriv",
            "--no-new-privs",
            "chroot",
            f"--userspec={self._user}",
            "--groups=",
            str(self._root),
        ]
        words = [*enter, *user, "env", "-i", f"--chdir={self._folder}", *self._env, *command]
        return subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def alive(self) -> bool:
        return self._outer.poll() is None

    def terminate(self) -> None:
        os.kill(self._first, 15)

    def wait(self, seconds: float) -> int:
        return self._outer.wait(seconds)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def remove(self) -> None:
        with suppress(ProcessLookupError):
            if self._outer.poll() is None:
                os.kill(self._first, 9)
        self._outer.wait(10)


def find() -> Builder:
    """Return what this machine can build with. Raises Missing."""
    for program in ("docker", "podman"):
        if shutil.which(program):
            answer = subprocess.run([program, "info"], capture_output=True, check=False)
            if answer.returncode == 0:
                return Client(program)
    builder = Buildah()
    builder.prepare()
    return builder
