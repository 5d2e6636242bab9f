"""Compiles the hot modules with mypyc where `GATEWAY_COMPILE=1` asks for it. Without it the package is pure Python.

The same source runs either way. Everything else about the package is in pyproject.toml.
"""

import os

from setuptools import setup

COMPILED = [
    "backends/dialect/decoder.py",
    "backends/dialect/stream.py",
    "backends/framing/sse.py",
    "gateway/admission/gate.py",
    "gateway/api/endpoint.py",
    "gateway/balance/basic.py",
    "gateway/dispatch/dispatcher.py",
    "gateway/dispatch/journey.py",
    "gateway/dispatch/retry.py",
    "gateway/fleet/backend.py",
    "gateway/fleet/breaker.py",
    "gateway/fleet/lease.py",
    "gateway/request.py",
    "gateway/telemetry/accounting.py",
    "gateway/telemetry/cells.py",
    "gateway/telemetry/timeline.py",
    "gateway/wire/clocks.py",
    "gateway/wire/connection.py",
    "gateway/wire/door.py",
    "gateway/wire/downstream.py",
    "gateway/wire/heads.py",
    "gateway/wire/heartbeat.py",
    "gateway/wire/http1.py",
    "gateway/wire/relay.py",
    "gateway/wire/upstream.py",
]
"""What a request passes through. Modules with msgspec's structs, pydantic's models or subclasses of uvicorn's classes
cannot be compiled, and are not the hottest."""

if os.environ.get("GATEWAY_COMPILE") == "1":
    from mypyc.build import mypycify

    # Line numbers in tracebacks stay; `-O3` alone makes the C compiler twice as slow for no difference that was seen.
    setup(ext_modules=mypycify(COMPILED, opt_level="2", debug_level="0", group_name="gateway_hot"))
else:
    setup()
