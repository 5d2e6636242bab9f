"""The classes of priority: their names and their order.

Rules:
- A closed set. Configs, requests and metrics name a class; everything that compares them uses its number.
"""

from __future__ import annotations

from typing import Final, Literal

Priority = Literal["high", "normal", "low", "batch", "background"]

CLASSES: Final = ("high", "normal", "low", "batch", "background")
"""The names of the classes, the best first. Their places in this list are their numbers."""
NORMAL: Final = 1
"""The number of the class of whoever says nothing."""
BACKGROUND: Final = 4
"""The number of the class that never rises: it is served where nobody else waits."""
NUMBERS: Final = {name: number for number, name in enumerate(CLASSES)}
