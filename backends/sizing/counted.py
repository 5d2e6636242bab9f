"""How many parameters a model has, by its `config.json` alone: for files that are not there yet.

Rules:
- It knows decoders whose layers are attention and a feed-forward part, dense or a mixture of experts. Their norms and
  biases are left out: together they are less than a thousandth.
- The parts are counted as Transformers 5.23 builds them.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.sizing.config import Config

TWO_MATRICES = frozenset(
    "gpt2 gpt_neo gpt_neox gptj gpt_bigcode bloom falcon mpt opt phi starcoder2 nemotron nemotron_h".split()
)
"""Model types whose feed-forward part has two matrices; all others have three, because they are gated."""
TIED = frozenset(
    "gpt2 gemma gemma2 gemma3 gemma3_text bloom cohere cohere2 opt falcon gpt_bigcode mpt".split()
)
"""Model types whose output layer is the embeddings again, unless the config says otherwise."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Parameters: in all, those that one token is computed with, and those of embeddings and output layer."""

    total: int
    active: int
    embeddings: int


def counted(config: Config) -> Counted | None:
    """Return the parameters of a model; None where the config does not describe one that is understood."""
    vocabulary = config.count("vocab_size", "padded_vocab_size")
    if not (config.hidden and config.depth and vocabulary):
        return None
    if any(layer.state for layer in config.layers()) or not config.heads:
        return None
    tied = config.is_set("tie_word_embeddings", default=config.kind in TIED)
    embeddings = vocabulary * config.hidden * (1 if tied else 2)
    if config.kind in ("gpt2", "opt"):
        embeddings += (config.context() or 0) * config.hidden
    attention = _attention(config)
    total = active = embeddings
    for index in range(config.depth):
        every, used = _feed_forward(config, index)
        total += attention + every
        active += attention + used
    return Counted(total, active, embeddings)


def _attention(config: Config) -> int:
    hidden, heads = config.hidden, config.heads
    rank = config.count("kv_lora_rank")
    if not rank:
        return config.head_dim * hidden * 2 * (heads + config.kv_heads)
    plain, rope, value = (
        config.count(name) for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    )
    queries = config.count("q_lora_rank")
    wide = heads * (plain + rope)
    asking = queries * (hidden + wide) if queries else hidden * wide
    return asking + hidden * (rank + rope) + rank * heads * (plain + value) + heads * value * hidden


def _feed_forward(config: Config, index: int) -> tuple[int, int]:
    """Return the parameters of one layer's feed-forward part, and those that a token is computed with."""
    matrices = 2 if config.kind in TWO_MATRICES else 3
    dense = matrices * config.hidden * _width(config)
    experts = config.count("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
    if not experts or not _is_sparse(config, index):
        return dense, dense
    used = config.count(
        "num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts", default=1
    )
    one = (
        matrices
        * config.hidden
        * config.count("moe_intermediate_size", default=config.count("intermediate_size"))
    )
    shared = one * config.count("n_shared_experts", "num_shared_experts")
    shared += matrices * config.hidden * config.count("shared_expert_intermediate_size")
    if config.kind in ("llama4", "llama4_text"):
        shared = one
    router = config.hidden * experts
    return experts * one + shared + router, used * one + shared + router


def _width(config: Config) -> int:
    """Return the width inside a dense feed-forward part."""
    usual = 4 * config.hidden
    dense = config.count("intermediate_size_mlp") if config.kind.startswith("llama4") else 0
    return dense or config.count("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", default=usual)


def _is_sparse(config: Config, index: int) -> bool:
    """Return whether this layer has experts."""
    dense = config.told.get("mlp_only_layers")
    if isinstance(dense, list) and index in dense:
        return False
    if index < config.count("first_k_dense_replace"):
        return False
    every = config.count("moe_layer_freq", "decoder_sparse_step", "interleave_moe_layer_step", default=1)
    if "decoder_sparse_step" in config.told or "interleave_moe_layer_step" in config.told:
        return (index + 1) % every == 0
    return index % every == 0
