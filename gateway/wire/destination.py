"""Where an attempt is sent to, as far as the relay has to know it."""

from __future__ import annotations

from typing import Protocol

from backends.base import Engine
from backends.dialect.parameters import Parameters
from backends.surfaces.limits import Native
from gateway.telemetry.cells import TargetMetrics
from gateway.wire.clocks import Clocks
from gateway.wire.quota import Quota
from gateway.wire.upstream import Upstream


class TargetBackend(Protocol):
    """The backend that an attempt is sent to."""

    @property
    def engine(self) -> Engine: ...
    @property
    def native(self) -> Native: ...
    @property
    def upstream(self) -> Upstream | None: ...
    @property
    def quota(self) -> Quota | None: ...


class Destination(Protocol):
    """The target of an attempt: a backend, its name for the model, its time limits, metrics and rules for requests."""

    @property
    def backend(self) -> TargetBackend: ...
    @property
    def model(self) -> str: ...
    @property
    def clocks(self) -> Clocks: ...
    @property
    def metrics(self) -> TargetMetrics: ...
    @property
    def parameters(self) -> Parameters | None: ...
