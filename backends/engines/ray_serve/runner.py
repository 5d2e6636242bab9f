"""A program that deploys applications of Ray Serve on a Ray instance of their own, at a given address.

`serve run` takes its address only from a config file. This program writes one, or a copy of the given one, with the
address in it, and continues as `serve run`.

Rules:
- It is independent: it imports the standard library, Ray and Ray's dependencies, and nothing of this distribution.
- SIGTERM stops it as Ctrl-C does: first the applications, then Ray.
- A failure is reported in one line that begins with `ray_serve_runner: `; the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import yaml
from ray.serve.scripts import cli


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
    with tempfile.TemporaryDirectory(prefix="ray-serve-") as folder:
        file = Path(folder) / "serve.yaml"
        file.write_text(json.dumps(config(options)))  # JSON is YAML
        cli(["run", "--app-dir", options.app_dir, str(file)])


if __name__ == "__main__":
    main()
