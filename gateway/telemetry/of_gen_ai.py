"""Metrics by the names of OpenTelemetry's semantic conventions for GenAI, beside the gateway's own.

Rules:
- Only with `server.metrics.gen_ai`. Names are the conventions' in Prometheus' spelling: dots are underscores, and the
  unit stands at the end. Buckets are those that the conventions recommend.
- The gateway is a client of its engines: an attempt is an operation, whose provider is the kind of engine. To its own
  clients it is a server.
- Tokens are told only where the engine has counted them. An `error_type` is from a closed set: a kind of failure, or an
  outcome.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import Final

from backends.base import Operation
from gateway.telemetry.attempt import Counted
from gateway.telemetry.cells import NONE
from gateway.telemetry.registry import Families

_SECOND: Final = 1e9
_DURATION: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS: Final = tuple(4**power for power in range(14))
_FIRST_TOKEN: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_PER_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

OPERATIONS: Final = {
    Operation.CHAT: "chat",
    Operation.RESPONSES: "chat",
    Operation.MESSAGES: "chat",
    Operation.COMPLETIONS: "text_completion",
    Operation.INFILL: "text_completion",
    Operation.EMBEDDINGS: "embeddings",
}
"""Operations by the conventions' names; the others go by the gateway's own."""


class GenAiMetrics:
    """The conventions' histograms."""

    def __init__(self, families: Families) -> None:
        add = families.topic("By OpenTelemetry's names (with `server.metrics.gen_ai`)")
        where = "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"
        self.on = False
        """Whether the config asks for them."""
        self.operation = add.histogram(
            "gen_ai_client_operation_duration_seconds",
            "How long an engine took for an attempt, from the request being sent to the end of the answer.",
            (*where, "error_type"),
            _DURATION,
        )
        self.tokens = add.histogram(
            "gen_ai_client_token_usage",
            "Tokens of a prompt (`input`) or of an answer (`output`), where the engine counts them.",
            (*where, "gen_ai_token_type"),
            _TOKENS,
        )
        self.request = add.histogram(
            "gen_ai_server_request_duration_seconds",
            "How long the gateway took for a request, from its last byte to the last byte of the answer.",
            (*where, "error_type"),
            _DURATION,
        )
        self.first_token = add.histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request's last byte to the first content of a stream.",
            where,
            _FIRST_TOKEN,
        )
        self.per_token = add.histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Per token after the first one, of streams that are complete.",
            where,
            _PER_TOKEN,
        )

    def attempted(self, names: tuple[str, str, str], attempt: Counted, first_token: float) -> None:
        """Count an attempt that was sent, and has just ended.

        `names` are those of the operation, the kind of engine and the model; `first_token` is after how many seconds
        the first content of a stream came.
        """
        now, is_complete, usage = perf_counter_ns(), attempt.result == "ok", attempt.usage
        error = "" if is_complete else attempt.result
        self.operation.cell(*names, error).observe((now - attempt.sent_at) / _SECOND)
        if usage is not None:
            self.tokens.cell(*names, "input").observe(usage.input)
            self.tokens.cell(*names, "output").observe(usage.output)
        if attempt.first_token_at:
            self.first_token.cell(*names).observe(first_token)
            if is_complete and usage is not None and usage.output > 1:
                spent = (now - attempt.first_token_at) / _SECOND
                self.per_token.cell(*names).observe(spent / (usage.output - 1))

    def finished(self, names: tuple[str, str, str], outcome: str, seconds: float) -> None:
        """Count a request that has ended; `names` as above, as far as they were known."""
        known = tuple("" if name == NONE else name for name in names)
        self.request.cell(*known, "" if outcome == "ok" else outcome).observe(seconds)
