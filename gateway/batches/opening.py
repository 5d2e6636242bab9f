"""Make the files and batches of a store, and only then import what databases take."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.batches.sending import Send
from gateway.config.batches import Batches
from gateway.telemetry.of_batches import BatchMetrics

if TYPE_CHECKING:
    from gateway.batches.service import Service
    from gateway.store.store import Store

_SERVICE: Final = "gateway.batches.service"


def service_of(
    store: Store,
    send: Send,
    metrics: BatchMetrics,
    settings: Callable[[], tuple[Batches, int]],
    clock: Callable[[], float] = time.time,
) -> Service:
    """Return the files and batches of a store, and the runner that works on them. Arguments are as the runner's."""
    found: Service = importlib.import_module(_SERVICE).Service(store, send, metrics, settings, clock)
    return found
