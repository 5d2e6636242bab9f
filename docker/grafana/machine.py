"""The dashboard of the machine: the gateway's own processes and config, the GPUs and the host, and who uses them."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard, units

from docker.grafana.page import Row, instance, page
from docker.grafana.panels import BLUE, GREEN, GREY, RED, YELLOW, lines, number, places, states
from docker.grafana.queries import Scope

ALL: Final = Scope()


def machine() -> dashboard.Dashboard:
    """Return the dashboard."""
    return page(
        "gateway-machine",
        "The gateway's own processes and config, the GPUs and the host, and which engines use them.",
        [instance()],
        [_now(), _gpus(), _host(), _engines(), _adapters(), _program()],
    )


def _now() -> Row:
    used, whole = ALL.of("gateway_gpu_memory_used_bytes"), ALL.of("gateway_gpu_memory_total_bytes")
    free, all_of_it = ALL.of("gateway_host_memory_available_bytes"), ALL.of("gateway_host_memory_total_bytes")
    return (
        "Now",
        [
            number(
                "GPUs at work",
                "How much of their time all GPUs computed of late, on average.",
                units.PercentUnit,
                f"avg({ALL.of('gateway_gpu_utilization_ratio')})",
            ),
            number(
                "GPU memory",
                "How much of the fullest GPU's memory is in use. Engines like vLLM take most of it when they start.",
                units.PercentUnit,
                f"max({used} / ({whole} > 0))",
                [(0.97, YELLOW)],
            ),
            number(
                "Hottest GPU",
                "The temperature of the hottest GPU. The objective of the rules is 85 °C.",
                units.Celsius,
                ALL.total("gateway_gpu_temperature_celsius", of="max"),
                [(80, YELLOW), (85, RED)],
            ),
            number(
                "Power",
                "What all GPUs draw together.",
                units.Watt,
                ALL.total("gateway_gpu_power_watts"),
            ),
            number(
                "Processors",
                "How much of their time the machine's processors worked of late.",
                units.PercentUnit,
                ALL.total("gateway_host_cpu_ratio", of="max"),
                [(0.9, YELLOW)],
            ),
            number(
                "Free memory",
                "The share of the machine's memory that programs could still get.",
                units.PercentUnit,
                f"min({free} / ({all_of_it} > 0))",
                [(0, RED), (0.05, YELLOW), (0.1, GREEN)],
            ),
            number(
                "Gateway's CPU",
                "Processor seconds each second, of the process that answers the scrape. At 1 a process is full.",
                units.Short,
                f"max(rate({ALL.of('process_cpu_seconds_total')}[$__rate_interval]))",
                [(0.8, YELLOW), (1, RED)],
            ),
            number(
                "Gateway's memory",
                "Resident memory of the same process.",
                units.BytesIEC,
                f"max({ALL.of('process_resident_memory_bytes')})",
            ),
        ],
    )


def _gpus() -> Row:
    name = "{{gpu}} {{name}}"
    used, whole = ALL.of("gateway_gpu_memory_used_bytes"), ALL.of("gateway_gpu_memory_total_bytes")
    return (
        "GPUs",
        [
            lines(
                "At work",
                "How much of its time each GPU computed of late.",
                units.PercentUnit,
                (ALL.of("gateway_gpu_utilization_ratio"), name),
                top=1,
            ),
            lines(
                "Memory in use",
                "By whomever. Near 100 % an engine that asks for more dies.",
                units.PercentUnit,
                (f"{used} / ({whole} > 0)", name),
                top=1,
            ),
            lines(
                "Memory by backend",
                "What the engines that the gateway launched hold on each GPU, where the driver tells.",
                units.BytesIEC,
                (ALL.of("gateway_gpu_backend_memory_bytes"), "{{backend}} on {{gpu}}"),
                stacked=True,
            ),
            lines(
                "Temperature",
                "A GPU that gets too hot slows itself down. The dashed line is where the alert begins.",
                units.Celsius,
                (ALL.of("gateway_gpu_temperature_celsius"), name),
                objective="gateway:objective:gpu_temperature_celsius",
            ),
            lines(
                "Power",
                "What each GPU draws, and what it may draw.",
                units.Watt,
                (ALL.of("gateway_gpu_power_watts"), name),
                (ALL.of("gateway_gpu_power_limit_watts"), f"{name}, limit"),
            ),
            states(
                "Who uses which GPU",
                "When the engine of which backend had the GPU in use, of those that the gateway launched.",
                (ALL.of("gateway_gpu_backend"), "{{gpu}}: {{backend}}"),
                {"1": ("in use", GREEN)},
            ),
        ],
    )


def _host() -> Row:
    return (
        "Host",
        [
            lines(
                "Memory",
                "The machine's memory, and what programs could still get of it without swapping.",
                units.BytesIEC,
                (ALL.of("gateway_host_memory_available_bytes"), "available, {{instance}}"),
                (ALL.of("gateway_host_memory_total_bytes"), "total, {{instance}}"),
                wide=6,
            ),
            lines(
                "Processors",
                "How much of their time the machine's processors worked of late.",
                units.PercentUnit,
                (ALL.of("gateway_host_cpu_ratio"), "{{instance}}"),
                top=1,
                wide=6,
            ),
            lines(
                "Memory of engines",
                "Resident memory of each launched engine and all that it has started.",
                units.BytesIEC,
                (ALL.of("gateway_engine_memory_bytes"), "{{backend}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Processors of engines",
                "Processor seconds each second, of each launched engine: 4 is four cores at work.",
                units.Short,
                (ALL.rate("gateway_engine_cpu_seconds_total", "backend"), "{{backend}}"),
                stacked=True,
                wide=6,
            ),
        ],
    )


def _engines() -> Row:
    spent = ALL.total("gateway_engine_load_duration_seconds_sum", "backend")
    starts = ALL.total("gateway_engine_load_duration_seconds_count", "backend")
    words = {
        "stopped": GREY,
        "starting": YELLOW,
        "warming": YELLOW,
        "ready": GREEN,
        "sleeping": BLUE,
        "draining": YELLOW,
        "failed": RED,
    }
    return (
        "Launched engines",
        [
            states(
                "States",
                "Where each launched engine is in its life.",
                (ALL.state("gateway_engine_state", "state", [*words], "backend"), "{{backend}}"),
                places(words),
                wide=12,
            ),
            lines(
                "Memory: what engines need, and what they may take",
                "What each engine is taken to need of a device while it runs. The budget is what all of them may take "
                "together now.",
                units.BytesIEC,
                (ALL.total("gateway_engine_memory_need_bytes", "backend, device"), "{{backend}} {{device}}"),
                (ALL.total("gateway_engine_memory_budget_bytes", "device"), "budget {{device}}"),
                wide=12,
            ),
            lines(
                "Starts and stops",
                "Starts that are over, by result, and stops, by reason.",
                units.Short,
                (ALL.total("gateway_engine_loads_total", "backend, result"), "{{backend}}: start {{result}}"),
                (ALL.total("gateway_engine_stops_total", "backend, reason"), "{{backend}}: stop {{reason}}"),
                wide=8,
            ),
            lines(
                "How long starts take",
                "From the start of the process until it takes requests, on average.",
                units.Seconds,
                (f"{spent} / {starts}", "{{backend}}"),
                wide=8,
            ),
            lines(
                "Requests that wait for a start",
                "Requests that wait until an engine has started.",
                units.Short,
                (ALL.total("gateway_engine_requests_waiting", "backend"), "{{backend}}"),
                wide=8,
            ),
        ],
    )


def _adapters() -> Row:
    spent = ALL.total("gateway_adapter_load_duration_seconds_sum", "backend")
    loads = ALL.total("gateway_adapter_load_duration_seconds_count", "backend")
    return (
        "LoRA adapters",
        [
            lines(
                "Adapters that are loaded",
                "How many of the adapters that the config declares each engine has.",
                units.Short,
                (ALL.total("gateway_adapter_loaded", "backend"), "{{backend}}"),
                wide=8,
            ),
            lines(
                "Loads and unloads",
                "Adapters that were to be loaded, by result, and those that were unloaded, by reason.",
                units.Short,
                (ALL.total("gateway_adapter_loads_total", "backend, result"), "{{backend}}: load {{result}}"),
                (
                    ALL.total("gateway_adapter_unloads_total", "backend, reason"),
                    "{{backend}}: unload {{reason}}",
                ),
                wide=8,
            ),
            lines(
                "How long loads take",
                "How long the engine took to load an adapter, on average.",
                units.Seconds,
                (f"{spent} / {loads}", "{{backend}}"),
                wide=8,
            ),
        ],
    )


def _program() -> Row:
    return (
        "The gateway itself",
        [
            lines(
                "Processor",
                "Processor seconds each second, of the process that answers the scrape. At 1 a process is full.",
                units.Short,
                (f"rate({ALL.of('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}"),
                steps=[(0.8, YELLOW), (1, RED)],
                wide=8,
            ),
            lines(
                "Memory",
                "Resident memory of the same process.",
                units.BytesIEC,
                (ALL.of("process_resident_memory_bytes"), "{{instance}}"),
                wide=8,
            ),
            lines(
                "File descriptors",
                "Open ones, of those that may be open: each connection is one.",
                units.PercentUnit,
                (f"{ALL.of('process_open_fds')} / {ALL.of('process_max_fds')}", "{{instance}}"),
                steps=[(0.8, RED)],
                wide=8,
            ),
            lines(
                "Event loop late",
                "The longest of the last delays of something that was due: so long everything stood still, every "
                "stream too. The dashed line is where the alert begins.",
                units.Seconds,
                (ALL.of("gateway_event_loop_lag_seconds"), "{{instance}}"),
                objective="gateway:objective:event_loop_lag_seconds",
            ),
            lines(
                "Connections of clients",
                "Open ones: busy while a request for an engine is served.",
                units.Short,
                (ALL.total("gateway_connections", "state"), "{{state}}"),
                stacked=True,
            ),
            states(
                "Config",
                "Whether the files of the config were right when they were last read. While they are wrong, the config "
                "before is in force.",
                (ALL.of("gateway_config_last_reload_success"), "{{instance}}"),
                {"1": ("in force", GREEN), "0": ("refused", RED)},
                wide=8,
            ),
            lines(
                "Reloads, and the version in force",
                "How often the config was read again, and one line for each version of it that was in force.",
                units.Short,
                (ALL.total("gateway_config_reloads_total", "result"), "reloads: {{result}}"),
                (ALL.total("gateway_config_info", "version"), "config {{version}}"),
                (ALL.total("gateway_build_info", "version"), "gateway {{version}}"),
                wide=24,
            ),
        ],
    )
