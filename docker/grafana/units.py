"""Numbers with their units, in few characters, as Grafana shows them."""

from __future__ import annotations

from typing import Final

_SECONDS: Final = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SUFFIXES: Final = {"reqps": " req/s", "tok/s": " tok/s", "celsius": " °C", "watt": " W"}


def shown(value: float, unit: str) -> str:
    """Return a number in Grafana's unit of this name; a unit of no known name is left out."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        for size, name in _SECONDS:
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return "0 s"
    if unit == "bytes":
        return _scaled(value, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))
    if unit == "binBps":
        return shown(value, "bytes") + "/s"
    return _scaled(value, 1000.0, ("", "K", "Mil", "Bil")).rstrip() + _SUFFIXES.get(unit, "")


def _scaled(value: float, base: float, names: tuple[str, ...]) -> str:
    for name in names[:-1]:
        if abs(value) < base:
            return f"{value:.3g} {name}"
        value /= base
    return f"{value:.3g} {names[-1]}"
