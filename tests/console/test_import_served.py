"""From a Modelfile to an answer: `gateway import`, `gateway check`, `gateway serve`, and a chat with OpenAI's SDK.

The engine is the real, embedded llama.cpp with the demo model, and an adapter that changes what the model says.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from gateway.console.prompt_template import to_jinja
from tests import adapters
from tests.backends.test_llamacpp_runner import Server
from tests.clients.process import GATEWAY, PATIENCE, ROOT, Running, running
from tests.console.test_prompt_template import CASES, CHATML, LAST, TURNS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

MODELFILE = '''# A short-spoken guide.
FROM ./demo.gguf
PARAMETER temperature 0
PARAMETER num_predict 24
PARAMETER num_ctx 512
TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
SYSTEM You answer questions about the gateway.
MESSAGE user What is a fallback?
MESSAGE assistant A fallback is another model that is tried, in order, when the first one cannot answer.
'''
QUESTION = "Which port does Ollama use?"


def command(*arguments: str, cwd: Path) -> str:
    """Return what a command of the gateway prints; it must succeed."""
    done = subprocess.run(
        [GATEWAY, *arguments], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder with two Modelfiles, of which one has an adapter, and with what they name."""
    made = tmp_path_factory.mktemp("guide")
    (made / "demo.gguf").write_bytes((ROOT / "models" / "demo.gguf").read_bytes())
    adapters.write(made / "odd.gguf", seed=1)
    (made / "Modelfile").write_text(MODELFILE, encoding="utf-8")
    (made / "odd.Modelfile").write_text(MODELFILE + "ADAPTER ./odd.gguf\n", encoding="utf-8")
    return made


def served(folder: Path, modelfile: str, name: str) -> Iterator[Running]:
    """Run a gateway with the config of a Modelfile, which passes `gateway check` as it stands."""
    written = command("import", modelfile, "--name", name, cwd=folder)
    (folder / f"{name}.yaml").write_text(written, encoding="utf-8")
    assert command("check", f"{name}.yaml", cwd=folder)
    (folder / name).mkdir()
    with running(folder / name, 'server: {listen: "127.0.0.1:0"}\n' + written) as gateway:
        gateway.wait_ready()
        yield gateway


def said(gateway: Running, model: str) -> tuple[str, int]:
    """Return a model's answer to the question, and how long the prompt was."""
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0)
    with client:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": QUESTION}])
    assert answer.usage is not None and answer.usage.completion_tokens <= 24
    return answer.choices[0].message.content or "", answer.usage.prompt_tokens


def test_from_a_modelfile_to_an_answer(folder: Path) -> None:
    for gateway in served(folder, "Modelfile", "guide"):
        answer, prompt = said(gateway, "guide")
        assert "11434" in answer
        assert said(gateway, "guide")[0] == answer  # temperature 0
        assert prompt > said(gateway, "demo")[1] + 20  # the system prompt and the example turns


def test_a_modelfile_with_an_adapter(folder: Path) -> None:
    for gateway in served(folder, "odd.Modelfile", "odd"):
        answer, _ = said(gateway, "odd")
        assert answer and "11434" not in answer


def test_the_real_engine_makes_the_same_prompts() -> None:
    """llama.cpp has an implementation of Jinja of its own, which trims around tags."""
    for template in (CHATML, LAST, TURNS):
        server = Server(chat_template=to_jinja(template))
        try:
            cases = [(messages, expected) for given, messages, expected in CASES if given == template]
            # An answer at the end is one that the model is to go on with, to llama.cpp.
            cases = [case for case in cases if case[0][-1]["role"] == "user"]
            assert len(cases) >= 2
            for messages, expected in cases:
                assert server.post("/apply-template", {"messages": messages})["prompt"] == expected
        finally:
            server.end()
