"""The demo model answers every question it is said to answer, through the gateway."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.clients.process import Running
from tests.clients.questions import QUESTIONS, Entry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

AT_ONCE = 8


@pytest.fixture(scope="module")
def answers(gateway: Running) -> dict[str, str]:
    """Return what the model says to each question at temperature 0, several asked at once."""

    async def ask_all() -> dict[str, str]:
        places = asyncio.Semaphore(AT_ONCE)

        async def ask(question: str) -> str:
            async with places:
                completion = await client.chat.completions.create(
                    model="demo", messages=[{"role": "user", "content": question}], temperature=0
                )
                return completion.choices[0].message.content or ""

        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0) as client:
            return dict(
                zip(
                    [entry.question for entry in QUESTIONS],
                    await asyncio.gather(*[ask(entry.question) for entry in QUESTIONS]),
                    strict=True,
                )
            )

    return asyncio.run(ask_all())


def test_there_are_enough_questions() -> None:
    assert len({entry.question for entry in QUESTIONS}) == len(QUESTIONS) >= 40
    assert all(all(entry.expected) and entry.expected for entry in QUESTIONS)


@pytest.mark.parametrize("entry", QUESTIONS, ids=lambda entry: entry.question)
def test_question(entry: Entry, answers: dict[str, str]) -> None:
    assert entry.missing_in(answers[entry.question]) == [], answers[entry.question]
