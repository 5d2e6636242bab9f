"""The link between processes: what is long comes in parts, between which others get their turns."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Iterator

import pytest

from gateway.link import Link, Message
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.page import CELLS


async def test_a_long_answer_comes_in_parts_and_nobody_waits_for_all_of_it() -> None:
    """Each part is a message of its own, made when its turn comes; the wait begins anew with each."""
    near, far = socket.socketpair()
    ours, theirs = await Link.on(near), await Link.on(far)
    turns, at = 0, list[int]()

    def parts() -> Iterator[list[int]]:
        for number in range(50):
            at.append(turns)
            yield [number, number]

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def on_message(message: Message) -> None:
        assert message["kind"] == "numbers"
        answering.append(asyncio.create_task(theirs.answer_in_parts(message, parts())))

    answering = list[asyncio.Task[None]]()
    listening = [asyncio.create_task(link.listen(on_message)) for link in (ours, theirs)]
    other = asyncio.create_task(others())
    told = await ours.ask_for_parts("numbers")
    assert told == [number for number in range(50) for _ in range(2)]
    assert all(after > before for before, after in itertools.pairwise(at)), (
        "others had their turns in between"
    )
    other.cancel()
    ours._writer.close()
    await asyncio.gather(*listening, *answering)


def test_no_part_of_what_others_are_told_has_many_cells() -> None:
    metrics = Metrics("1")
    for model in range(300):
        metrics.requests.duration.cell(f"m{model}", "b", "e", "-", "ok").observe(1)
    parts = [*metrics.dump_parts()]
    assert max(map(len, parts)) == CELLS and sum(map(len, parts)) == len(metrics.dump()) >= 300


async def test_an_answer_that_stops_coming_is_waited_for_no_longer() -> None:
    near, far = socket.socketpair()
    ours, theirs = await Link.on(near), await Link.on(far)

    def on_message(message: Message) -> None:
        theirs.tell("part", number=message["number"], content=[1])

    listening = [asyncio.create_task(link.listen(on_message)) for link in (ours, theirs)]
    with pytest.raises(TimeoutError):
        await ours.ask_for_parts("numbers", 0.05)
    ours._writer.close()
    await asyncio.gather(*listening)
