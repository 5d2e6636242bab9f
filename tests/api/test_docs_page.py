"""The page at `/docs`: complete in itself, whatever the network."""

import re
from pathlib import Path

import pytest

from gateway.api.swagger import TYPES
from tests.serving import serving

CONFIG = 'backends: {a: {engine: openai, url: "http://127.0.0.1:9", models: [m]}}'


async def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with serving(tmp_path, CONFIG) as served:
        page = await served.get("/docs")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        named = re.findall(r"(?:src|href)=\"([^\"]+)\"|url: '([^']+)'", page.body.decode())
        places = [link or url for link, url in named]
        assert len(places) == 4
        assert not re.search(rb"https?:|//", re.sub(rb"<!--.*?-->|window\.location[^\n]*", b"", page.body))
        for place in places:
            assert (await served.get(f"/{place}")).status == 200


@pytest.mark.parametrize(("name", "kind"), TYPES.items())
async def test_its_files_are_there_and_may_be_kept(tmp_path: Path, name: str, kind: str) -> None:
    async with serving(tmp_path, CONFIG) as served:
        answer = await served.get(f"/docs/{name}")
        assert answer.status == 200 and answer.whole
        assert answer.headers["content-type"].startswith(kind)
        assert len(answer.body) > 500
        assert "max-age" in answer.headers["cache-control"]


@pytest.mark.parametrize("name", ["__init__.py", "..%2Fmain.py", "%2e%2e"])
async def test_nothing_else_of_the_package_is_served(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path, CONFIG) as served:
        assert (await served.get(f"/docs/{name}")).status == 404
