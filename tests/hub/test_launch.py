"""`launch.model` may be a model of a hub: one that was fetched, or fetched at the start, or a clear error."""

import subprocess
import sys
from pathlib import Path

import pytest

from backends.base import LaunchError
from backends.engines.llamacpp.launch import LlamaCppLaunch
from backends.engines.vllm.launch import VLLMLaunch
from backends.facts.residing import starts_alike
from tests.config.files import config
from tests.hub.conftest import Shell

NAME = "hf:org/demo-GGUF:Q4_K_M"


def test_a_model_that_was_fetched_is_launched_by_its_file(shell: Shell) -> None:
    path = shell.run("pull", NAME).out.strip()
    launch = LlamaCppLaunch(model=Path(NAME), env={"HF_HOME": str(shell.home)})
    assert f"--model={path}" in launch.launch("127.0.0.1", 1).argv
    assert launch.served_names() == ("demo-GGUF:Q4_K_M",)
    assert launch.files() == Path(path)


def test_one_that_is_not_here_says_how_to_fetch_it(tmp_path: Path) -> None:
    env = {"HF_HOME": str(tmp_path), "MODELSCOPE_CACHE": str(tmp_path)}
    for name in (NAME, "ms:org/demo-GGUF:Q8_0"):
        with pytest.raises(
            LaunchError, match=f"{name} is not on this machine: fetch it with `gateway pull {name}`"
        ):
            LlamaCppLaunch(model=Path(name), env=env).launch("127.0.0.1", 1)
    with pytest.raises(LaunchError, match="or set 'pull: true'"):
        VLLMLaunch(model="hf:org/demo", command=(sys.executable, "serve"), env=env).launch("127.0.0.1", 1)
    plain = VLLMLaunch(model="org/demo", command=(sys.executable, "serve"), env=env).launch("127.0.0.1", 1)
    assert "org/demo" in plain.argv


def test_it_is_fetched_at_the_start_where_the_config_allows_it(shell: Shell) -> None:
    show = (sys.executable, "-c", "import sys; print(sys.argv[1:])", "serve")
    launch = VLLMLaunch(model=NAME, pull=True, command=show, env=shell.env).launch("127.0.0.1", 1)
    done = subprocess.run(
        launch.argv, env=dict(launch.env), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(shell.home) in done.stdout
    assert "demo-Q4_K_M.gguf'" in done.stdout
    assert "{model}" not in done.stdout


def test_the_defaults_say_it_for_all_that_leave_it_out(tmp_path: Path) -> None:
    launch = f"launch: {{model: '{NAME}', env: {{HF_HOME: '{tmp_path}'}}"
    text = f"""
defaults: {{pull: true}}
backends:
  a: {{engine: llamacpp, {launch}, runtime: llama-server}}}}
  b: {{engine: llamacpp, {launch}, runtime: llama-server, pull: false}}}}
  c: {{engine: ollama, launch: {{}}}}
"""
    found = config(tmp_path, text).backends
    assert [getattr(found[name].launch, "pull", None) for name in "abc"] == [True, False, None]
    one, other = found["a"].launch, found["b"].launch
    assert starts_alike(one, other)
    with pytest.raises(LaunchError, match="is not on this machine"):
        assert other is not None and other.launch("127.0.0.1", 1)
