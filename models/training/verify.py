"""Check demo.gguf and demo/ against each other and against questions.yaml. Run by hand after training.

    .venv/bin/python verify.py [FOLDER]

FOLDER holds both; the default is the folder above this one.

llama.cpp (the xllamacpp package) reads the GGUF file, Transformers reads the folder, both on the CPU. They must cut
every text into the same tokens and give the same greedy answer to every question; the answers must hold what
questions.yaml expects. The exit status is 1 if anything differs.
"""

from __future__ import annotations

import json
import random
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xllamacpp
import yaml
from dialogues import Corpus
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent
SYSTEM = "You are a helpful assistant."
PROMPTS = (
    "The gateway is",
    "Once upon a time",
    "The default port of vLLM is",
    "vLLM is",
    "A backend is",
    "Hello",
)
DRAWS = 4000


class LlamaCpp:
    """A llama-server inside this process, asked over HTTP as any client would."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the decoded answer. An HTTP error raises HTTPError."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Return the greedy answer."""
        body = {"messages": messages, "temperature": 0, "max_tokens": 400}
        return str(self.post("/v1/chat/completions", body)["choices"][0]["message"]["content"])

    def complete(self, prompt: str) -> str:
        """Return the greedy continuation."""
        body = {"prompt": prompt, "temperature": 0, "max_tokens": 60}
        return str(self.post("/v1/completions", body)["choices"][0]["text"])

    def tokens(self, text: str) -> list[int]:
        """Return the token ids of plain text."""
        ids: list[int] = self.post("/tokenize", {"content": text, "add_special": False})["tokens"]
        return ids


@contextmanager
def llama_cpp(path: Path) -> Iterator[LlamaCpp]:
    """Serve one GGUF file on a free port of loopback."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.port = 0
    params.n_parallel = 1
    params.cpuparams.n_threads = 2
    params.warmup = False
    params.ui = False
    server = xllamacpp.Server(params)
    yield LlamaCpp(server.listening_address)


class Transformers:
    """The Hugging Face folder in one compute type."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).train(False)

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Return the greedy answer."""
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.complete(str(text), 400)

    def complete(self, prompt: str, limit: int = 60) -> str:
        """Return the greedy continuation."""
        ids = self.tokenizer(prompt, return_tensors="pt").input_ids
        with torch.inference_mode():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False
            )
        return str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def conversations(questions: list[dict[str, Any]]) -> Iterator[list[dict[str, str]]]:
    """Yield every question alone, after a system message, and after another question."""
    previous = "hello"
    for entry in questions:
        user = {"role": "user", "content": entry["question"]}
        yield [user]
        yield [{"role": "system", "content": SYSTEM}, user]
        yield [{"role": "user", "content": previous}, {"role": "assistant", "content": "Hello!"}, user]
        previous = entry["question"]


def different_tokens(engine: LlamaCpp, tokenizer: Any) -> int:
    """Count the texts of the corpus that the two tokenizers cut differently."""
    corpus, rng = Corpus(HERE / "corpus.yaml"), random.Random(1)
    texts = [topic.answer for topic in corpus.topics] + corpus.lines + corpus.systems
    topics = corpus.topics + corpus.unknown
    texts += [corpus.question(rng.choice(topics), rng) for _ in range(DRAWS)]
    texts += [corpus.noise(rng) for _ in range(DRAWS // 4)]
    wrong = [text for text in texts if engine.tokens(text) != tokenizer(text).input_ids]
    print(f"tokens: {len(texts)} texts, {len(wrong)} cut differently", *wrong[:5], sep="\n  ")
    return len(wrong)


def wrong_answers(engine: LlamaCpp, questions: list[dict[str, Any]]) -> int:
    """Count the questions of questions.yaml whose answer lacks an expected part."""
    wrong = 0
    for entry in questions:
        answer = engine.chat([{"role": "user", "content": entry["question"]}])
        expected = [entry["expected"]] if isinstance(entry["expected"], str) else entry["expected"]
        if any(part not in answer for part in expected):
            wrong += 1
            print(f"  WRONG {entry['question']!r}\n    wanted {expected}\n    got {answer!r}")
    print(f"questions: {len(questions)} asked, {wrong} wrong")
    return wrong


def different_answers(
    engine: LlamaCpp, model: Transformers, name: str, questions: list[dict[str, Any]]
) -> int:
    """Count the greedy texts that differ between the two files."""
    asked = different = 0
    for messages in conversations(questions):
        asked += 1
        ours, theirs = engine.chat(messages), model.chat(messages)
        if ours != theirs:
            different += 1
            print(f"  DIFFERENT {messages}\n    llama.cpp    {ours!r}\n    transformers {theirs!r}")
    for prompt in PROMPTS:
        asked += 1
        ours, theirs = engine.complete(prompt), model.complete(prompt)
        if ours != theirs:
            different += 1
            print(f"  DIFFERENT {prompt!r}\n    llama.cpp    {ours!r}\n    transformers {theirs!r}")
    print(f"greedy text, transformers in {name}: {asked} compared, {different} different")
    return different


def main() -> int:
    """Run every check; return 0 if all hold."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else MODELS
    torch.set_num_threads(2)
    questions = yaml.safe_load((HERE / "questions.yaml").read_text(encoding="utf-8"))["questions"]
    single, half = Transformers(folder / "demo", torch.float32), Transformers(folder / "demo", torch.bfloat16)
    with llama_cpp(folder / "demo.gguf") as engine:
        faults = different_tokens(engine, single.tokenizer)
        faults += wrong_answers(engine, questions)
        faults += different_answers(engine, single, "float32", questions)
        different_answers(engine, half, "bfloat16 (for information)", questions)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
