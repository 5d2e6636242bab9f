"""What published models say of themselves in `config.json`, and what their publishers say of their size.

Only the members that the shape of the model follows from are here; they are facts, as the repositories on the Hugging
Face hub have them.
"""

from typing import Any, NamedTuple


class Published(NamedTuple):
    """A published model: its config, its parameters, and those of them that one token is computed with."""

    config: dict[str, Any]
    parameters: float
    active: float
    kv_per_token: int
    """Bytes of one token in a KV cache of 16 bits, while no window is full."""


def llama(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, length: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        **more,
    }


MLA = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "moe_layer_freq": 1, **MLA,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}  # fmt: skip
DEEPSEEK_V2 = {
    "model_type": "deepseek_v2", "n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6,
    "moe_intermediate_size": 1536, "first_k_dense_replace": 1, "moe_layer_freq": 1, **MLA,
}  # fmt: skip
QWEN_MOE = {
    "model_type": "qwen3_moe", "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
    "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
QWEN_25 = {
    "model_type": "qwen2",
    "sliding_window": 131072,
    "use_sliding_window": False,
    "max_window_layers": 28,
}
OSS = {
    "model_type": "gpt_oss", "head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "quantization_config": {"quant_method": "mxfp4"},
}  # fmt: skip
GEMMA_2 = {"model_type": "gemma2", "head_dim": 256, "sliding_window": 4096, "tie_word_embeddings": True}
GEMMA_3_TEXT = llama(
    5376, 21504, 62, 32, 16, 262208, 131072,
    model_type="gemma3_text", head_dim=128, sliding_window=1024, sliding_window_pattern=6, tie_word_embeddings=True,
)  # fmt: skip
PHI_2 = {
    "model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 51200, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    "torch_dtype": "float16",
}  # fmt: skip
FALCON = {
    "model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
    "vocab_size": 65024, "multi_query": True, "new_decoder_architecture": False, "torch_dtype": "bfloat16",
}  # fmt: skip

MODELS = {
    "Llama-2-7B": Published(llama(4096, 11008, 32, 32, 32, 32000, 4096), 6.738e9, 6.738e9, 524_288),
    "Llama-2-13B": Published(llama(5120, 13824, 40, 40, 40, 32000, 4096), 13.016e9, 13.016e9, 819_200),
    "Llama-2-70B": Published(llama(8192, 28672, 80, 64, 8, 32000, 4096), 68.977e9, 68.977e9, 327_680),
    "Llama-3-8B": Published(llama(4096, 14336, 32, 32, 8, 128256, 8192), 8.030e9, 8.030e9, 131_072),
    "Mistral-7B": Published(
        llama(4096, 14336, 32, 32, 8, 32000, 32768, model_type="mistral", sliding_window=4096),
        7.242e9, 7.242e9, 131_072,
    ),
    "Mixtral-8x7B": Published(
        llama(4096, 14336, 32, 32, 8, 32000, 32768, model_type="mixtral", num_local_experts=8, num_experts_per_tok=2),
        46.70e9, 12.88e9, 131_072,
    ),
    "Qwen2.5-7B": Published(llama(3584, 18944, 28, 28, 4, 152064, 32768, **QWEN_25), 7.616e9, 7.616e9, 57_344),
    "Qwen3-30B-A3B": Published(llama(2048, 6144, 48, 32, 4, 151936, 40960, **QWEN_MOE), 30.5e9, 3.3e9, 98_304),
    "DeepSeek-V2": Published(llama(5120, 12288, 60, 128, 128, 102400, 163840, **DEEPSEEK_V2), 236e9, 21e9, 69_120),
    "DeepSeek-V3": Published(llama(7168, 18432, 61, 128, 128, 129280, 163840, **DEEPSEEK_V3), 671e9, 37e9, 70_272),
    "gpt-oss-20b": Published(llama(2880, 2880, 24, 64, 8, 201088, 131072, **OSS), 20.9e9, 4.19e9, 49_152),
    "Gemma-2-9B": Published(llama(3584, 14336, 42, 16, 8, 256000, 8192, **GEMMA_2), 9.242e9, 9.242e9, 344_064),
    "Gemma-3-27B": Published(
        {"model_type": "gemma3", "text_config": GEMMA_3_TEXT, "vision_config": {}}, 27.0e9, 27.0e9, 507_904
    ),
    "Phi-3-mini": Published(
        llama(3072, 8192, 32, 32, 32, 32064, 4096, model_type="phi3", sliding_window=2047), 3.821e9, 3.821e9, 393_216
    ),
    "Phi-2": Published(PHI_2, 2.78e9, 2.78e9, 327_680),
    "Falcon-7B": Published(FALCON, 6.92e9, 6.92e9, 8_192),
}  # fmt: skip

SIZES = {
    "Llama-2-7B": {"FP16": 13.48, "INT8": 7.0, "INT4": 3.5, "Q8_0": 7.16, "Q4_K_M": 4.08, "AWQ": 3.89},
    "Llama-2-13B": {"FP16": 26.03, "INT8": 13.0, "INT4": 6.5, "Q8_0": 13.83, "Q4_K_M": 7.87, "AWQ": 7.25},
    "Llama-2-70B": {"FP16": 137.95, "INT8": 70.0, "INT4": 35.0, "Q8_0": 73.29, "Q4_K_M": 41.42, "AWQ": 36.61},
}
"""Gigabytes (10**9 bytes): the usual rule of thumb for 16, 8 and 4 bits, and published files of these models."""
