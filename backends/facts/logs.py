"""Read the log of an engine written in Python: how severe a line is, and why the process died.

Rules:
- Only the patterns here and in the engines' own tables depend on wording. If a version changes its words, the reason
  becomes less specific; nothing else breaks.
- An engine's own patterns are tried first, then those of what such engines have in common (torch, Hugging Face's hub,
  argparse), then the last exception that is not merely the consequence of another one.
- Of several lines that match, the last one counts: what stands before it was a warning, or another attempt.
- A reason is one line, without the prefix of its log line.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from backends.dialect.errors import readable

Crashes = Sequence[tuple[re.Pattern[str], str]]
"""Patterns and the reasons they stand for, with the pattern's groups as `{0}`, `{1}`; the most specific first."""

PORT_TAKEN = "its port was taken by another program"

SHARED: Crashes = (
    (re.compile(r"address already in use", re.IGNORECASE), PORT_TAKEN),
    (re.compile(r"(CUDA out of memory\. Tried to allocate [\d.]+ \w+)"), "{0}: the GPU's memory is full"),
    (re.compile(r"CUDA (?:error: )?out of memory"), "the GPU's memory is full"),
    (
        re.compile(r"(?:Cannot access|trying to access a) gated repo"),
        "the model needs a licence accepted: set HF_TOKEN",
    ),
    (
        re.compile(r"(\S+) is not a local folder and is not a valid model identifier"),
        "there is no model {0}, neither as a folder nor on the Hugging Face hub",
    ),
    (
        re.compile(r"Repository Not Found for url: https?://[^/]+/(?:api/models/)?([^/\s]+/[^/\s]+)"),
        "there is no model {0} on the Hugging Face hub",
    ),
    (re.compile(r"Repo id must .*: '([^']+)'"), "there is no model {0}: no such folder"),
    (
        re.compile(r"couldn't connect to '?https://huggingface\.co|LocalEntryNotFoundError"),
        "cannot download the model: the Hugging Face hub cannot be reached",
    ),
    (re.compile(r"No space left on device"), "no space is left on its disk"),
    (re.compile(r"(?:No CUDA GPUs are available|Found no NVIDIA driver)"), "it finds no GPU"),
    # pydantic's errors have several lines; the first one carries no information.
    (re.compile(r"^(?:\(.*?\) )?\s*Value error, (.+?)(?: \[type=|$)"), "{0}"),
    (re.compile(r"error: (unrecognized arguments: .+|argument .+: .+)"), "{0}"),
    (re.compile(r"Error: (No such (?:option|command).+|Invalid value for .+)"), "{0}"),
    (re.compile(r"No module named '?([\w.]+)"), "the Python package {0} is not installed there"),
)

_EXCEPTION = re.compile(r"(?:^|[\s\]])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): \S.*)")
# Printed by a process because another one died, or by Python while it exits.
_CONSEQUENCE = re.compile(
    r"root cause above|initialization failed|EngineDeadError|sigquit|BrokenPipeError|EOFError|CancelledError"
    r"|ConnectionResetError|died unexpectedly|ChildProcessError",
    re.IGNORECASE,
)
# What its resource tracker found, with the line of code that warns of it.
_OF_PYTHON = re.compile(r"resource_tracker|^\s*(?:warnings\.warn|_warnings\.warn)\(")
_LEVEL = re.compile(r"\b(CRITICAL|FATAL|ERROR|WARNING|WARN|INFO|DEBUG)\b|\[([EWIVDF])\]")
_LEVELS = {
    "CRITICAL": logging.ERROR,
    "FATAL": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "WARN": logging.WARNING,
    "DEBUG": logging.DEBUG,
    "F": logging.ERROR,
    "E": logging.ERROR,
    "W": logging.WARNING,
    "V": logging.DEBUG,
    "D": logging.DEBUG,
}
_PREFIX = 100
"""The characters at the beginning of a line that may contain its level."""


def level(line: str) -> int:
    """Return the severity of a line by the word in its prefix, as a level of `logging`; INFO without one."""
    found = _LEVEL.search(line, 0, _PREFIX)
    return _LEVELS.get(found[1] or found[2], logging.INFO) if found else logging.INFO


def crash_reason(log: Sequence[str], own: Crashes = (), last: Crashes = ()) -> str | None:
    """Return why the process died, from the last lines it printed; None if they do not say.

    `own` are the engine's patterns of reasons, `last` those of mere consequences, for where no reason is found.
    """
    known = _matched(log, (*own, *SHARED))
    if known is not None:
        return known
    raised = [
        found[1] for line in log if (found := _EXCEPTION.search(line)) and not _CONSEQUENCE.search(line)
    ]
    return readable(raised[-1]) if raised else _matched(log, last)


def _matched(log: Sequence[str], crashes: Crashes) -> str | None:
    """Return the reason of the first pattern that is found in a line, in the last such line."""
    for pattern, words in crashes:
        for line in reversed(log):
            found = pattern.search(line)
            if found is not None:
                return readable(words.format(*found.groups()))
    return None


def says_something(line: str) -> bool:
    """Return whether a last line may tell why a process died: not what Python prints of itself while it exits."""
    return bool(line.strip()) and not _OF_PYTHON.search(line)
