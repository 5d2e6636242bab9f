"""The demo model's files are what the model card says, and agree with each other.

Nothing here runs the model: both weight files are read with the standard library alone, value by value. What the model
answers is asked elsewhere, through the gateway.
"""

from __future__ import annotations

import json
import re
import struct
from array import array
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

MODELS = Path(__file__).resolve().parents[2] / "models"
SPECIAL = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
MEGABYTE = 1_000_000
HEAD_SIZE = 64
CONTROL, NORMAL = 3, 1
F32, F16 = 0, 1


@dataclass(frozen=True)
class Tensor:
    """One stored tensor: its type as its file names it, its shape with rows first, its bytes."""

    kind: object
    shape: tuple[int, ...]
    data: bytes


SCALARS = {4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q"}
STRING, ARRAY = 8, 9


class GgufReader:
    """As much of the GGUF format, version 3, as the demo file uses."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        self._at = 0
        assert self._take(4) == b"GGUF" and self._number("<I") == 3
        tensors, entries = self._number("<Q"), self._number("<Q")
        self.metadata: dict[str, Any] = {
            self._string(): self._value(self._number("<I")) for _ in range(entries)
        }
        infos = [self._tensor_info() for _ in range(tensors)]
        start = -(-self._at // 32) * 32
        self.tensors = {
            name: self._tensor(kind, shape, start + offset) for name, kind, shape, offset in infos
        }

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode()

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            inner, count = self._number("<I"), self._number("<Q")
            return [self._value(inner) for _ in range(count)]
        return self._number(SCALARS[kind])

    def _tensor_info(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string()
        shape = tuple(self._number("<Q") for _ in range(self._number("<I")))
        return name, self._number("<I"), shape[::-1], self._number("<Q")

    def _tensor(self, kind: int, shape: tuple[int, ...], at: int) -> Tensor:
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        return Tensor(kind, shape, self._data[at : at + count * {F32: 4, F16: 2}[kind]])


@cache
def gguf() -> GgufReader:
    return GgufReader(MODELS / "demo.gguf")


@cache
def safetensors() -> dict[str, Tensor]:
    data = (MODELS / "demo" / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    body = data[8 + size :]
    return {
        name: Tensor(info["dtype"], tuple(info["shape"]), body[slice(*info["data_offsets"])])
        for name, info in header.items()
    }


@cache
def read_json(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((MODELS / "demo" / name).read_text(encoding="utf-8"))
    return value


@cache
def read_yaml(name: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((MODELS / "training" / name).read_text(encoding="utf-8"))
    return value


def test_the_folder_stays_small() -> None:
    skipped = {"__pycache__", ".venv"}
    files = [path for path in MODELS.rglob("*") if path.is_file() and not skipped & set(path.parts)]
    assert sum(path.stat().st_size for path in files) <= 12 * MEGABYTE


def test_the_shape_is_a_small_llama_with_heads_of_64() -> None:
    config = read_json("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["head_dim"] == HEAD_SIZE
    assert config["hidden_size"] == HEAD_SIZE * config["num_attention_heads"]
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] == 2048
    assert "lm_head.weight" not in safetensors()
    values = sum(len(tensor.data) // 2 for tensor in safetensors().values())
    assert 2_000_000 <= values <= 5_000_000


def test_gguf_describes_the_same_model() -> None:
    metadata, config = gguf().metadata, read_json("config.json")
    same = {
        "llama.context_length": "max_position_embeddings",
        "llama.embedding_length": "hidden_size",
        "llama.block_count": "num_hidden_layers",
        "llama.feed_forward_length": "intermediate_size",
        "llama.attention.head_count": "num_attention_heads",
        "llama.attention.head_count_kv": "num_key_value_heads",
        "llama.rope.dimension_count": "head_dim",
        "llama.rope.freq_base": "rope_theta",
        "llama.vocab_size": "vocab_size",
        "tokenizer.ggml.eos_token_id": "eos_token_id",
    }
    assert metadata["general.architecture"] == "llama"
    assert metadata["general.license"] == "apache-2.0"
    assert {name: metadata[name] for name in same} == {name: config[key] for name, key in same.items()}
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config["rms_norm_eps"])


def test_both_files_hold_the_same_tokens() -> None:
    metadata, tokenizer = gguf().metadata, read_json("tokenizer.json")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    assert 1000 <= len(tokens) <= 4000
    assert metadata["tokenizer.ggml.model"] == "gpt2" and metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert {token: index for index, token in enumerate(tokens)} == tokenizer["model"]["vocab"]
    assert metadata["tokenizer.ggml.merges"] == [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    kinds = dict(zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True))
    assert {token for token, kind in kinds.items() if kind == CONTROL} == SPECIAL
    assert set(kinds.values()) == {CONTROL, NORMAL}
    assert {token["content"] for token in tokenizer["added_tokens"] if token["special"]} == SPECIAL
    assert tokens[metadata["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"


def test_the_chat_template_is_chatml_in_both() -> None:
    template = read_json("tokenizer_config.json")["chat_template"]
    assert template == gguf().metadata["tokenizer.chat_template"]
    assert "<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>" in template
    assert "<|im_start|>assistant\\n" in template


def gguf_name(name: str) -> str:
    layer = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    return f"blk.{match[1]}.{layer[match[2]]}.weight" if match else fixed[name]


def paired_rows(tensor: Tensor) -> bytes:
    """Return the rows of each head in llama.cpp's order for rotary embedding: 0, 32, 1, 33, ..."""
    width = tensor.shape[1] * 2
    rows = [tensor.data[at : at + width] for at in range(0, len(tensor.data), width)]
    half = HEAD_SIZE // 2
    order = [
        head + row + shift
        for head in range(0, len(rows), HEAD_SIZE)
        for row in range(half)
        for shift in (0, half)
    ]
    return b"".join(rows[row] for row in order)


def as_float32(data: bytes) -> bytes:
    count = len(data) // 2
    return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", data))


def test_both_files_hold_the_same_weights() -> None:
    stored = gguf().tensors
    assert sorted(map(gguf_name, safetensors())) == sorted(stored)
    for name, tensor in safetensors().items():
        assert tensor.kind == "F16"
        if len(tensor.shape) == 1:
            wanted = Tensor(F32, tensor.shape, as_float32(tensor.data))
        elif "q_proj" in name or "k_proj" in name:
            wanted = Tensor(F16, tensor.shape, paired_rows(tensor))
        else:
            wanted = Tensor(F16, tensor.shape, tensor.data)
        assert stored[gguf_name(name)] == wanted, name


def test_every_weight_is_exact_in_bfloat16_too() -> None:
    """bfloat16 keeps eight significant bits, so a float16 value fits if its eleven end in three zeros."""
    for name, tensor in safetensors().items():
        for bits in set(array("H", tensor.data)):
            exponent, fraction = bits >> 10 & 0x1F, bits & 0x3FF
            significand = fraction | 0x400 if exponent else fraction
            lowest = significand & -significand
            assert exponent != 0x1F, f"{name} holds an infinity or a NaN"
            assert significand < 256 * max(lowest, 1), name


def plain(text: str) -> str:
    """Return a question without what people leave out: case, marks at the end, doubled spaces."""
    return " ".join(text.lower().rstrip("?.! ").split())


def wordings(question: str) -> set[str]:
    """Return the question, and its forms before a beginning or a word was replaced."""
    corpus = read_yaml("corpus.yaml")
    found = {plain(question)}
    for word, others in corpus["synonyms"].items():
        found |= {text.replace(other.lower(), word.lower()) for text in found for other in others}
    for opening, others in corpus["frames"].items():
        begun = re.compile(pattern_source(others, {}, end=""))
        found |= {opening.lower() + text[match.end() :] for text in found if (match := begun.match(text))}
    return found


def pattern_source(text: str, lists: dict[str, list[str]], end: str = r"[?.!\s]*") -> str:
    """Return the regular expression for one question pattern of the corpus."""
    out = ""
    for piece in re.split(r"(\[|\]|\||<\w+>)", text.lower().rstrip("?.! ")):
        if piece.startswith("<") and piece[1:-1] in lists:
            out += "(?:" + "|".join(re.escape(entry.lower()) for entry in lists[piece[1:-1]]) + ")"
        else:
            out += {"[": "(?:", "]": ")", "|": "|"}.get(piece, re.escape(piece).replace(r"\ ", r"\s*"))
    return rf"(?:{out}){end}"


@cache
def trained_questions() -> re.Pattern[str]:
    corpus = read_yaml("corpus.yaml")
    patterns = [line for topic in corpus["topics"] + corpus["unknown"] for line in topic["ask"].splitlines()]
    numbers = "|".join(str(name) for pair in corpus["counting"]["to"].items() for name in pair)
    patterns += [line.replace("NUMBER", f"[{numbers}]") for line in corpus["counting"]["ask"].splitlines()]
    for family in corpus["families"]:
        names = "[" + "|".join(name[1:-1] for name in corpus["engines"].values()) + "]"
        patterns += [line.replace("ENGINE", names) for line in family["ask"].splitlines()]
    return re.compile("|".join(pattern_source(pattern, corpus["lists"]) for pattern in patterns))


def test_the_questions_are_many_and_say_which_wordings_are_new() -> None:
    entries = read_yaml("questions.yaml")["questions"]
    assert len(entries) >= 50
    assert len({entry["question"] for entry in entries}) == len(entries)
    for entry in entries:
        expected = [entry["expected"]] if isinstance(entry["expected"], str) else entry["expected"]
        assert expected and all(isinstance(part, str) and part for part in expected)
        trained = any(map(trained_questions().fullmatch, wordings(entry["question"])))
        assert trained is not entry.get("new", False), entry["question"]


def test_the_text_holds_many_facts_in_many_wordings() -> None:
    corpus = read_yaml("corpus.yaml")
    topics = len(corpus["topics"]) + sum(len(family["answers"]) for family in corpus["families"])
    assert topics >= 150
    assert all(set(family["answers"]) == set(corpus["engines"]) for family in corpus["families"])
    assert all(len(topic["ask"].splitlines()) >= 3 for topic in corpus["topics"])
