"""The real Prometheus on loopback, with the config and the rules of this repository, for tests and pictures.

Rules:
- The files are those of `docker/prometheus`; what is changed is where the gateway is, how often it is scraped, and the
  objectives, which a test cannot wait for.
- It is stopped with the test, and what it has stored is in the test's own folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.monitoring.promql import ROOT
from tests.tools.debian import needed

FILES: Final = ROOT / "docker" / "prometheus"
VARIABLES: Final = {"$__rate_interval": "10s"}
"""What Grafana puts in; every other variable stands for all values."""


class Refused(Exception):
    """Prometheus does not accept a question; the text is its reason."""


@dataclass
class Prometheus:
    """One that runs."""

    port: int

    async def ask(self, path: str, **fields: str | float) -> Any:
        """Return the data of an answer of its API. Raises Refused."""
        return await asyncio.to_thread(self._ask, path, fields)

    async def query(self, query: str) -> list[dict[str, Any]]:
        """Return the series that a query gives now."""
        data = await self.ask("/api/v1/query", query=filled_in(query))
        assert data["resultType"] == "vector", query
        return list(data["result"])

    async def course(self, query: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the series that a query gave between two times."""
        data = await self.ask("/api/v1/query_range", query=filled_in(query), start=begin, end=end, step=step)
        return list(data["result"])

    async def rules(self) -> list[dict[str, Any]]:
        """Return all rules, as it tells of them."""
        return [rule for group in (await self.ask("/api/v1/rules"))["groups"] for rule in group["rules"]]

    def _ask(self, path: str, fields: Mapping[str, str | float]) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(fields)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Refused(error.read().decode()) from error


def filled_in(query: str) -> str:
    """Return a panel's query as Grafana would ask it, with every variable at `All`."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return re.sub(r"\$\w+", ".*", query)


@contextlib.asynccontextmanager
async def prometheus(
    folder: Path, gateway: int, objectives: Mapping[str, float]
) -> AsyncIterator[Prometheus]:
    """Run Prometheus with its files in `folder`, scraping a gateway at a port of loopback once a second."""
    _configure(folder, gateway, objectives)
    port = _free_port()
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            needed("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--query.lookback-delta=15s",
            "--log.level=warn",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "GOMAXPROCS": "2"},
        )
    try:
        running = Prometheus(port)
        while True:
            with contextlib.suppress(OSError, Refused):
                await running.ask("/api/v1/status/buildinfo")
                break
            assert process.returncode is None, (folder / "log").read_text()
            await asyncio.sleep(0.1)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _configure(folder: Path, gateway: int, objectives: Mapping[str, float]) -> None:
    shutil.copytree(FILES / "rules", folder / "rules")
    config = yaml.safe_load((FILES / "prometheus.yml").read_text())
    config["global"] |= dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
    itself, engines = config["scrape_configs"]
    itself["static_configs"] = [{"targets": [f"127.0.0.1:{gateway}"]}]
    (listed,) = engines["http_sd_configs"]
    listed |= {"url": listed["url"].replace("gateway:8080", f"127.0.0.1:{gateway}"), "refresh_interval": "1s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    file = folder / "rules" / "objectives.yml"
    rules = yaml.safe_load(file.read_text())
    for rule in rules["groups"][0]["rules"]:
        if rule["record"] in objectives:
            rule["expr"] = f"vector({objectives[rule['record']]})"
    file.write_text(yaml.safe_dump(rules))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
