"""LoRA adapters of llama.cpp: how it is started with them, and by which number requests choose one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from backends.base import LaunchError
from backends.engines.llamacpp.engine import LlamaCpp
from tests.backends.test_llamacpp import llama_server, model, options

__all__ = ["llama_server", "model"]

ENGINE = LlamaCpp()


@pytest.mark.parametrize("runtime", ["xllamacpp", "program"])
def test_adapters_that_requests_choose(runtime: str, model: str, llama_server: str, tmp_path: Path) -> None:
    """They are applied to nothing at the start, and no prompts are kept, which llama.cpp would mix up."""
    chosen = tmp_path / "b.gguf"
    chosen.write_bytes(b"GGUF" + bytes(100))
    given = {} if runtime == "xllamacpp" else {"runtime": llama_server}
    started = options(model=model, lora=[model], **given)
    assert started.with_adapters([]) is started
    argv = " ".join(started.with_adapters([model, str(chosen), str(chosen)]).launch("127.0.0.1", 1).argv)
    if runtime == "xllamacpp":
        assert f" --prompt-cache 0 --lora={model} --lora-on-request={chosen} " in argv
    else:
        assert f" --cache-ram 0 --lora {model} --lora-scaled {chosen}:0" in argv
    assert argv.count(str(chosen)) == 1


def test_adapters_that_requests_choose_go_with_no_prompt_cache(model: str, llama_server: str) -> None:
    with pytest.raises(ValidationError, match="mixes up their prompts"):
        options(model=model, lora_on_request=[model], prompt_cache="1GiB")
    odd = Path(model).with_name("a:b.gguf")
    odd.write_bytes(Path(model).read_bytes())
    with pytest.raises(LaunchError, match="cannot be given the LoRA adapter"):
        options(model=model, runtime=llama_server).with_adapters([str(odd)]).launch("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("path", "number"),
    [("/x/ada.gguf", 0), ("ada", 0), ("ada.gguf", 0), ("x/ada.gguf", 0), ("bob", 2), ("y/eve", 1)],
)
def test_the_number_of_an_adapter(path: str, number: int) -> None:
    paths = ["/x/ada.gguf", "/y/eve.gguf", "../bob.gguf", "/z/eve.gguf"]
    listed = json.dumps([{"id": at, "path": each, "scale": 0.0} for at, each in enumerate(paths)]).encode()
    assert json.loads(ENGINE.choice(listed, path, True)["lora"]) == [{"id": number, "scale": 1.0}]
    for wrong, words in (
        ("eve", "2 of its adapters"),
        ("da", "without the adapter"),
        ("", "without"),
        ("z/ada", "without"),
    ):
        with pytest.raises(LookupError, match=words):
            ENGINE.choice(listed, wrong, True)
    for broken in (b"", b"{}", b'[{"id": 1}]', b"[" * 9999):
        with pytest.raises((ValueError, RecursionError)):
            ENGINE.choice(broken, path, True)
