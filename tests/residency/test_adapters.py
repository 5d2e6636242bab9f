"""Where an adapter is loaded, and which one makes room: single cases, and a hundred thousand moments at random."""

from __future__ import annotations

from random import Random

import pytest

from gateway.residency.adapters import Engine, Held, Load, decide


@pytest.mark.parametrize(
    ("engines", "then"),
    [
        ([Engine("a")], Load("a")),
        ([Engine("a", load=3), Engine("b", load=1)], Load("b")),
        ([Engine("a", (Held("x"),)), Engine("b")], None),
        ([Engine("a", (Held("x", moving=True),)), Engine("b")], None),
        ([Engine("a", (Held("y"),), 1), Engine("b", (), 1, load=9)], Load("b")),
        ([Engine("a", (Held("y", used=2), Held("z", used=1)), 2)], Load("a", "z")),
        ([Engine("a", (Held("y", used=2), Held("z", 1, used=1)), 2)], Load("a", "y")),
        ([Engine("a", (Held("y", 1, used=2), Held("z", 1, used=1)), 2)], Load("a", "z")),
        ([Engine("a", (Held("y", used=2),), 1), Engine("b", (Held("z", used=1),), 1)], Load("b", "z")),
        ([Engine("a", (Held("y", moving=True),), 1)], None),
        ([], None),
    ],
)
def test_one_moment(engines: list[Engine], then: Load | None) -> None:
    assert decide("x", engines) == then


def test_never_more_than_the_slots_and_something_can_always_make_room() -> None:
    """Engines as the decisions leave them: loads end when they like, requests come and go at random."""
    rng, names = Random(7), [f"l{number}" for number in range(6)]
    slots = {"a": 1, "b": 2}
    held: dict[str, dict[str, Held]] = {"a": {}, "b": {}}
    for moment in range(100_000):
        name = rng.choice(names)
        engines = [Engine(each, tuple(held[each].values()), slots[each]) for each in slots]
        deed = decide(name, engines)
        there = [each for each in held if name in held[each]]
        assert len(there) <= 1
        if there:
            held[there[0]][name] = Held(name, rng.choice((0, 0, 1)), moment)
        elif deed is None:
            pytest.fail("nothing moves here, so that something can always make room")
        else:
            if deed.unload:
                gone = held[deed.engine].pop(deed.unload)
                assert not gone.requests or all(
                    each.requests for own in held.values() for each in own.values()
                )
            held[deed.engine][name] = Held(name, 0, moment)
        assert all(len(held[each]) <= slots[each] for each in slots)
