"""Published models come out as their publishers say: parameters, bytes at each quantization, KV cache of a token."""

import json

import pytest

from backends.sizing.config import Config
from backends.sizing.folder import folder_facts
from backends.sizing.model import Layer, ModelFacts
from backends.sizing.need import kv_cache, kv_per_token
from backends.sizing.quantizations import as_gguf, as_safetensors, plain
from tests.sizing.published import MODELS, SIZES


def facts(name: str) -> ModelFacts:
    config = Config.read(json.dumps(MODELS[name].config).encode())
    assert config is not None
    return folder_facts(config)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_that_were_published(name: str) -> None:
    model, published = facts(name), MODELS[name]
    assert model.parameters == pytest.approx(published.parameters, rel=0.01)
    assert model.active == pytest.approx(published.active, rel=0.03)


@pytest.mark.parametrize("name", MODELS)
def test_a_token_takes_what_is_known_of_the_kv_cache(name: str) -> None:
    assert kv_per_token(facts(name)) == MODELS[name].kv_per_token
    assert kv_per_token(facts(name), "fp8") == MODELS[name].kv_per_token // 2


@pytest.mark.parametrize("name", SIZES)
def test_the_table_of_sizes_comes_out_within_five_percent(name: str) -> None:
    model, known = facts(name), SIZES[name]
    told = {
        **plain(model),
        "Q8_0": as_gguf(model)["Q8_0"],
        "Q4_K_M": as_gguf(model)["Q4_K_M"],
        "AWQ": as_safetensors(model)["INT4 (AWQ, GPTQ)"],
    }
    for quantization, gigabytes in known.items():
        assert told[quantization] / 1e9 == pytest.approx(gigabytes, rel=0.05), quantization


def test_weights_follow_from_the_type_where_no_file_is_there() -> None:
    assert facts("Llama-2-7B").weights == pytest.approx(13.48e9, rel=0.01)
    assert facts("Llama-2-7B").quantization == "BF16"
    # DeepSeek V3 is published in FP8: 689 GB with the module that guesses ahead, which is not counted.
    assert facts("DeepSeek-V3").weights == pytest.approx(672e9, rel=0.02)
    assert facts("DeepSeek-V3").quantization == "FP8"
    assert facts("gpt-oss-20b").weights == pytest.approx(13.7e9, rel=0.15)


def test_windows_are_those_of_the_model() -> None:
    windows = {name: [layer.window for layer in facts(name).layers] for name in MODELS}
    assert windows["Mistral-7B"] == [4096] * 32
    assert windows["Mixtral-8x7B"] == windows["Qwen2.5-7B"][:1] * 32 == [None] * 32
    assert windows["Gemma-2-9B"] == [4096, None] * 21
    assert windows["Gemma-3-27B"][:12] == ([1024] * 5 + [None]) * 2
    assert windows["gpt-oss-20b"] == [128, None] * 12
    assert windows["Llama-3-8B"] == [None] * 32


def test_a_window_bounds_the_cache_of_its_layers() -> None:
    model = facts("Gemma-3-27B")
    [term] = kv_cache(model, 131_072, 1, batch=512)
    each = 2 * 16 * 128 * 2
    # Of 62 layers ten look back at everything; a window of 1024 and a step of 512 make 1536 tokens.
    assert term.size == 10 * each * 131_072 + 52 * each * 1536
    assert "52 layers" in term.how and "1536 tokens" in term.how


def test_latent_attention_keeps_one_vector_for_each_token() -> None:
    model = facts("DeepSeek-V3")
    assert model.latent == 576
    assert set(model.layers) == {Layer(keys=576)}


def hybrid(**more: object) -> ModelFacts:
    config = Config.read(
        json.dumps(
            {
                "hidden_size": 4096,
                "num_hidden_layers": 8,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "vocab_size": 65536,
                "intermediate_size": 14336,
                **more,
            }
        ).encode()
    )
    assert config is not None
    return folder_facts(config)


def test_recurrent_layers_keep_a_state_whatever_the_length() -> None:
    jamba = hybrid(
        model_type="jamba",
        attn_layer_period=8,
        attn_layer_offset=4,
        mamba_d_state=16,
        mamba_d_conv=4,
        mamba_expand=2,
    )
    assert [bool(layer.state) for layer in jamba.layers] == [True] * 4 + [False] + [True] * 3
    short, long = kv_cache(jamba, 1024, 2), kv_cache(jamba, 2048, 2)
    assert short[0].size * 2 == long[0].size == 2 * 8 * 128 * 2 * 2048 * 2
    # 8192 inner channels with a state of 16 and the tail of a convolution over 4.
    assert short[1].size == long[1].size == 7 * (8192 * 16 + 3 * 8192) * 4 * 2


def test_linear_attention_is_recurrent_too() -> None:
    told = {
        "linear_num_value_heads": 32,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
    }
    qwen = hybrid(
        model_type="qwen3_next", layer_types=(["linear_attention"] * 3 + ["full_attention"]) * 2, **told
    )
    assert [bool(layer.keys) for layer in qwen.layers] == [False, False, False, True] * 2
    assert qwen.layers[0].state == 32 * 128 * 128 + 3 * (2 * 16 * 128 + 32 * 128)
    nemotron = hybrid(
        model_type="nemotron_h",
        hybrid_override_pattern="M-M*-M-*",
        mamba_num_heads=128,
        mamba_head_dim=64,
        ssm_state_size=128,
        n_groups=8,
        conv_kernel=4,
    )
    assert [bool(layer.keys) for layer in nemotron.layers] == [letter == "*" for letter in "M-M*-M-*"]
    assert nemotron.layers[1] == Layer()
