"""GGUF files and folders: what is read of them, of several parts, and what is said of files that are none."""

import json
import struct
from pathlib import Path

import pytest

from backends.sizing import gguf as reading
from backends.sizing.files import facts
from backends.sizing.hubs import local
from backends.sizing.model import Form, Layer, ModelError
from tests.sizing.ggufs import gguf, model, written

MODELS = Path(__file__).resolve().parents[2] / "models"
EMBEDDINGS = {"token_embd.weight": ((512, 32000), 1), "output.weight": ((512, 32000), 14)}


def test_the_demo_model_is_the_same_in_both_forms() -> None:
    one, other = facts(MODELS / "demo.gguf"), facts(MODELS / "demo")
    assert one.form is Form.GGUF
    assert other.form is Form.SAFETENSORS
    for known in (one, other):
        assert (known.parameters, known.active, known.quantization) == (2_558_208, 2_558_208, "F16")
        assert (known.vocabulary, known.hidden, known.feed_forward, known.context) == (1536, 256, 448, 2048)
        assert known.layers == (Layer(2 * 64, 2 * 64),) * 4
        assert known.embeddings == 1536 * 256
    assert one.weights == 2 * one.parameters + 2 * 2304  # its norms have 32 bits
    assert other.weights == 2 * other.parameters


def test_bytes_are_those_of_each_tensor(tmp_path: Path) -> None:
    path = written(
        tmp_path / "m.gguf", model("llama"), {**EMBEDDINGS, "blk.0.attn_q.weight": ((512, 512), 12)}
    )
    known = facts(path)
    assert known.parameters == 2 * 512 * 32000 + 512 * 512
    assert known.weights == 512 * 32000 * 2 + 512 * 32000 // 256 * 210 + 512 * 512 // 256 * 144
    assert known.vocabulary == 32000
    assert known.embeddings == 2 * 512 * 32000
    assert known.layers == (Layer(512, 512),) * 4


def test_a_type_that_is_not_known_counts_by_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(model("llama"), {"token_embd.weight": ((512, 1000), 99)}, data=4096))
    assert facts(path).weights == 4096
    assert facts(path).quantization == "type 99"


def test_parts_belong_together(tmp_path: Path) -> None:
    name = "big-{:05}-of-00002.gguf"
    written(tmp_path / name.format(1), model("llama"), {"token_embd.weight": ((512, 32000), 1)})
    second = written(tmp_path / name.format(2), {}, {"output.weight": ((512, 32000), 1)})
    for path in (tmp_path / name.format(1), tmp_path):
        known = facts(path)
        assert known.parameters == 2 * 512 * 32000
        assert known.weights == 4 * 512 * 32000
        assert [file.name for file in known.files] == [name.format(1), name.format(2)]
    second.unlink()
    with pytest.raises(ModelError, match=r"big-00002-of-00002\.gguf: No such file"):
        facts(tmp_path / name.format(1))


def test_experts_latent_attention_windows_and_states(tmp_path: Path) -> None:
    moe = model("qwen3moe", expert_count=8, expert_used_count=2, expert_feed_forward_length=256)
    stacked = {"blk.0.ffn_up_exps.weight": ((512, 256, 8), 1), "blk.0.attn_q.weight": ((512, 512), 1)}
    known = facts(written(tmp_path / "moe.gguf", moe, stacked))
    assert known.active == 512 * 512 + 512 * 256 * 2
    assert (known.experts, known.experts_used, known.feed_forward) == (8, 2, 1024)

    told = {"attention__head_count_kv": 1, "attention__kv_lora_rank": 512, "rope__dimension_count": 64}
    lengths = {"attention__key_length": 576, "attention__value_length": 512, "attention__key_length_mla": 192}
    known = facts(written(tmp_path / "mla.gguf", model("deepseek2", **told, **lengths), EMBEDDINGS))
    assert (known.latent, known.layers[0]) == (576, Layer(keys=576))

    gemma = model("gemma3", layers=12, attention__sliding_window=1024, attention__head_count_kv=4)
    known = facts(written(tmp_path / "gemma.gguf", gemma, EMBEDDINGS))
    assert [layer.window for layer in known.layers] == ([1024] * 5 + [None]) * 2
    told_by_layer = model(
        "gemma4", attention__sliding_window=512, attention__sliding_window_pattern=(1, 1, 0, 1)
    )
    known = facts(written(tmp_path / "pattern.gguf", told_by_layer, EMBEDDINGS))
    assert [layer.window for layer in known.layers] == [512, 512, None, 512]
    mistral = model("llama", attention__sliding_window=4096)
    assert facts(written(tmp_path / "mistral.gguf", mistral, EMBEDDINGS)).windows == 0

    jamba = model(
        "jamba",
        attention__head_count_kv=(0, 0, 4, 0),
        ssm__inner_size=1024,
        ssm__state_size=16,
        ssm__conv_kernel=4,
    )
    known = facts(written(tmp_path / "jamba.gguf", jamba, EMBEDDINGS))
    assert known.recurrent == 3
    assert known.layers[0] == Layer(state=1024 * 16 + 3 * 1024)
    assert known.layers[2] == Layer(4 * 64, 4 * 64)


