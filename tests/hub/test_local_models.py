"""`gateway models` alone lists what is on this machine; `rm` removes one model and nothing of another."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.console.local_models import _served_lines
from tests.hub.conftest import MODELS, Shell
from tests.hub.server import Store
from tests.serving import serving

pytestmark = pytest.mark.timeout(300)  # many commands, each a process of its own

GGUF = (MODELS / "demo.gguf").stat().st_size
NOWHERE = ("--url", "http://127.0.0.1:9")


def listed(shell: Shell, *words: str) -> dict[str, Any]:
    ran = shell.run("models", "--json", *NOWHERE, *words)
    assert ran.status == 0, ran.err
    told: dict[str, Any] = json.loads(ran.out)
    return told


def names(shell: Shell) -> list[str]:
    return [model["name"] for model in listed(shell)["local"]]


def disk(folder: Path) -> int:
    """Return the bytes of the files of models: libraries keep marks of their own beside these."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    marks = (".lock", ".tag", ".TAG")
    return sum(
        path.stat().st_size for path in files if path.suffix not in marks and path.parent.name != "refs"
    )


def config(folder: Path, shell: Shell) -> Path:
    file = folder / "gateway.yaml"
    env = f"env: {{HF_HOME: '{shell.home}'}}"
    file.write_text(
        f"""
backends:
  small: {{engine: llamacpp, launch: {{model: 'hf:org/demo-GGUF:Q4_K_M', {env}}}}}
  whole: {{engine: vllm, launch: {{model: org/demo, {env}}}}}
  own: {{engine: llamacpp, launch: {{model: '{MODELS / "demo.gguf"}'}}}}
"""
    )
    return file


def test_nothing_is_there_at_first(shell: Shell) -> None:
    ran = shell.run("models", *NOWHERE)
    assert (ran.status, ran.out) == (
        0,
        "no model of a hub is on this machine: `gateway pull` fetches one\n",
    )
    assert ran.err.startswith("gateway: no gateway tells what it serves: cannot reach the gateway at")
    assert listed(shell)["local"] == []


def test_each_is_listed_with_its_size_its_type_its_context_and_who_launches_it(
    shell: Shell, tmp_path: Path
) -> None:
    for name in ("hf:org/demo-GGUF:Q4_K_M", "hf:org/demo-GGUF:Q8_0", "org/demo", "ms:org/demo-GGUF:Q8_0"):
        assert shell.run("pull", name).status == 0
    told = listed(shell)
    assert told["served"] is None and "cannot reach" in told["served_error"]
    assert [model["used_by"] for model in told["local"]] == [None] * 4
    found = {
        model["name"]: model for model in listed(shell, "--config", str(config(tmp_path, shell)))["local"]
    }
    users = {name: model["used_by"] for name, model in found.items()}
    assert users == {
        "hf:org/demo": ["whole"],
        "hf:org/demo-GGUF:Q4_K_M": ["small"],
        "hf:org/demo-GGUF:Q8_0": [],
        "ms:org/demo-GGUF:Q8_0": [],
        str(MODELS / "demo.gguf"): ["own"],
    }
    small = found["hf:org/demo-GGUF:Q4_K_M"]
    assert small["bytes"] == GGUF
    assert (small["quantization"], small["problem"]) == (
        found[str(MODELS / "demo.gguf")]["quantization"],
        None,
    )
    assert small["context"] and small["context"] == found["hf:org/demo"]["context"]
    assert found["hf:org/demo-GGUF:Q8_0"]["bytes"] == GGUF + 1000
    page = shell.run("models", *NOWHERE, "--config", str(config(tmp_path, shell))).out.splitlines()
    assert page[0].split() == ["ON", "THIS", "MACHINE", "SIZE", "TYPE", "CONTEXT", "USED", "BY"]
    assert page[2].split()[0] == "hf:org/demo-GGUF:Q4_K_M" and page[2].split()[-1] == "small"


async def test_what_a_gateway_serves_is_listed_with_the_context_that_is_known(tmp_path: Path) -> None:
    text = """
backends: {a: {engine: vllm, url: "http://127.0.0.1:9", models: [m, n]}}
models: {m: {targets: {a: m}, aliases: [other], context: 4096}, n: {targets: {a: n}}}
"""
    async with serving(tmp_path, text) as served:
        told = (await served.get("/gateway/models")).json()
    assert [(model["name"], model["context"]) for model in told] == [("m", 4096), ("n", None)]
    lines = [line.split() for line in _served_lines(told)]
    assert lines == [
        ["SERVED", "ALIASES", "CONTEXT", "BACKENDS"],
        ["m", "other", "4096", "a"],
        ["n", "-", "-", "a"],
    ]


