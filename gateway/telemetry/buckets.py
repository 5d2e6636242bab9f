"""The upper bounds of histograms' buckets, in seconds or as ratios.

Rules:
- From 50 microseconds, for the gateway's own work, to half an hour, for answers.
"""

from __future__ import annotations

from typing import Final

DURATION: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Of what takes as long as an answer, or a part of it."""
TOKEN_GAP: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
)
"""Of the time between two tokens."""
OVERHEAD: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)
"""Of the gateway's own work."""
HOP: Final = (0.00005, 0.0002, 0.001, 0.005, 0.02, 0.1, 0.25, 1, 2.5, 10, 30, 120, 600, 1800)
"""Of one hop of a request, whichever: coarse, because there are many of them."""
RATIO: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2, 4, 10)
"""Of something, as a multiple of something like it."""
