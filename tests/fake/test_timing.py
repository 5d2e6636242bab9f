"""When things are sent, read off the plan of an answer: no clock is involved."""

import asyncio
import json
import math
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

import pytest

from gateway.fake.answers import CHAT, understand
from gateway.fake.engine import FakeEngine
from gateway.fake.plan import plan
from gateway.fake.script import Behaviour
from gateway.fake.steps import Step
from tests.fake.raw import ask, chat


def planned(body: Any = None, **behaviour: Any) -> Iterator[Step]:
    asked = understand(CHAT, json.dumps(body or chat()).encode())
    return plan(Behaviour(**behaviour), asked, "m")


def waits(**behaviour: Any) -> list[float]:
    return [step.after for step in planned(**behaviour)]


def test_without_any_wait_an_answer_is_one_write() -> None:
    (step,) = planned()
    assert (step.after, step.events, step.tokens) == (0, 7, 4)


def test_first_token_and_gap() -> None:
    assert waits(first_token=2, gap=0.5) == [2, 0.5, 0.5, 0.5]


def test_tokens_per_second() -> None:
    assert waits(rate=4) == [0, 0.25, 0.25, 0.25]


def test_a_long_prompt_takes_longer() -> None:
    assert waits(first_token=1, prefill=0.25) == [1 + 5 * 0.25]


def test_an_answer_in_one_piece_takes_as_long_as_its_tokens() -> None:
    (step,) = planned(chat(stream=False), first_token=1, gap=0.5)
    assert step.after == 1 + 3 * 0.5


def test_an_early_head_does_not_wait() -> None:
    head, first = planned(first_token=1, http={"early_headers": True})
    assert (head.after, first.after) == (0, 1)
    assert head.data.endswith(b"\r\n\r\n") and head.events == 0


def test_choices_come_together() -> None:
    steps = list(planned(chat(n=2), gap=1))
    assert [(step.after, step.tokens) for step in steps] == [(0, 2), (1, 2), (1, 2), (1, 2)]


def test_silence_for_ever_is_never_due() -> None:
    steps = list(planned(faults=[{"at": "event 2", "do": "hang"}]))
    assert [math.isinf(step.after) for step in steps] == [False, True, False]
    assert steps[0].events == 2


def test_comments_are_paced() -> None:
    steps = planned(faults=[{"at": "event 1", "do": "comments", "every": 3}])
    assert [step.after for step in islice(steps, 4)] == [0, 3, 3, 3]


def test_a_drip_starts_where_it_is_told() -> None:
    steps = list(planned(faults=[{"at": "headers", "do": "drip", "every": 0.5}]))
    assert steps[0].data.endswith(b"\r\n\r\n")
    assert {(step.after, len(step.data)) for step in steps[1:]} == {(0.5, 1)}


@pytest.mark.parametrize("size", [1, 7, 100])
def test_split_writes_are_never_larger(size: int) -> None:
    steps = list(planned(http={"split": size}))
    assert max(len(step.data) for step in steps) == size
    assert all(step.after > 0 for step in steps if step.data)


def test_errors_take_no_time_to_generate() -> None:
    (step,) = planned(gap=1, prefill=1, reply={"status": 503})
    assert step.after == 0


@pytest.mark.parametrize("seed", [0, 7])
async def test_jitter_is_the_same_on_every_run(seed: int) -> None:
    def factors(number: int) -> list[float]:
        uniform = Random(f"{seed} {number}").uniform
        return [uniform(0.5, 1.5) for _ in range(3)]

    async with FakeEngine(seed=seed, defaults={"gap": 0.004, "jitter": 0.5}) as engine:
        seen: list[float] = []
        loop_wait = _recorded(engine, seen)
        await ask(engine, chat())
        await ask(engine, chat())
        loop_wait()
    assert seen == pytest.approx([0.004 * factor for number in (1, 2) for factor in factors(number)])
    assert len(set(seen)) == 6


def _recorded(engine: FakeEngine, seen: list[float]) -> Any:
    """Note the waits that the engine asks the event loop for; returns what undoes it."""
    loop = asyncio.get_running_loop()
    ordinary = loop.call_later

    def call_later(wait: float, call: Any, *arguments: Any, **more: Any) -> Any:
        if getattr(call, "__name__", "") == "_tick":
            seen.append(wait)
        return ordinary(wait, call, *arguments, **more)

    loop.call_later = call_later  # type: ignore[assignment]
    return lambda: setattr(loop, "call_later", ordinary)


def test_the_plan_is_lazy_where_it_has_no_end() -> None:
    steps = planned(endless=True, gap=1)
    assert [step.tokens for step in islice(steps, 50)] == [1] * 50