def test_one_file_goes_and_the_other_stays(shell: Shell) -> None:
    for name in ("hf:org/demo-GGUF:Q4_K_M", "hf:org/demo-GGUF:Q8_0", "org/demo"):
        assert shell.run("pull", name).status == 0
    before = disk(shell.home)
    ran = shell.run("models", "rm", "hf:org/demo-GGUF")
    assert ran.status == 1
    assert "is several models: hf:org/demo-GGUF:Q4_K_M, hf:org/demo-GGUF:Q8_0" in ran.err
    ran = shell.run("models", "rm", "hf:org/demo-GGUF:Q8_0")
    assert (ran.status, ran.err) == (0, "")
    assert f"hf:org/demo-GGUF:Q8_0 is removed: 4.9 MiB became free ({GGUF + 1000} bytes)" in ran.out
    assert before - disk(shell.home) == GGUF + 1000
    assert names(shell) == ["hf:org/demo", "hf:org/demo-GGUF:Q4_K_M"]
    for name in ("hf:org/demo-GGUF:Q4_K_M", "org/demo"):
        left = disk(shell.home)
        ran = shell.run("models", "rm", name)
        assert ran.status == 0, ran.err
        assert f"({left - disk(shell.home)} bytes)" in ran.out
    assert names(shell) == []
    assert not list((shell.home / "hub").glob("models--*"))
    ran = shell.run("models", "rm", "org/demo")
    assert (ran.status, ran.err) == (1, "gateway: hf:org/demo is not on this machine\n")


def test_a_blob_that_another_revision_means_stays(shell: Shell) -> None:
    path = Path(shell.run("pull", "hf:org/demo-GGUF:Q4_K_M").out.strip())
    assert shell.run("pull", "hf:org/demo-GGUF:Q8_0").status == 0
    older = path.parent.parent / ("f" * 40)
    older.mkdir()
    (older / "renamed-Q4_K_M.gguf").symlink_to(path.readlink())
    ran = shell.run("models", "rm", "hf:org/demo-GGUF:Q4_K_M")
    assert (ran.status, "(0 bytes)" in ran.out) == (0, True), ran.err
    assert not path.exists()
    assert (older / "renamed-Q4_K_M.gguf").stat().st_size == GGUF


def test_what_a_config_launches_stays_unless_it_is_forced(shell: Shell, tmp_path: Path) -> None:
    assert shell.run("pull", "hf:org/demo-GGUF:Q4_K_M").status == 0
    words = ("models", "rm", "hf:org/demo-GGUF:Q4_K_M", "--config", str(config(tmp_path, shell)))
    ran = shell.run(*words)
    assert (ran.status, ran.out) == (1, "")
    assert "hf:org/demo-GGUF:Q4_K_M is launched by small in" in ran.err and "--force" in ran.err
    assert names(shell) == ["hf:org/demo-GGUF:Q4_K_M"]
    assert shell.run(*words, "--force").status == 0
    assert names(shell) == []


def test_modelscopes_cache_is_cleared_alike(shell: Shell) -> None:
    for name in ("ms:org/demo-GGUF:Q4_K_M", "ms:org/demo-GGUF:Q8_0"):
        assert shell.run("pull", name).status == 0
    for name in ("ms:org/demo-GGUF:Q4_K_M", "ms:org/demo-GGUF"):
        left = disk(shell.home)
        ran = shell.run("models", "rm", name)
        assert ran.status == 0, ran.err
        assert f"({left - disk(shell.home)} bytes)" in ran.out
    assert names(shell) == []
    assert not (shell.home / "scope" / "models" / "org" / "demo-GGUF").exists()


def test_what_cannot_be_read_is_told_and_can_be_removed(shell: Shell, store: Store) -> None:
    store.repositories["org/bad-GGUF"] = {"bad-Q8_0.gguf": b"GGUF nonsense" * 100}
    assert shell.run("pull", "hf:org/bad-GGUF:Q8_0").status == 0
    (model,) = listed(shell)["local"]
    assert model["quantization"] is None and model["problem"]
    assert shell.run("models", "rm", "hf:org/bad-GGUF:Q8_0").status == 0
    assert names(shell) == []


def test_mistakes_are_one_line(shell: Shell) -> None:
    for words, said in (
        (("rm", "nonsense"), "is no model of a hub"),
        (("rm", "ollama:qwen3"), "gateway models delete BACKEND qwen3"),
        (("rm", "hf:org/demo:Q4_K_M"), "hf:org/demo:Q4_K_M is not on this machine"),
    ):
        ran = shell.run("models", *words)
        assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert said in ran.err
