"""`concurrency: auto`: as many slots as the engines of a model have, whatever is known of them."""

from __future__ import annotations

from random import Random

import pytest

from backends.base import Health
from backends.engines.llama_cpp_python.engine import LlamaCppPython
from backends.engines.openai import OpenAI
from gateway.admission.gate import UNLIMITED, Gate
from gateway.config.admission import Admission
from gateway.fleet.backend import Backend
from gateway.fleet.breaker import Breaker
from gateway.routing.slots import Following, slots_of
from gateway.telemetry.metrics import Metrics


def backend(told: float | None = None, launched: int | None = None, health: Health = Health.READY) -> Backend:
    found = Backend("b", OpenAI(), Metrics("0"), Breaker(Random(1)))
    found.locate("http://127.0.0.1:1")
    found.health = health
    found.slots.launched = launched
    if told is not None:
        found.load.take({"slots": (told, 0.0)}, (), 0, 0.0)
    return found


@pytest.mark.parametrize(
    ("backends", "slots"),
    [
        ([backend(4), backend(8)], 12),
        ([backend(4), backend(launched=16)], 20),
        ([backend(4, launched=16)], 4),
        ([backend(4), backend()], None),
        ([backend()], None),
        ([], None),
        ([backend(4), backend(8, health=Health.DOWN)], 4),
        ([backend(4), backend(health=Health.DOWN)], 4),
        ([backend(4, health=Health.LOADING), backend(8, health=Health.DOWN)], 12),
        ([backend(0)], None),
    ],
)
def test_the_slots_of_usable_backends_are_added_up(backends: list[Backend], slots: int | None) -> None:
    assert slots_of(backends, 1.0) == slots


def test_an_engine_that_computes_one_request_at_a_time_has_one_slot() -> None:
    one = backend()
    one.change_engine(LlamaCppPython())
    assert slots_of([one], 0.0) == 1


def test_a_busy_engine_that_is_slow_to_tell_keeps_its_slots_until_it_moves() -> None:
    one = backend(4)
    assert slots_of([one], 1.0) == 4
    assert slots_of([one], 1000.0) == 4, "the signal is stale, the slots are not"
    one.relocate("http://127.0.0.1:2")
    assert slots_of([one], 1000.0) is None


def test_a_gate_follows_and_each_process_has_its_part() -> None:
    one, gate = backend(), Gate(UNLIMITED, 5)
    following = Following(gate, Admission(), (one,), 3)
    following.follow(0.0)
    assert gate.slots == UNLIMITED
    for told, slots in ((9, 3), (10, 4), (2, 1)):
        one.load.take({"slots": (float(told), 0.0)}, (), 0, 0.0)
        following.follow(0.0)
        assert gate.slots == slots
