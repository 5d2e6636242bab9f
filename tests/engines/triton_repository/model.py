"""A Triton Python backend that serves the demo model with the tensors and habits of Triton's vLLM backend.

Rules:
- What a client of the vLLM backend may rely on holds here: settings as one string of JSON or as request parameters,
  text in deltas, "None" for a reason until the last of them, counts per response, a prompt that is echoed unless told
  not to, and what goes wrong as "Error generating stream: ...".
- A request whose client has left ends at the next token.
- It publishes its load as that backend does with REPORT_CUSTOM_METRICS, and what it made and left unfinished besides.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, os.environ["DEMO_PACKAGES"])  # Triton gives a model no PYTHONPATH

import llama  # type: ignore[import-not-found]
import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

AT_ONCE = 4
"""Requests that are computed at the same time; more wait."""


@dataclass(frozen=True)
class Asked:
    """One request, read."""

    prompt: str
    tokens: list[int]
    settings: dict[str, Any]
    stream: bool
    echo: bool
    told: frozenset[str]
    """Outputs that are wanted beside the text."""


class Piece(NamedTuple):
    """What one token brought: text, possibly none yet, and why it was the last."""

    text: str
    reason: str | None


@dataclass
class Answer:
    """One answer as it grows: what of it was not sent yet, and why it ended."""

    pieces: Iterator[Piece]
    text: str
    count: int = 0
    reason: str | None = None

    def grow(self) -> int:
        """Take one token more; the number of tokens it took."""
        if self.reason is not None:
            return 0
        piece = next(self.pieces)
        self.text, self.count, self.reason = self.text + piece.text, self.count + 1, piece.reason
        return 1


class TritonPythonModel:
    """What Triton makes one of for each instance of the model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model from the folder that the environment names."""
        self._model = llama.Llama(Path(os.environ["DEMO_MODEL"]))
        self._threads = ThreadPoolExecutor(AT_ONCE)
        # Triton's stub hangs where two threads change metrics at once.
        self._books = ThreadPoolExecutor(1)
        name = args["model_name"]
        self._waiting = _metric("vllm:num_requests_waiting", name, pb_utils.MetricFamily.GAUGE)
        self._running = _metric("vllm:num_requests_running", name, pb_utils.MetricFamily.GAUGE)
        self._cache = _metric("vllm:gpu_cache_usage_perc", name, pb_utils.MetricFamily.GAUGE)
        self._made = _metric("demo_tokens_total", name, pb_utils.MetricFamily.COUNTER)
        self._left = _metric("demo_cancelled_total", name, pb_utils.MetricFamily.COUNTER)

    def execute(self, requests: list[Any]) -> None:
        """Begin these requests; each sends its responses from a thread of its own."""
        for request in requests:
            self._books.submit(self._waiting.increment, 1)
            self._threads.submit(self._served, request, request.get_response_sender())

    def finalize(self) -> None:
        """Do nothing when the model is unloaded."""
        self._threads.shutdown(wait=True)
        self._books.shutdown(wait=True)

    def _served(self, request: Any, sender: Any) -> None:
        self._books.submit(self._waiting.increment, -1)
        self._books.submit(self._count_running, 1)
        try:
            self._answer(request, sender)
        finally:
            self._books.submit(self._count_running, -1)

    def _count_running(self, by: int) -> None:
        self._running.increment(by)
        self._cache.set(self._running.value() / AT_ONCE)

    def _answer(self, request: Any, sender: Any) -> None:
        try:
            asked = self._read(request)
            echo = asked.prompt if asked.echo else ""
            answers = [Answer(self._pieces(asked), echo) for _ in range(asked.settings.get("n", 1))]
            while any(answer.reason is None for answer in answers):
                self._books.submit(self._made.increment, sum([answer.grow() for answer in answers]))
                if sender.is_cancelled():
                    self._books.submit(self._left.increment, 1)
                    _fail(sender, "Request was cancelled", pb_utils.TritonError.CANCELLED)
                    return
                if asked.stream or all(answer.reason for answer in answers):
                    _send(sender, asked, answers)
        except Exception as error:
            _fail(sender, f"Error generating stream: {error}", pb_utils.TritonError.INTERNAL)

    def _read(self, request: Any) -> Asked:
        prompt = str(_input(request, "text_input", b"").decode())
        stream = bool(_input(request, "stream", False))
        tokens = self._model.tokenizer.encode(prompt).ids
        settings = json.loads(_input(request, "sampling_parameters", None) or request.parameters())
        if len(tokens) >= self._model.context:
            raise ValueError(
                f"This model's maximum context length is {self._model.context} tokens. However, your prompt has "
                f"{len(tokens)} tokens. Please reduce the length of the prompt."
            )
        if settings.get("temperature", 0) < 0:
            raise ValueError(f"temperature must be non-negative, got {settings['temperature']}.")
        if "guided_decoding" in settings:
            raise ValueError("structured outputs are not supported by this model")
        return Asked(
            prompt,
            tokens,
            settings,
            stream,
            echo=not (_input(request, "exclude_input_in_output", False) or stream),
            told=frozenset(
                name
                for name in ("finish_reason", "num_input_tokens", "num_output_tokens")
                if _input(request, f"return_{name}", False)
            ),
        )

    def _pieces(self, asked: Asked) -> Iterator[Piece]:
        """Pieces until one has a reason. Text that may yet change or be cut is held back."""
        model, settings = self._model, asked.settings
        stops = settings.get("stop") or []
        room = model.context - len(asked.tokens)
        limit = min(settings.get("max_tokens", 16), room)
        made: list[int] = []
        sent = ""
        for token in llama.sampled(
            model.sequence(),
            asked.tokens,
            float(settings.get("temperature", 0)),
            float(settings.get("top_p", 1)),
            settings.get("seed"),
        ):
            ends = token in model.ends
            made += [] if ends else [token]
            text = model.tokenizer.decode(made)
            found = [place for stop in stops if (place := text.find(stop)) >= 0]
            if ends or found or len(made) >= limit:
                whole = text[: min(found)] if found else text
                yield Piece(whole[len(sent) :], "stop" if ends or found else "length")
                return
            sure = max(len(sent), len(text.rstrip("\ufffd")) - max(map(len, stops), default=0))
            yield Piece(text[len(sent) : sure], None)
            sent = text[:sure]


def _metric(name: str, model: str, kind: Any) -> Any:
    family = pb_utils.MetricFamily(name=name, description=name, kind=kind)
    _FAMILIES.append(family)
    return family.Metric(labels={"model": model, "version": "1"})


_FAMILIES: list[Any] = []
"""Metrics die with their family."""


def _input(request: Any, name: str, default: Any) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy()[0]


def _send(sender: Any, asked: Asked, answers: list[Answer]) -> None:
    outputs = {
        "text_output": np.array([answer.text.encode() for answer in answers], np.object_),
        "finish_reason": np.array([str(answer.reason).encode() for answer in answers], np.object_),
        "num_input_tokens": np.array([len(asked.tokens)], np.uint32),
        "num_output_tokens": np.array([answer.count for answer in answers], np.uint32),
    }
    wanted = {"text_output", *asked.told}
    tensors = [pb_utils.Tensor(name, values) for name, values in outputs.items() if name in wanted]
    final = all(answer.reason for answer in answers)
    flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
    sender.send(pb_utils.InferenceResponse(output_tensors=tensors), flags=flags)
    for answer in answers:
        answer.text, answer.count = "", 0


def _fail(sender: Any, message: str, code: Any) -> None:
    response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
