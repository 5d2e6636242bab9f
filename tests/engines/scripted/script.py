"""What a scripted model says to a prompt: the servers of this folder have it in place of a model on a GPU.

Rules:
- It runs in the engines' own environments, so it imports nothing but the standard library.
- A prompt may hold its own instructions, the last of which count: `@{"say": "a b", "pace": 0.05}@`, with the fields of
  `Line`. Without any it answers what the conformance checks ask, and everything else with `PLAIN`.
- Tool calls have the form of Qwen's models.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass

PLAIN = "This gateway is one OpenAI-compatible URL in front of many engines, each with limits of its own."
FILLER = " and so on"
"""What is said again and again where an answer must not end."""

_INSTRUCTIONS = re.compile(r"@(\{.*?\})@", re.DOTALL)


@dataclass(frozen=True)
class Line:
    """One answer: its text, how fast it comes, and what goes wrong with it."""

    say: str = ""
    think: str = ""
    """What is thought before, between tags."""
    calls: tuple[tuple[str, dict[str, object]], ...] = ()
    """The name and the arguments of tools that are called after the text."""
    pace: float = 0.001
    """Seconds between tokens."""
    wait: float = 0.0
    """Seconds before the first token."""
    fail: int = -1
    """The number of tokens after which the engine fails; below 0 never."""
    status: int = 500
    """The HTTP status of that failure, for engines that choose one."""
    words: str = "the script says so"
    stall: int = -1
    """The number of tokens after which nothing more is said; below 0 never."""
    ends: bool = True
    """Whether it comes to an end by itself; else only a limit ends it."""
    echo: bool = False
    """Whether it says the prompt again instead of `say`."""

    def text(self, prompt: str) -> str:
        """Return all that it says, the tool calls written out."""
        if self.echo:
            # Said as they are, the tokens that mark the messages would end the answer.
            return prompt.replace("<|", "<").replace("|>", ">")
        parts = [f"<think>\n{self.think}\n</think>\n\n"] if self.think else []
        parts.append(self.say)
        for name, arguments in self.calls:
            call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
            parts.append(f"<tool_call>\n{call}\n</tool_call>\n")
        return "".join(parts).rstrip("\n") or PLAIN


_KNOWN: tuple[tuple[str, Line], ...] = (
    ("Count to one hundred", Line(" ".join(str(number) for number in range(1, 101)), pace=0.02)),
    ("Name an engine, as JSON", Line('{"engine": "ollama"}')),
    ("Think, then answer", Line("A route is a rule.", think="The user asks for one line.")),
    ("Say 你好", Line("你好, ñandú and 🚀.")),
)
"""Answers to what the conformance checks ask, by words of the last question."""
_LAST = 300
"""How many characters at the end of a prompt count as its last question."""


def line(prompt: str) -> Line:
    """Return what is said to this prompt."""
    found = _INSTRUCTIONS.findall(prompt)
    if found:
        given = json.loads(found[-1])
        given["calls"] = tuple((name, arguments) for name, arguments in given.get("calls", ()))
        return dataclasses.replace(Line(), **given)
    if "Which port does Ollama use?" in prompt and "11434" not in prompt:
        return Line(calls=(("get_port", {"engine": "ollama"}),))
    tail = prompt[-_LAST:]
    return next((said for words, said in _KNOWN if words in tail), Line(PLAIN))
