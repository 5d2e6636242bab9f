"""The files in docs/adding-an-engine.md work: they are extracted, installed and used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.process import running

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "adding-an-engine.md"
BLOCK = re.compile(r"^```\w+ title=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder with the page's files, and the package installed in its subfolder `site`."""
    folder = tmp_path_factory.mktemp("parrot")
    for name, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        file = folder / "parrot-engine" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "parrot-engine" / "parrot" / "__init__.py").touch()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
    where = ["--no-index", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([*pip, *where, str(folder / "parrot-engine")], check=True)
    return folder


def environment(workplace: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(workplace / "site")}


def test_its_tests_pass(workplace: Path) -> None:
    test = workplace / "parrot-engine" / "test_parrot.py"
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(test)]
    # What else is installed here does not matter to it, and takes seconds to import.
    env = os.environ | environment(workplace) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(run, env=env, cwd=workplace, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_it_serves(workplace: Path, tmp_path: Path) -> None:
    page = workplace / "parrot-engine"
    asked = re.search(r"-d '(.+)'", (page / "try").read_text())
    assert asked is not None
    question = json.loads(asked[1])
    config = (page / "parrot.yaml").read_text().replace(":8080", ":0")
    with running(tmp_path, config, environment(workplace)) as gateway:
        gateway.wait_ready()
        whole = json.loads(gateway.get("/v1/chat/completions", question).body)
        assert whole["choices"][0]["message"]["content"] == "pieces of eight"
        assert whole["model"] == "echo"
        assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
        streamed = gateway.get("/v1/chat/completions", {**question, "stream": True}).body
        assert streamed.count(b'"content":') == 3
        assert streamed.endswith(b"data: [DONE]\n\n")
