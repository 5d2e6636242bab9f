"""Write one set of weights as a Hugging Face folder and as a GGUF file that give the same greedy text.

Every tensor is first rounded to values that bfloat16, float16 and float32 all hold exactly, so no reader of either
file sees other numbers than the other. Tokens, their ids and the chat template are written into both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from dialogues import END_OF_TEXT, END_OF_TURN
from safetensors.torch import save_file
from tokenizers import Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-style model with tied embeddings."""

    vocabulary: int
    width: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    context: int
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5

    def config(self) -> dict[str, Any]:
        """Return the sizes under the names of Hugging Face's config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_size,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_epsilon,
            "rope_theta": self.rope_theta,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
        }


_GGUF_LAYER_NAMES = {
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


def round_weights(weights: Weights) -> Weights:
    """Round to eight significant bits within float16's range, which every format used below holds exactly."""
    return {name: tensor.to(torch.bfloat16).to(torch.float16) for name, tensor in weights.items()}


def write_hugging_face(folder: Path, weights: Weights, shape: Shape, tokenizer: Tokenizer) -> None:
    """Write the folder that Transformers, vLLM and similar engines load."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, stored, {"format": "pt"})
    stored.chmod(0o644)
    end, stop = _token_id(tokenizer, END_OF_TURN), _token_id(tokenizer, END_OF_TEXT)
    ids = {"bos_token_id": stop, "eos_token_id": end, "pad_token_id": stop}
    _write_json(folder / "config.json", {**shape.config(), "torch_dtype": "float16", **ids})
    _write_json(folder / "generation_config.json", {**ids, "eos_token_id": [end, stop], "do_sample": False})
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TURN,
        "pad_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context,
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def write_gguf(path: Path, weights: Weights, shape: Shape, tokenizer: Tokenizer) -> None:
    """Write the file that llama.cpp, Ollama and similar engines load."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Gateway demo")
    writer.add_description("A toy chat model that knows one LLM gateway, for demonstrations and tests.")
    writer.add_license("apache-2.0")
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_value_heads)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, tokenizer)
    for name, tensor in weights.items():
        writer.add_tensor(_gguf_name(name), _gguf_array(name, tensor, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    control = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    kinds = [gguf.TokenType.CONTROL if token in control else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(_token_id(tokenizer, END_OF_TEXT))
    writer.add_eos_token_id(_token_id(tokenizer, END_OF_TURN))
    writer.add_pad_token_id(_token_id(tokenizer, END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_GGUF_LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def _gguf_array(name: str, tensor: torch.Tensor, shape: Shape) -> np.ndarray[Any, Any]:
    """Convert a tensor to what llama.cpp expects.

    Norms are float32; the rows of queries and keys are paired for its rotary embedding.
    """
    if tensor.ndim == 1:
        return tensor.to(torch.float32).numpy()
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        rows, columns = tensor.shape
        halves = tensor.reshape(rows // shape.head_size, 2, shape.head_size // 2, columns)
        tensor = halves.swapaxes(1, 2).reshape(rows, columns)
    return tensor.contiguous().numpy()


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None, f"the tokenizer lacks {token}"
    return found


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
