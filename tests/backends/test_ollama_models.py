"""Actions on Ollama's models: their requests, the arguments that are refused, and Modelfiles."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Action, Call
from backends.engines.ollama.engine import Ollama, OllamaOptions
from backends.engines.ollama.models import from_modelfile

ENGINE = Ollama()


def act(action: Action, **arguments: Any) -> tuple[str, str, Any]:
    call = ENGINE.action(action, arguments)
    return call.method, call.path, json.loads(call.body) if call.body else None


def test_every_action_has_its_call() -> None:
    assert ENGINE.action(Action.LIST, {}) == Call("/api/tags", method="GET")
    assert ENGINE.action(Action.PS, {}) == Call("/api/ps", method="GET")
    assert act(Action.SHOW, model="a:1b") == ("POST", "/api/show", {"model": "a:1b"})
    assert act(Action.SHOW, model="a", verbose=True)[2] == {"model": "a", "verbose": True}
    assert act(Action.PULL, model="hf.co/u/m:Q4") == (
        "POST",
        "/api/pull",
        {"model": "hf.co/u/m:Q4", "stream": True},
    )
    assert act(Action.COPY, source="a", destination="b") == (
        "POST",
        "/api/copy",
        {"source": "a", "destination": "b"},
    )
    assert act(Action.DELETE, model="a") == ("DELETE", "/api/delete", {"model": "a"})
    assert act(Action.LOAD, model="a") == ("POST", "/api/generate", {"model": "a", "stream": False})
    unloaded = {"model": "a", "keep_alive": 0, "stream": False}
    assert act(Action.UNLOAD, model="a") == ("POST", "/api/generate", unloaded)
    assert {*ENGINE.actions} == {*Action} - {Action.LOAD_LORA, Action.UNLOAD_LORA, Action.SLEEP, Action.WAKE}


def test_a_model_is_loaded_as_the_backends_requests_want_it() -> None:
    engine = Ollama(OllamaOptions(context=4096, keep_alive=600.0))
    body = json.loads(engine.action(Action.LOAD, {"model": "a"}).body)
    expected = {"model": "a", "stream": False, "options": {"num_ctx": 4096}, "keep_alive": 600}
    assert body == expected
    body = json.loads(engine.action(Action.LOAD, {"model": "a", "context": 8192, "keep_alive": "1m"}).body)
    assert (body["options"], body["keep_alive"]) == ({"num_ctx": 8192}, "1m")


@pytest.mark.parametrize("keep_alive", [-1, 0, 1.5, "10m", "1h30m", "-1s"])
def test_a_model_is_loaded_for_as_long_as_wanted(keep_alive: float | str) -> None:
    body = act(Action.LOAD, model="a", keep_alive=keep_alive, context=8192)[2]
    assert body == {"model": "a", "keep_alive": keep_alive, "options": {"num_ctx": 8192}, "stream": False}


def test_a_model_is_made_of_fields() -> None:
    fields = {
        "from": "qwen3:0.6b",
        "system": "Be brief.",
        "template": "{{ .Prompt }}",
        "license": ["MIT"],
        "parameters": {"temperature": 0.2, "stop": ["END"]},
        "messages": [{"role": "user", "content": "Hi"}],
        "adapters": {"a.gguf": "sha256:00"},
        "quantize": "q4_K_M",
    }
    made = act(Action.CREATE, model="brief", **fields)
    assert made == ("POST", "/api/create", {"model": "brief", **fields, "stream": True})
    files = {"m.gguf": "sha256:00"}
    assert act(Action.CREATE, model="m", files=files)[2] == {"model": "m", "files": files, "stream": True}


MODELFILE = '''
# what the gateway answers with
FROM qwen3:0.6b
parameter temperature 0.2
PARAMETER num_ctx 4096
PARAMETER use_mmap true
PARAMETER stop "<|im_end|>"
PARAMETER stop END

SYSTEM """You are the gateway's guide.
# not a comment
Answer in "one" line."""
TEMPLATE """{{ .System }} {{ .Prompt }}"""
LICENSE MIT
LICENSE """Also
this."""
MESSAGE user Hi
MESSAGE assistant """Hello,
what now?"""
'''


def test_a_model_is_made_of_a_modelfile() -> None:
    expected = {
        "from": "qwen3:0.6b",
        "parameters": {"temperature": 0.2, "num_ctx": 4096, "use_mmap": True, "stop": ["<|im_end|>", "END"]},
        "system": 'You are the gateway\'s guide.\n# not a comment\nAnswer in "one" line.',
        "template": "{{ .System }} {{ .Prompt }}",
        "license": ["MIT", "Also\nthis."],
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello,\nwhat now?"},
        ],
    }
    assert from_modelfile(MODELFILE) == expected
    assert from_modelfile(MODELFILE.replace("\n", "\r\n")) == expected
    made = act(Action.CREATE, model="guide", modelfile=MODELFILE, quantize="q8_0")[2]
    assert made == {**expected, "model": "guide", "quantize": "q8_0", "stream": True}


def test_a_modelfile_may_speak_of_files_that_were_uploaded() -> None:
    text = "FROM ./m.gguf\nADAPTER ./a.gguf\nSYSTEM Be brief."
    given = {"files": {"m.gguf": "sha256:00"}, "adapters": {"a.gguf": "sha256:11"}}
    assert act(Action.CREATE, model="m", modelfile=text, **given)[2] == {
        "model": "m",
        "system": "Be brief.",
        **given,
        "stream": True,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SYSTEM a", "no FROM"),
        ("FROM ./m.gguf", "line 1: FROM names a file; upload it and name its digest in 'files'"),
        (
            "FROM a\nADAPTER ./a.gguf",
            "line 2: ADAPTER names a file; upload it and name its digest in 'adapters'",
        ),
        ("FROM a\n\nNONSENSE b", "line 3: unknown instruction 'NONSENSE'"),
        ('FROM a\nSYSTEM """never', "line 2: the text after"),
        ("FROM", "line 1: FROM says nothing"),
        ("FROM a\nMESSAGE tool x", "line 2: MESSAGE needs a role"),
        ("FROM a\nMESSAGE user", "line 2: MESSAGE needs a role"),
    ],
)
def test_modelfiles_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="modelfile") as caught:
        act(Action.CREATE, model="m", modelfile=text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("action", "arguments", "said"),
    [
        (Action.LIST, {"model": "a"}, "'model'"),
        (Action.PULL, {}, "'model'"),
        (Action.PULL, {"model": 3}, "'model'"),
        (Action.PULL, {"model": "a b"}, "'model'"),
        (Action.PULL, {"model": "a", "insecure": "yes"}, "'insecure'"),
        (Action.SHOW, {"name": "a"}, "'name'"),
        (Action.COPY, {"source": "a"}, "'destination'"),
        (Action.COPY, {"source": "a", "destination": "b\n"}, "'destination'"),
        (Action.LOAD, {"model": "a", "context": "4k"}, "'context'"),
        (Action.LOAD, {"model": "a", "keep_alive": "soon"}, "'keep_alive'"),
        (Action.LOAD, {"model": "a", "keep_alive": True}, "'keep_alive'"),
        (Action.UNLOAD, {"model": "a", "keep_alive": 1}, "'keep_alive'"),
        (Action.CREATE, {"model": "a"}, "'from'"),
        (Action.CREATE, {"from": "a"}, "'model'"),
        (Action.CREATE, {"model": "a", "from": "b", "path": "c"}, "'path'"),
        (Action.CREATE, {"model": "a", "from": "b", "parameters": [1]}, "parameters"),
        (Action.CREATE, {"model": "a", "modelfile": "FROM b", "system": "c"}, "'system'"),
    ],
)
def test_wrong_arguments_are_named(action: Action, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        ENGINE.action(action, arguments)
    assert "\n" not in str(caught.value)


def test_the_official_client_reads_every_call() -> None:
    types = pytest.importorskip("ollama._types")
    made = act(Action.CREATE, model="guide", modelfile=MODELFILE, quantize="q8_0")[2]
    made["from_"] = made.pop("from")
    bodies = {
        "CreateRequest": made,
        "PullRequest": act(Action.PULL, model="a", insecure=True)[2],
        "CopyRequest": act(Action.COPY, source="a", destination="b")[2],
        "DeleteRequest": act(Action.DELETE, model="a")[2],
        "ShowRequest": act(Action.SHOW, model="a")[2],
        "GenerateRequest": act(Action.LOAD, model="a", keep_alive="10m", context=64)[2],
    }
    for name, body in bodies.items():
        kind = getattr(types, name)
        assert kind.model_validate(body) is not None
        assert body.keys() <= kind.model_fields.keys()
