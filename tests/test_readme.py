"""What a newcomer pastes works as it stands: the README's snippets and those the gateway prints when it is ready.

Rules:
- Snippets are run as they were found. Only the README's address is replaced by that of the gateway under test.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gateway.auth import Keys
from gateway.config import file as config
from gateway.console.client import KEY_ENV
from tests.clients.process import PATIENCE, ROOT, Running, running

pytestmark = pytest.mark.slow

ADDRESS = "127.0.0.1:8080"
KEY = "a-key-for-the-banner-0123456789abcdef"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("readme")) as started:
        started.wait_ready()
        yield started


@pytest.fixture(scope="module")
def keyed(gateway: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a gateway that asks for a key, with the other gateway as its engine."""
    config = f"""
server: {{listen: "127.0.0.1:0"}}
backends: {{behind: {{engine: openai, url: "{gateway.url}"}}}}
keys: {{me: {{value: "${{env.KEY}}"}}}}
"""
    with running(tmp_path_factory.mktemp("keyed"), config, {"KEY": KEY}) as started:
        started.wait_ready()
        yield started


def snippet(language: str, containing: str) -> str:
    """Return the one block of the README in this language with these words, for the gateway's own address."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    [found] = [block for block in blocks if containing in block]
    assert ADDRESS in found
    return str(found)


def banner(gateway: Running) -> tuple[str, str]:
    """Return the curl command and the Python program the gateway printed."""
    gateway.out.wait_for(r"^    print\(")
    [command] = re.findall(r"^curl (?:.*\\\n)*.*$", gateway.out.text, re.MULTILINE)
    [program] = re.findall(r"^(?:import os; )?from openai .*?^    print\(.*?$", gateway.out.text, re.M | re.S)
    return str(command), str(program)


def run(command: list[str], environ: Mapping[str, str] | None = None) -> str:
    """Return what a command prints; it must succeed and complain about nothing."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=os.environ | (environ or {}),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_curl(command: str, environ: Mapping[str, str] | None = None) -> str:
    """Return what the model says in answer to a curl command."""
    answer = json.loads(run(["sh", "-c", command], environ))
    assert answer["choices"][0]["finish_reason"] == "stop"
    return str(answer["choices"][0]["message"]["content"])


def run_python(program: str, environ: Mapping[str, str] | None = None) -> str:
    """Return what the model says to a Python program."""
    return run([sys.executable, "-W", "error", "-c", program], environ)


def is_a_sentence(said: str) -> bool:
    """Return whether the model said something that fits: the snippets leave the temperature alone, so it varies."""
    return len(said.split()) >= 3


def test_curl_of_the_readme(gateway: Running) -> None:
    command = snippet("sh", "curl ").replace(ADDRESS, gateway.address)
    assert is_a_sentence(run_curl(command))


def test_python_of_the_readme(gateway: Running) -> None:
    program = snippet("python", "from openai").replace(ADDRESS, gateway.address)
    assert is_a_sentence(run_python(program))


def test_banner(gateway: Running) -> None:
    command, program = banner(gateway)
    assert is_a_sentence(run_curl(command))
    assert is_a_sentence(run_python(program))
    assert gateway.out.wait_for("^models")[0]
    for page in re.findall(r"http://\S+/(?:docs|metrics)", gateway.out.text):
        assert gateway.get(page.removeprefix(gateway.url)).status == 200


def test_banner_where_a_key_is_needed(keyed: Running) -> None:
    command, program = banner(keyed)
    assert KEY not in keyed.out.text + keyed.log.text
    assert is_a_sentence(run_curl(command, {"GATEWAY_KEY": KEY}))
    assert is_a_sentence(run_python(program, {"GATEWAY_KEY": KEY}))
    assert json.loads(run(["sh", "-c", command]))["error"]["code"] == "missing_api_key"


def test_the_address_of_the_readme_is_where_make_run_listens() -> None:
    done = subprocess.run(["make", "-n", "run"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "gateway serve configs/demo.yaml" in done.stdout
    assert str(config.load(ROOT / "configs" / "demo.yaml").server.listen) == ADDRESS


def test_the_key_of_the_readme_may_see_the_backends(tmp_path: Path) -> None:
    """`gateway backends`, which the README names beside its config, sends the key of the same variable."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```yaml check env=GATEWAY_KEY=\S+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    file = tmp_path / "gateway.yaml"
    file.write_text(block)
    keys = Keys(config.load(file, {KEY_ENV: KEY}))
    assert keys.operator({b"authorization": f"Bearer {KEY}".encode()}).admin
