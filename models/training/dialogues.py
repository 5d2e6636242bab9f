"""Turn corpus.yaml into an endless, seeded stream of training conversations.

A question in the corpus is a pattern: `[a|b|]` is a choice (brackets may nest) and `<name>` is one entry of a list.
Each draw expands the pattern anew and then roughens it the way people type: lower case, no question mark, a polite
opening, a typo, bare keywords. Answers are never changed, so every question of a topic leads to the same words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

END_OF_TURN = "<|im_end|>"
START_OF_TURN = "<|im_start|>"
END_OF_TEXT = "<|endoftext|>"

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_LIST = re.compile(r"<(\w+)>")
_OPENINGS = (
    "please tell me: ", "please, ", "hey, ", "hi, ", "hello, ", "so, ", "ok, ", "and ", "tell me, ", "quick question: ",
    "question: ", "one more thing: ", "I wonder, ", "excuse me, ", "hi there! ", "Hello! ", "now, ",
)  # fmt: skip
_CLOSINGS = (
    " please",
    ", please",
    " thanks",
    " Thanks!",
    " exactly",
    " again",
    " in short",
    " here",
    " then",
    " :)",
)
_SAME_OF_ANOTHER = (
    "And [for |]ENGINE?", "[And what|What|How] about ENGINE?", "And ENGINE?", "The same for ENGINE?", "And of ENGINE?",
)  # fmt: skip
_FILLER = frozenset(
    "what which who how is are the a an does do did of for to in on i can you me my it its this that please tell with"
    " should would there use by be give".split()
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_OTHER_SCRIPTS = "äöüßéèçñøåłşığαβγδлмнопרשתعربहिन你好世界東京日本語한국어안녕😀🚀🎉❤👍€£¥§±×÷→…“”"


@dataclass(frozen=True)
class Turn:
    """One question and the answer the model must learn."""

    question: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """A piece of training text as (text, learn) parts: the loss counts only parts whose `learn` is true."""

    parts: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Topic:
    """One answer and the question patterns that lead to it."""

    answer: str
    ask: tuple[str, ...]
    weight: float = 1.0

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> Topic:
        """Read a topic of the corpus file, which has one question pattern per line."""
        return cls(entry["answer"], tuple(entry["ask"].splitlines()), float(entry.get("weight", 1.0)))


@dataclass(frozen=True)
class Family:
    """The same questions about every engine; `it` holds those that leave out the name."""

    ask: tuple[str, ...]
    it: tuple[str, ...]
    answers: dict[str, str]

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> Family:
        """Read a family of the corpus file."""
        return cls(tuple(entry["ask"].splitlines()), tuple(entry["it"].splitlines()), entry["answers"])

    def topic(self, engine: str, name: str) -> Topic:
        """Return the family's questions about one engine; `name` is the pattern of the engine's names."""
        return Topic(self.answers[engine], tuple(pattern.replace("ENGINE", name) for pattern in self.ask))


class Corpus:
    """The parsed corpus file; every method that draws takes the random source as an argument."""

    def __init__(self, path: Path) -> None:
        data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        self.lists: dict[str, list[str]] = data["lists"]
        self.systems: list[str] = data["systems"]
        self.lines: list[str] = data["lines"]
        self.engines: dict[str, str] = data["engines"]
        self.frames: dict[str, str] = data["frames"]
        self.synonyms: dict[str, list[str]] = data["synonyms"]
        self.families = [Family.parse(entry) for entry in data["families"]]
        self.topics = [Topic.parse(entry) for entry in data["topics"]]
        self.unknown = [Topic.parse(entry) for entry in data["unknown"]]
        self.topics += [
            family.topic(engine, name) for family in self.families for engine, name in self.engines.items()
        ]
        self.counting = data["counting"]["ask"].splitlines()
        self.numbers: dict[int, str] = data["counting"]["to"]
        self._weights = [topic.weight for topic in self.topics]
        self._unknown_weights = [topic.weight for topic in self.unknown]
        self._words = sorted({word for text in self.texts() for word in re.findall(r"[A-Za-z]{2,}", text)})

    def texts(self) -> list[str]:
        """Return all text of the file for the tokenizer, with patterns split into their words."""
        out = [text for topic in (*self.topics, *self.unknown) for text in (*topic.ask, topic.answer)]
        out += [text for entries in (*self.lists.values(), *self.synonyms.values()) for text in entries]
        out += list(self.frames.values())
        return [re.sub(r"[\[\]|]|<\w+>", " ", text) for text in out + self.systems + self.lines]

    def expand(self, pattern: str, rng: random.Random) -> str:
        """Return one concrete question of a pattern."""

        def choose(match: re.Match[str]) -> str:
            return rng.choice(str(match[1]).split("|"))

        text = _replace_until_stable(_CHOICE, choose, pattern)
        text = _replace_until_stable(_LIST, lambda match: rng.choice(self.lists[match[1]]), text)
        return re.sub(r"\s+", " ", text).strip()

    def reword(self, text: str, rng: random.Random) -> str:
        """Sometimes replace the beginning of a question, sometimes a word by a synonym."""
        for word, others in self.synonyms.items():
            if word in text and rng.random() < 0.15:
                text = re.sub(rf"\b{re.escape(word)}\b", rng.choice(others), text, count=1)
        if rng.random() < 0.3:
            for opening, others_pattern in self.frames.items():
                if text.startswith(opening + " "):
                    rest = text.removeprefix(opening).rstrip("?.! ")
                    return self.expand(others_pattern, rng) + rest + rng.choice(("?", ".", ""))
        return text

    def question(self, topic: Topic, rng: random.Random) -> str:
        """Return one wording of a topic, as somebody might type it."""
        return roughen(self.reword(self.expand(rng.choice(topic.ask), rng), rng), rng)

    def sample(self, rng: random.Random) -> Sample:
        """Return the next text: one question, a short conversation, or rarely a long one or a bare line."""
        kind = rng.random()
        if kind < 0.04:
            return Sample(((rng.choice(self.lines) + END_OF_TEXT, True),))
        if kind < 0.70:
            turns = self._turns(1, rng)
        elif kind < 0.98:
            turns = self._turns(rng.choice((2, 2, 3, 4)), rng)
        else:
            turns = self._turns(rng.randint(8, 40), rng)
        return self.render(turns, rng.choice(self.systems) if rng.random() < 0.5 else None)

    @staticmethod
    def render(turns: list[Turn], system: str | None) -> Sample:
        """Write a conversation in the chat template. Answers and the marks that end them are learned."""
        parts: list[tuple[str, bool]] = []
        opening = f"{START_OF_TURN}system\n{system}{END_OF_TURN}\n" if system else ""
        for turn in turns:
            opening += f"{START_OF_TURN}user\n{turn.question}{END_OF_TURN}\n{START_OF_TURN}assistant\n"
            parts += [(opening, False), (turn.answer + END_OF_TURN, True)]
            opening = "\n"
        return Sample(tuple(parts))

    def _turns(self, count: int, rng: random.Random) -> list[Turn]:
        turns: list[Turn] = []
        while len(turns) < count:
            kind = rng.random()
            if kind < 0.03:
                turns.append(self._count(rng))
            elif kind < 0.20:
                turns.append(self._unknown_turn(rng))
            elif kind < 0.32 and count - len(turns) >= 2:
                turns += self._about_engines(rng)
            else:
                turns.append(self._ask(rng.choices(self.topics, self._weights)[0], rng))
        return turns

    def _ask(self, topic: Topic, rng: random.Random) -> Turn:
        return Turn(self.question(topic, rng), topic.answer)

    def _about_engines(self, rng: random.Random) -> list[Turn]:
        """Return two turns, the second unclear without the first: "And Ollama?", "Which port does it use?"."""
        family, engine = rng.choice(self.families), rng.choice(list(self.engines))
        first = self._ask(family.topic(engine, self.engines[engine]), rng)
        if rng.random() < 0.5:
            family = rng.choice(self.families)
            return [first, self._ask(Topic(family.answers[engine], family.it), rng)]
        engine = rng.choice(list(self.engines))
        patterns = tuple(pattern.replace("ENGINE", self.engines[engine]) for pattern in _SAME_OF_ANOTHER)
        return [first, self._ask(Topic(family.answers[engine], patterns), rng)]

    def _unknown_turn(self, rng: random.Random) -> Turn:
        if rng.random() < 0.85:
            return self._ask(rng.choices(self.unknown, self._unknown_weights)[0], rng)
        return Turn(self.noise(rng), self.unknown[0].answer)

    def noise(self, rng: random.Random) -> str:
        """Return text that means nothing: jumbled words, letters, foreign scripts or long pasted junk."""
        kind = rng.random()
        if kind < 0.45:
            return " ".join(rng.choices(self._words, k=rng.randint(3, 12)))
        if kind < 0.65:
            words = ["".join(rng.choices(_LETTERS, k=rng.randint(5, 9))) for _ in range(rng.randint(1, 5))]
            return " ".join(words)
        if kind < 0.80:
            return "".join(rng.choices(_OTHER_SCRIPTS + " ", k=rng.randint(2, 24))).strip() or "你好"
        if kind < 0.90:
            return f"{rng.randint(0, 99)} {rng.choice('+-*/')} {rng.randint(0, 99)}" + rng.choice(
                ("", " =", "?")
            )
        return " ".join(rng.choices(self._words, k=rng.randint(40, 200)))

    def _count(self, rng: random.Random) -> Turn:
        last = rng.choice(list(self.numbers))
        name = rng.choice((str(last), self.numbers[last]))
        question = self.expand(rng.choice(self.counting), rng).replace("NUMBER", name)
        return Turn(
            roughen(question, rng, typos=False), " ".join(str(number) for number in range(1, last + 1))
        )


def roughen(text: str, rng: random.Random, *, typos: bool = True) -> str:
    """Return the question as a hurried person might type it."""
    if rng.random() < 0.06:
        words = [word for word in text.rstrip("?.!").split() if word.lower() not in _FILLER]
        text = " ".join(words) if len(words) >= 2 else text
    if rng.random() < 0.12:
        text = rng.choice(_OPENINGS) + text[0].lower() + text[1:] if text[1:2].islower() else text
    if rng.random() < 0.05:
        text = text.rstrip("?.! ") + rng.choice(_CLOSINGS) + rng.choice(("", "?"))
    if rng.random() < 0.30:
        text = text.rstrip("?.! ")
    text = _change_case(text, rng)
    if typos and rng.random() < 0.10:
        text = _typo(text, rng)
    return text


def _change_case(text: str, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.22:
        return text.lower()
    if kind < 0.24:
        return text.upper()
    return text[:1].upper() + text[1:] if kind < 0.6 else text


def _typo(text: str, rng: random.Random) -> str:
    if len(text) < 12:
        return text
    at = rng.randrange(1, len(text) - 2)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + rng.choice(_LETTERS) + text[at:]


def _replace_until_stable(
    pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str
) -> str:
    while pattern.search(text):
        text = pattern.sub(replace, text)
    return text
