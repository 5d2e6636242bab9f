"""The names under which vLLM publishes what it measures, by itself and inside other servers.

Facts are those of vLLM 0.33, with the older names of what was renamed.

Rules:
- Ray publishes the same metrics under a prefix of its own.
- The time per output token was the time between tokens before 0.11, and is a mean for each request since then.
"""

from __future__ import annotations

from backends.metrics import Counted, Finish, Metric, MetricsTable, Outcomes, Timing

FINISHED = {
    "stop": Finish.STOP,
    "repetition": Finish.STOP,
    "length": Finish.LENGTH,
    "abort": Finish.ABORT,
    "error": Finish.ERROR,
}
"""vLLM's finish reasons. `repetition` is an end that the client asked for."""


def table(prefix: str = "vllm:") -> MetricsTable:
    """Return what vLLM measures, under names with this prefix."""

    def counter(name: str, versions: str) -> Metric:
        return Metric(f"{prefix}{name}_total", versions)

    def histogram(name: str, versions: str) -> tuple[Metric, ...]:
        return (Metric(prefix + name, versions),)

    return MetricsTable(
        counts={
            Counted.PROMPT_TOKENS: (counter("prompt_tokens", "all"),),
            Counted.PROMPT_TOKENS_CACHED: (
                counter("prompt_tokens_cached", "0.32"),
                counter("prefix_cache_hits", "since 0.10, without caches outside of it"),
                counter("gpu_prefix_cache_hits", "0.8, 0.9"),
            ),
            Counted.GENERATION_TOKENS: (counter("generation_tokens", "all"),),
            Counted.DRAFTED_TOKENS: (counter("spec_decode_num_draft_tokens", "all, where it drafts"),),
            Counted.ACCEPTED_TOKENS: (counter("spec_decode_num_accepted_tokens", "all, where it drafts"),),
            Counted.PREEMPTIONS: (counter("num_preemptions", "all"),),
        },
        finished=(
            Outcomes(prefix + "request_success_total", "all", "finished_reason", FINISHED),
            Outcomes(prefix + "admission_rejections_total", "0.32", other=Finish.REJECTED),
        ),
        timings={
            Timing.FIRST_TOKEN: histogram("time_to_first_token_seconds", "all"),
            Timing.BETWEEN_TOKENS: (
                *histogram("inter_token_latency_seconds", "since 0.11"),
                *histogram("time_per_output_token_seconds", "before"),
            ),
            Timing.PER_TOKEN: histogram("request_time_per_output_token_seconds", "since 0.11"),
            Timing.REQUEST: histogram("e2e_request_latency_seconds", "all"),
            Timing.QUEUE: histogram("request_queue_time_seconds", "all"),
        },
    )
