"""Train the demo model from corpus.yaml and write demo.gguf and demo/.

    python -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/python train.py

Run it in this folder. The files go to the folder above, where the product reads them.

Everything is seeded and the number of steps is fixed, so the same machine gives the same weights. The loss counts only
what the assistant says (and bare lines, so that plain completions work too).
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from dialogues import END_OF_TEXT, END_OF_TURN, START_OF_TURN, Corpus, Sample
from export import Shape, round_weights, write_gguf, write_hugging_face
from muon import Muon
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent
SHAPE = Shape(
    vocabulary=1536,
    width=256,
    feed_forward=448,
    layers=4,
    heads=4,
    key_value_heads=2,
    head_size=64,
    context=2048,
)
IGNORED = -100
MATRIX_RATE, EMBEDDING_RATE = 0.02, 0.003

Batch = tuple[torch.Tensor, torch.Tensor]


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """Train a byte-level BPE with GPT-2's splitting rule, which llama.cpp calls `gpt-2`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE.vocabulary,
        special_tokens=[END_OF_TEXT, START_OF_TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.texts(), trainer)
    return tokenizer


def encode(sample: Sample, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return token ids and, shifted by one, the ids to learn; `IGNORED` marks what must not be learned."""
    ids: list[int] = []
    labels: list[int] = []
    for text, learn in sample.parts:
        piece = tokenizer.encode(text).ids
        ids += piece
        labels += piece if learn else [IGNORED] * len(piece)
    return ids[: SHAPE.context - 1], labels[1 : SHAPE.context] + [IGNORED] * (len(labels) < SHAPE.context)


def batches(corpus: Corpus, tokenizer: Tokenizer, tokens: int, rng: random.Random) -> Iterator[Batch]:
    """Yield batches of about `tokens` tokens, samples of similar length together so that little is padding."""
    while True:
        pool = sorted(
            (encode(corpus.sample(rng), tokenizer) for _ in range(600)), key=lambda pair: len(pair[0])
        )
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for pair in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(pair[0]) > tokens:
                groups.append([])
            groups[-1].append(pair)
        rng.shuffle(groups)
        yield from map(_stack, groups)


def _stack(group: list[tuple[list[int], list[int]]]) -> Batch:
    width = max(len(ids) for ids, _ in group)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in group])
    labels = torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in group])
    return ids, labels


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return the rate of a step: a short warm-up, then half a cosine down to a hundredth of the peak."""
    warm_up = min(60, steps // 10)
    if step < warm_up:
        return peak * step / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(model: LlamaForCausalLM, stream: Iterator[Batch], steps: int, gain: float) -> None:
    """Train the layers' matrices with Muon and the rest with AdamW; `gain` scales both learning rates."""
    matrices = [value for name, value in model.named_parameters() if value.ndim == 2 and "embed" not in name]
    rest = [value for name, value in model.named_parameters() if value.ndim == 1 or "embed" in name]
    muon, adam = Muon(matrices), torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0)
    started, seen, losses = time.monotonic(), 0, 0.0
    model.train()
    for step, (ids, labels) in enumerate(islice(stream, steps), start=1):
        loss = loss_of(model, ids, labels)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step(learning_rate(step, steps, gain * MATRIX_RATE))
        adam.param_groups[0]["lr"] = learning_rate(step, steps, gain * EMBEDDING_RATE)
        adam.step()
        model.zero_grad(set_to_none=True)
        seen, losses = seen + ids.numel(), losses + loss.item()
        if step % 100 == 0:
            spent = time.monotonic() - started
            pace = f"{seen / spent:.0f} tokens/s {spent:.0f} s"
            print(f"step {step}/{steps} loss {losses / 100:.4f} {pace}", flush=True)
            losses = 0.0


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of the tokens to learn, without computing the head for the others."""
    learned = labels != IGNORED
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[learned]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden), labels[learned])


def fresh(corpus: Corpus) -> tuple[LlamaForCausalLM, Tokenizer]:
    """Return random weights and a tokenizer trained on the text."""
    config = LlamaConfig.from_dict({**SHAPE.config(), "initializer_range": 0.04})
    return LlamaForCausalLM(config), train_tokenizer(corpus)


def stored(folder: Path) -> tuple[LlamaForCausalLM, Tokenizer]:
    """Load the weights and the tokenizer of an earlier run."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


def main() -> None:
    """Train, round, write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MODELS, help="where demo.gguf and demo/ go")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--tokens", type=int, default=3072, help="tokens per batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gain", type=float, default=1.0, help="factor of both learning rates")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on from these weights")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(args.threads)
    corpus = Corpus(HERE / "corpus.yaml")
    model, tokenizer = stored(args.resume) if args.resume else fresh(corpus)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    stream = batches(corpus, tokenizer, args.tokens, random.Random(args.seed))
    train(model, stream, args.steps, args.gain)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    weights = round_weights(weights)
    args.out.mkdir(parents=True, exist_ok=True)
    write_hugging_face(args.out / "demo", weights, SHAPE, tokenizer)
    write_gguf(args.out / "demo.gguf", weights, SHAPE, tokenizer)


if __name__ == "__main__":
    main()
