"""Amounts of memory by device, and the budget that launched engines share.

Rules:
- Amounts are bytes by the name of a device: `ram`, or the id of a GPU such as `nvidia0`. `ENGINES` counts engines.
- An engine's need that nobody knows is not zero: such an engine runs only where no other does that could be in its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from backends.sizing.need import shown

Amounts = Mapping[str, int]
"""What is needed, held or free of each device. What is not named is not needed."""

RAM: Final = "ram"
ENGINES: Final = "engines"
"""The device that counts the engines themselves, where only so many may run at once."""


class Shortage(NamedTuple):
    """What is missing of one device."""

    device: str
    needed: int
    there: int
    """How much there is for it."""

    def __str__(self) -> str:
        """Return it in words, with the arithmetic."""
        if self.device == ENGINES:
            return f"{self.there} engines may run at once"
        what = "RAM" if self.device == RAM else f"memory of {self.device}"
        return f"it needs {in_words(self.needed)} of {what}, and there are {in_words(max(0, self.there))}"


def shortages(needed: Amounts, free: Amounts) -> list[Shortage]:
    """Return what is missing for an engine. A device that `free` does not name has no limit."""
    return [
        Shortage(device, amount, free[device])
        for device, amount in needed.items()
        if device in free and amount > free[device]
    ]


def less(free: Amounts, taken: Iterable[Amounts]) -> dict[str, int]:
    """Return what is left of each device that has a limit."""
    left = dict(free)
    for amounts in taken:
        for device, amount in amounts.items():
            if device in left:
                left[device] -= amount
    return left


def more(free: Amounts, given: Iterable[Amounts]) -> dict[str, int]:
    """Return what each device that has a limit has with these amounts given back."""
    return less(free, ({device: -amount for device, amount in amounts.items()} for amounts in given))


def change(before: Amounts, after: Amounts) -> dict[str, int]:
    """Return how much more is taken of each device after a change than before; below zero where it is less."""
    return {device: after.get(device, 0) - before.get(device, 0) for device in {**before, **after}}


def most(one: Amounts, other: Amounts) -> dict[str, int]:
    """Return the larger amount of each device."""
    return {device: max(one.get(device, 0), other.get(device, 0)) for device in {**one, **other}}


def in_words(amount: int) -> str:
    """Return bytes as people read them."""
    return shown(amount, "bytes")
