"""A program that deploys applications of Ray Serve on a Ray of their own, at the address it is given.

`serve run` takes an address from a config file only. This writes one, or the given one anew with that address, and goes
on as `serve run` with it.

Rules:
- It stands alone: standard library, Ray and what Ray brings, nothing of this distribution.
- SIGTERM ends it as Ctrl-C does: applications first, then Ray.
- What makes it fail is told in one line that begins with `ray_serve_runner: `, exit status 1.
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
    """Say why in one line, and end."""
    sys.stderr.write(f"ray_serve_runner: {words}\n")
    sys.exit(1)


def arguments() -> argparse.Namespace:
    """The command line."""
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
    """The config of Ray Serve: as it is given, or one for the application; at our address."""
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
    """Deploy and stay."""
    options = arguments()
    os.environ.pop("RAY_ADDRESS", None)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="ray-serve-") as folder:
        file = Path(folder) / "serve.yaml"
        file.write_text(json.dumps(config(options)))  # JSON is YAML
        cli(["run", "--app-dir", options.app_dir, str(file)])


if __name__ == "__main__":
    main()
