"""Compile the performance-critical modules with mypyc if the environment has `GATEWAY_COMPILE=1`.

Rules:
- Without the variable the package is pure Python. The same source runs either way.
- Everything else about the package is in pyproject.toml.
"""

import os

from setuptools import setup

COMPILED = [
    "backends/dialect/decoder.py",
    "backends/dialect/members.py",
    "backends/dialect/parameters.py",
    "backends/dialect/prompting.py",
    "backends/dialect/rewrite.py",
    "backends/dialect/stream.py",
    "backends/dialect/usage.py",
    "backends/framing/sse.py",
    "backends/framing/websocket.py",
    "backends/surfaces/anthropic/writer.py",
    "backends/surfaces/bodies.py",
    "backends/surfaces/calls.py",
    "backends/surfaces/codecs.py",
    "backends/surfaces/openai.py",
    "backends/surfaces/responses/writer.py",
    "backends/surfaces/surface.py",
    "backends/surfaces/translation.py",
    "gateway/admission/fair.py",
    "gateway/admission/gate.py",
    "gateway/admission/pace.py",
    "gateway/admission/tickets.py",
    "gateway/admission/waiting.py",
    "gateway/api/endpoint.py",
    "gateway/asked.py",
    "gateway/auth.py",
    "gateway/balance/basic.py",
    "gateway/balance/bound.py",
    "gateway/balance/latency.py",
    "gateway/balance/loaded.py",
    "gateway/balance/prefix.py",
    "gateway/balance/prompt.py",
    "gateway/balance/session.py",
    "gateway/balance/sessions.py",
    "gateway/balance/hedging.py",
    "gateway/dispatch/blame.py",
    "gateway/dispatch/candidates.py",
    "gateway/dispatch/charges.py",
    "gateway/dispatch/dispatcher.py",
    "gateway/dispatch/failures.py",
    "gateway/dispatch/hedge.py",
    "gateway/dispatch/journey.py",
    "gateway/dispatch/quarantine.py",
    "gateway/dispatch/retry.py",
    "gateway/dispatch/shared.py",
    "gateway/fleet/backend.py",
    "gateway/fleet/breaker.py",
    "gateway/fleet/evidence.py",
    "gateway/fleet/lease.py",
    "gateway/fleet/load.py",
    "gateway/fleet/orders.py",
    "gateway/proxies.py",
    "gateway/request.py",
    "gateway/roles.py",
    "gateway/routing/catalog.py",
    "gateway/routing/decision.py",
    "gateway/routing/router.py",
    "gateway/routing/rules.py",
    "gateway/routing/traits.py",
    "gateway/telemetry/accounting.py",
    "gateway/telemetry/cells.py",
    "gateway/telemetry/families.py",
    "gateway/telemetry/percentile.py",
    "gateway/telemetry/timeline.py",
    "gateway/telemetry/trace.py",
    "gateway/wire/answer.py",
    "gateway/wire/chunks.py",
    "gateway/wire/clocks.py",
    "gateway/wire/connection.py",
    "gateway/wire/door.py",
    "gateway/wire/downstream.py",
    "gateway/wire/handshake.py",
    "gateway/wire/heads.py",
    "gateway/wire/heartbeat.py",
    "gateway/wire/context.py",
    "gateway/wire/cors.py",
    "gateway/wire/http1.py",
    "gateway/wire/idle.py",
    "gateway/wire/origins.py",
    "gateway/wire/quota.py",
    "gateway/wire/relay.py",
    "gateway/wire/room.py",
    "gateway/wire/sizes.py",
    "gateway/wire/stall.py",
    "gateway/wire/switching.py",
    "gateway/wire/tee.py",
    "gateway/wire/tls.py",
    "gateway/wire/tunnel.py",
    "gateway/wire/upstream.py",
]
"""The modules that every request runs through. Those with msgspec structs, pydantic models or subclasses of uvicorn's
classes are missing, because mypyc cannot compile them; they take less of the time."""

if os.environ.get("GATEWAY_COMPILE") == "1":
    from mypyc.build import mypycify

    # Tracebacks keep their line numbers at `debug_level="0"`. `-O3` doubled the build time without a measurable gain.
    setup(ext_modules=mypycify(COMPILED, opt_level="2", debug_level="0", group_name="gateway_hot"))
else:
    setup()
