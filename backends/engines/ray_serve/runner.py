"""A program that deploys applications of Ray Serve on a Ray instance of their own, at a given address.

`serve run` takes its address only from a config file. This program writes one, or a copy of the given one, with the
address in it, and continues as `serve run`.

Rules:
- It is independent: it imports the standard library, Ray and Ray's dependencies, and nothing of this distribution.
- SIGTERM stops it as Ctrl-C does: first the applications, then Ray.
- `serve run` goes on for ever when Ray has given up on its applications. This ends then, if none of them runs. What Ray
  says of applications is what `serve.status` tells: `DEPLOY_FAILED`, at which Ray's own client gives up waiting, too
  (Ray 2.60, `serve/_private/client.py`).
- A failure is reported in one line that begins with `ray_serve_runner: `; the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import ray
import yaml
from ray import serve
from ray.serve.scripts import cli

LOOK = 1.0
"""Seconds between two looks at how the applications are."""


def fail(words: str) -> NoReturn:
    """Print the reason in one line and exit."""
    sys.stderr.write(f"ray_serve_runner: {words}\n")
    sys.exit(1)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="ray_serve_runner", allow_abbrev=False)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--app", help="module:name")
    source.add_argument("--config", type=Path)
    parser.add_argument("--args", type=json.loads, default={}, help="JSON")
    parser.add_argument("--app-dir", default=".")
    return parser.parse_args()


def config(options: argparse.Namespace) -> dict[str, Any]:
    """Return the config for Ray Serve with our address: the given one, or one for the application."""
    if options.config is None:
        app = {"name": "app", "route_prefix": "/", "import_path": options.app, "args": options.args}
        found: Any = {"applications": [app]}
    else:
        try:
            found = yaml.safe_load(options.config.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            fail(f"cannot read the config {options.config}: {' '.join(str(error).split())}")
        if not isinstance(found, dict):
            fail(f"the config {options.config} is no map")
    http = {**(found.get("http_options") or {}), "host": options.host, "port": options.port}
    return {**found, "proxy_location": "HeadOnly", "http_options": http}


class Watch(threading.Thread):
    """Stops this program, as Ctrl-C does, when Ray has given up on all applications before any of them ran."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.reason: str | None = None
        """Why it was stopped; None while it was not."""

    def run(self) -> None:
        """Look until an application runs."""
        while True:
            time.sleep(LOOK)
            if not ray.is_initialized():
                continue
            try:
                found = serve.status().applications
            except Exception:  # noqa: BLE001, S112 (whatever it is, Ray is still beginning, or ends)
                continue
            if any(each.status == "RUNNING" for each in found.values()):
                return
            self.reason = given_up(found)
            if self.reason is not None:
                for each in found.values():
                    sys.stderr.write(f"{told(each)}\n")
                os.kill(os.getpid(), signal.SIGINT)
                return


def told(application: Any) -> str:
    """Return what Ray says of an application that it has given up on: of its deployments, where these have failed."""
    parts = [each.message for each in application.deployments.values() if each.status == "DEPLOY_FAILED"]
    return "\n".join(filter(None, map(str.strip, parts))) or application.message.strip()


def given_up(applications: Mapping[str, Any]) -> str | None:
    """Return why none of these applications can be deployed; None where one may still be."""
    if not applications or any(each.status != "DEPLOY_FAILED" for each in applications.values()):
        return None
    reasons = []
    for name, each in applications.items():
        # Ray's message ends as a traceback does: with the error.
        last = told(each).rpartition("\n")[2].strip()
        reasons.append(f"'{name}' cannot be deployed: {last or 'Ray gives no reason'}")
    return "; ".join(reasons)


def main() -> None:
    """Deploy the applications and run until stopped."""
    options = arguments()
    os.environ.pop("RAY_ADDRESS", None)
    # Ray looks for the application in processes of its own, which `--app-dir` does not reach.
    places = [options.app_dir, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)  # which whoever started this may have had ignored
    with tempfile.TemporaryDirectory(prefix="ray-serve-") as folder:
        file = Path(folder) / "serve.yaml"
        file.write_text(json.dumps(config(options)))  # JSON is YAML
        watch = Watch()
        watch.start()
        try:
            cli(["run", "--app-dir", options.app_dir, str(file)])
        except SystemExit:
            if watch.reason is not None:
                ray.shutdown()  # so that what it prints comes before the reason
                fail(watch.reason)
            raise


if __name__ == "__main__":
    main()