def test_a_projector_is_loaded_beside_the_model(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", model("llama"), EMBEDDINGS)
    beside = tmp_path / "mmproj-m.gguf"
    beside.write_bytes(bytes(1000))
    assert facts(path, beside).projector == 1000
    assert facts(tmp_path).projector == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"GGUF", "ends too early"),
        (b"PK\x03\x04" + bytes(100), "not in GGUF format"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9 of GGUF is not known"),
        (gguf({"general.architecture": "llama"}, {}), "do not say how many layers"),
        (gguf(model("llama"), EMBEDDINGS)[:-200], "ends too early"),
        (gguf(model("llama"), {"a": ((1,) * 9, 1)}), "a tensor with 9 dimensions"),
        (gguf({**model("llama"), "general.alignment": 0}, EMBEDDINGS), "wrong general.alignment"),
    ],
)
def test_a_file_that_is_none_is_one_clear_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=words) as raised:
        facts(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_head_cut_anywhere_asks_for_more() -> None:
    whole = gguf({**model("llama"), "tokenizer.ggml.tokens": ["a", "b"]}, EMBEDDINGS)
    head = reading.head(whole)
    assert head.settings["tokenizer.ggml.tokens"] == reading.Listed(2)
    for end in range(0, head.data - 32, 7):
        with pytest.raises(reading.Cut):
            reading.head(whole[:end])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "neither config.json nor a GGUF file"),
        ({"a.gguf": b"", "b.gguf": b""}, "several GGUF files"),
        ({"config.json": b"{}"}, "does not say how many layers"),
        ({"config.json": b"[]"}, "not JSON with an object"),
        (
            {"config.json": b"{}", "model.safetensors": b"\xff" * 20},
            "model.safetensors: not in safetensors format",
        ),
        ({"config.json": b"{}", "model.safetensors": b"\x01"}, "model.safetensors: it ends too early"),
        ({"config.json": b"{}", "model.safetensors.index.json": b"[]"}, "index.json has no weight_map"),
        (
            {
                "config.json": b"{}",
                "model.safetensors.index.json": b'{"weight_map": {"a": "gone.safetensors"}}',
            },
            "gone.safetensors: No such file",
        ),
    ],
)
def test_a_folder_that_is_none_is_one_clear_line(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=words):
        facts(tmp_path)


def safetensors(path: Path, **tensors: tuple[str, list[int], int]) -> None:
    at, told = 0, {}
    for name, (kind, shape, size) in tensors.items():
        told[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(told).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_weights_of_a_folder_are_those_that_its_index_names(tmp_path: Path) -> None:
    config = json.loads((MODELS / "demo" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors(tmp_path / "one.safetensors", a=("BF16", [100, 10], 2000))
    safetensors(tmp_path / "two.safetensors", **{"vision_tower.b": ("BF16", [50], 100)})
    safetensors(tmp_path / "consolidated.safetensors", a=("BF16", [100, 10], 2000))
    index = {"weight_map": {"a": "one.safetensors", "vision_tower.b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    known = facts(tmp_path)
    assert (known.weights, known.parameters, known.projector, known.quantization) == (2100, 1050, 100, "BF16")


def test_packed_weights_are_counted_by_the_config(tmp_path: Path) -> None:
    config = json.loads((MODELS / "demo" / "config.json").read_text())
    packed = {"quant_method": "awq", "bits": 4, "group_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": packed}))
    safetensors(tmp_path / "model.safetensors", a=("I32", [1000], 4000))
    known = facts(tmp_path)
    assert (known.weights, known.quantization) == (4000, "AWQ 4-bit")
    assert known.parameters == pytest.approx(2_558_208, rel=0.01)


def test_a_repository_of_the_hub_is_found_in_its_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "models--org--name" / "refs").mkdir()
    (tmp_path / "hub" / "models--org--name" / "refs" / "main").write_text("abc\n")
    assert local("org/name", {"HF_HOME": str(tmp_path)}) == snapshot
    assert local("org/name", {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": "/none"}) == snapshot
    assert local("org/other", {"HF_HOME": str(tmp_path)}) is None
    assert local(str(snapshot)) == snapshot
    assert local("./gone/here") is None
