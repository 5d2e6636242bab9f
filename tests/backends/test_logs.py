"""The logs of Python engines: levels and reasons of crashes, from real output."""

from __future__ import annotations

import logging
import re

import pytest

from backends.facts import logs


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("(APIServer pid=1) INFO 11-21 10:00:00 [api_server.py:1] Starting vLLM", logging.INFO),
        ("(EngineCore pid=7) WARNING 11-21 10:00:00 [x.py:1] ERROR is only a word here", logging.WARNING),
        ("(EngineCore pid=7) ERROR 11-21 10:00:00 [core.py:9] EngineCore failed to start.", logging.ERROR),
        ("2026-11-21 10:00:00,123 - lmdeploy - ERROR - engine.py:5 - failed", logging.ERROR),
        ("[11/21/2026-10:00:00] [TRT-LLM] [W] Overriding max_seq_len", logging.WARNING),
        ("[11/21/2026-10:00:00] [TRT-LLM] [E] gone", logging.ERROR),
        ("[TensorRT-LLM][DEBUG] blocks", logging.DEBUG),
        ("INFO:     Application startup complete.", logging.INFO),
        ("[2026-11-21 10:00:00 TP0] Load weight begin.", logging.INFO),
        ("Traceback (most recent call last):", logging.INFO),
        ("an ERRORLESS run " * 20, logging.INFO),
        ("." * 200 + " ERROR", logging.INFO),
        ("", logging.INFO),
    ],
)
def test_how_serious_a_line_is(line: str, level: int) -> None:
    assert logs.level(line) == level


TRACE = '  File "/srv/x.py", line 3, in run'


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ([], None),
        (["INFO all is well", TRACE], None),
        (
            ["[Errno 98] error while attempting to bind on address ('::1', 8000): address already in use"],
            "its port was taken by another program",
        ),
        (["OSError: [Errno 98] Address already in use"], "its port was taken by another program"),
        (
            [
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of"
            ],
            "CUDA out of memory. Tried to allocate 1.50 GiB: the GPU's memory is full",
        ),
        (["RuntimeError: CUDA error: out of memory"], "the GPU's memory is full"),
        (
            [
                "OSError: org/none is not a local folder and is not a valid model identifier listed on 'https://hub'"
            ],
            "there is no model org/none, neither as a folder nor on the Hugging Face hub",
        ),
        (
            ["Repository Not Found for url: https://huggingface.co/api/models/org/none/revision/main."],
            "there is no model org/none on the Hugging Face hub",
        ),
        (["Cannot access gated repo for url https://x."], "the model needs a licence accepted: set HF_TOKEN"),
        (
            ["OSError: We couldn't connect to 'https://huggingface.co' to load the files"],
            "cannot download the model: the Hugging Face hub cannot be reached",
        ),
        (["RuntimeError: No CUDA GPUs are available"], "it finds no GPU"),
        (
            ["usage: vllm serve [options]", "vllm: error: unrecognized arguments: --max-mdel-len 5"],
            "unrecognized arguments: --max-mdel-len 5",
        ),
        (
            ["Error: No such option: --set (Possible options: --seed)"],
            "No such option: --set (Possible options: --seed)",
        ),
        (
            ["/opt/bin/python3: No module named sglang"],
            "the Python package sglang is not installed there",
        ),
        (
            ["ModuleNotFoundError: No module named 'torch.x'"],
            "the Python package torch.x is not installed there",
        ),
        (
            [
                "(EngineCore pid=7) ERROR 11-21 [core.py:9] ValueError: the model has no layers",
                "(APIServer pid=1) Traceback (most recent call last):",
                TRACE,
                "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
            ],
            "ValueError: the model has no layers",
        ),
        (
            ["KeyError: 'first'", "During handling of the above exception", "my.own.LoadError: second"],
            "my.own.LoadError: second",
        ),
        (
            [
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
                "  Value error, Invalid repository ID or local directory specified: '/models/none'.",
                "Please verify the following requirements:",
                " [type=value_error, input_value=ArgsKwargs((), {'model': ...}), input_type=ArgsKwargs]",
            ],
            "Invalid repository ID or local directory specified: '/models/none'.",
        ),
        (["asyncio.exceptions.CancelledError: Task x"], None),
    ],
)
def test_why_it_died(log: list[str], reason: str | None) -> None:
    assert logs.crash_reason(log) == reason


def test_an_engines_own_words_come_first_and_stay_one_line() -> None:
    own = ((re.compile(r"too small: (.+)"), "give it {0}"),)
    log = ["CUDA out of memory. Tried to allocate 2.00 GiB", "too small: more\x1b[0m" + "x" * 2000]
    found = logs.crash_reason(log, own)
    assert found is not None and found.startswith("give it more [0m") and len(found) <= 500


@pytest.mark.parametrize("line", ["{0} {} { CUDA out of memory", "\x00" * 5000, "Error: " * 5000])
def test_no_line_makes_it_fail(line: str) -> None:
    logs.level(line)
    assert logs.crash_reason([line]) is None or isinstance(logs.crash_reason([line]), str)
