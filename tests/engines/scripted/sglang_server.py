"""SGLang's own HTTP server, tokenizer manager and detokenizer, with a scripted model in place of its scheduler.

`python sglang_server.py --model-path MODEL --port N ...`, with the arguments of `sglang serve`, and `serve` before them
if one likes. Written for SGLang 0.5.23; it runs in the environment that `tests/engines/install.py` makes.

Rules:
- The scheduler's process is another, which speaks to the others through the same sockets and messages.
- The scripted scheduler queues, refuses, batches, ends, stops, counts and aborts as SGLang's own does: whole answers
  are sent on every 50 tokens, and a stream waits while its end may be the beginning of a stop string.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import absent  # type: ignore[import-not-found]
import msgspec
import script  # type: ignore[import-not-found]

absent.install()

WHOLE_EVERY = 50
"""Tokens after which a whole answer is sent on."""
PROBABLE = -0.25
"""The log probability of every token that is said."""
CAPACITY = 4096
"""Tokens for which there would be room in the cache."""
OVERLAP = 6
"""Tokens of the prompt that go with the first ones of an answer, so that its text can be joined to it."""
PROBE = "HEALTH_CHECK"
"""How the ids of the server's own requests begin."""


def refusal(words: str, status: int | None = None, kind: str | None = None) -> dict[str, Any]:
    """Return the end of a request that the scheduler aborts."""
    return {"type": "abort", "message": words, "status_code": status, "err_type": kind}


class Answer:
    """One request and the answer to it, as it grows."""

    def __init__(self, asked: Any, tokenizer: Any, context: int) -> None:
        self.asked = asked
        self.settings = asked.sampling_params
        self.prompt = list(asked.input_ids or ())
        self.said: list[int] = []
        self.sent = 0
        self.began = False
        self.aborted: dict[str, Any] | None = None
        self._tokenizer = tokenizer
        text = tokenizer.decode(self.prompt)
        self.line = script.line(text)
        self.due = time.monotonic() + self.line.wait
        room = context - len(self.prompt) - 1
        most = self.settings.max_new_tokens
        self.limit = room if most is None else min(most, room)
        self._next = self._tokens(text)

    def advance(self) -> dict[str, Any] | None:
        """Say one more token. Return why the answer has ended; None if it goes on."""
        if self.aborted is not None:
            return self.aborted
        if len(self.said) == self.line.fail:
            return refusal(self.line.words, self.line.status, "ScriptedError")
        if len(self.said) == self.line.stall:
            return None
        if self.limit <= 0:
            return {"type": "length", "length": 0}
        self.said.append(next(self._next))
        self.due = time.monotonic() + self.line.pace
        return self._stopped() or (
            {"type": "length", "length": len(self.said)} if len(self.said) >= self.limit else None
        )

    @property
    def holds_back(self) -> bool:
        """Whether what was said last is not sent yet."""
        if not self.asked.stream:
            return len(self.said) % WHOLE_EVERY != 0
        end = self._end()
        return any(end.endswith(stop[:size]) for stop in self._stops() for size in range(1, len(stop)))

    def _tokens(self, prompt: str) -> Iterator[int]:
        yield from self._tokenizer.encode(self.line.text(prompt), add_special_tokens=False)
        while self.line.ends and not self.settings.ignore_eos:
            yield self._tokenizer.eos_token_id
        while True:
            yield from self._tokenizer.encode(script.FILLER, add_special_tokens=False)

    def _stopped(self) -> dict[str, Any] | None:
        token, settings = self.said[-1], self.settings
        if len(self.said) <= settings.min_new_tokens:
            return None
        if not settings.ignore_eos and (
            token == self._tokenizer.eos_token_id or token in (settings.stop_token_ids or ())
        ):
            return {"type": "stop", "matched": token}
        end = self._end()
        hit = next((stop for stop in self._stops() if stop in end), None)
        return None if hit is None else {"type": "stop", "matched": hit}

    def _stops(self) -> list[str]:
        stops = self.settings.stop_strs or []
        return [stops] if isinstance(stops, str) else list(stops)

    def _end(self) -> str:
        """Return the text of the last tokens, as many as the longest stop string may have."""
        if not self._stops():
            return ""
        text: str = self._tokenizer.decode(self.said[-(self.settings.stop_str_max_len + 1) :])
        return text


class Scheduler:
    """Takes requests from the tokenizer manager and sends tokens to the detokenizer."""

    def __init__(self, options: Any, ports: Any) -> None:
        zmq = importlib.import_module("zmq")
        sockets = importlib.import_module("sglang.srt.utils.network").get_zmq_socket
        self._messages = importlib.import_module("sglang.srt.managers.io_struct")
        self._loads = importlib.import_module("sglang.srt.managers.load_snapshot")
        self._options = options
        self._tokenizer = importlib.import_module("transformers").AutoTokenizer.from_pretrained(
            options.model_path
        )
        context = zmq.Context()
        self._inbox = sockets(context, zmq.PULL, ports.scheduler_input_ipc_name, False)
        self._to_detokenizer = sockets(context, zmq.PUSH, ports.detokenizer_ipc_name, False)
        self._to_manager = sockets(context, zmq.PUSH, ports.tokenizer_ipc_name, False)
        self._context = options.context_length or 2048
        self._slots = options.max_running_requests or 8
        self._running: dict[str, Answer] = {}
        self._waiting: dict[str, Answer] = {}
        self._adapters: dict[str, str] = {}
        self._paused = False
        self._gauges = self._new_gauges() if options.enable_metrics else {}
        self._writer = self._loads.ShmLoadSnapshotWriter(
            self._loads.shm_path_for(ports.instance_id), dp_size=1, dp_rank=0
        )
        self._publish()

    def introduction(self) -> dict[str, Any]:
        """Return what the other processes wait for."""
        return {
            "status": "ready",
            "max_total_num_tokens": CAPACITY,
            "max_req_input_len": self._context - OVERLAP,
            "startup_time": {},
            "hicache_object_layout": None,
        }

    def run(self) -> None:
        """Work until the process ends."""
        published = 0.0
        while True:
            if self._inbox.poll(2 if self._running or self._waiting else 20):
                message = self._messages.sock_recv(self._inbox)
                for one in getattr(message, "batch", None) or [message]:
                    self._take(one)
            if not self._paused:
                self._step()
            if time.monotonic() - published > 0.2:
                published = time.monotonic()
                self._publish()

    def _take(self, message: Any) -> None:
        """Do what a message asks for; those that change nothing here are left out."""
        name = type(message).__name__
        messages = self._messages
        match name:
            case "TokenizedGenerateReqInput":
                self._enter(message)
            case "TokenizedEmbeddingReqInput":
                self._embed(message)
            case "AbortReq":
                self._abort(message)
            case "PauseGenerationReqInput" | "ContinueGenerationReqInput":
                self._paused = name.startswith("Pause")
            case "ReleaseMemoryOccupationReqInput" | "ResumeMemoryOccupationReqInput" | "FlushCacheReqInput":
                answer = getattr(messages, name.removesuffix("Input") + "Output")
                self._reply(answer(success=True) if name.startswith("Flush") else answer())
            case "LoadLoRAAdapterReqInput":
                self._load_adapter(message)
            case "UnloadLoRAAdapterReqInput":
                self._adapters.pop(message.lora_id, None)
                self._tell_adapters()
            case "GetInternalStateReq":
                self._reply(messages.GetInternalStateReqOutput(internal_state={"last_gen_throughput": 1.0}))

    def _reply(self, message: Any) -> None:
        self._messages.sock_send(self._to_manager, message)

    def _load_adapter(self, message: Any) -> None:
        if message.lora_name == "bad":
            self._tell_adapters("the adapter cannot be read")
            return
        self._adapters[message.lora_id] = message.lora_name
        self._tell_adapters()

    def _tell_adapters(self, refusal: str | None = None) -> None:
        known = dict.fromkeys(self._adapters.values(), "somewhere")
        self._reply(
            self._messages.LoRAUpdateOutput(
                success=refusal is None, error_message=refusal, loaded_adapters=known
            )
        )

    def _enter(self, asked: Any) -> None:
        queue = self._options.max_queued_requests
        if queue is not None and len(self._waiting) >= queue and len(self._running) >= self._slots:
            full = refusal("The request queue is full.", 503)
            self._reply(self._messages.AbortReq(rid=asked.rid, finished_reason=full))
            return
        self._waiting[asked.rid] = Answer(asked, self._tokenizer, self._context)

    def _abort(self, message: Any) -> None:
        for rid in [rid for rid in self._waiting if message.abort_all or rid.startswith(message.rid)]:
            del self._waiting[rid]
            self._reply(self._messages.AbortReq(rid=rid))
        for rid, answer in self._running.items():
            if message.abort_all or rid.startswith(message.rid):
                answer.aborted = refusal("Aborted")

    def _step(self) -> None:
        for rid in list(self._waiting)[: max(0, self._slots - len(self._running))]:
            self._running[rid] = self._waiting.pop(rid)
        now = time.monotonic()
        for rid, answer in list(self._running.items()):
            if answer.aborted is None and (now < answer.due or len(answer.said) == answer.line.stall):
                continue
            ended = answer.advance()
            if ended is not None:
                del self._running[rid]
            if ended is not None or not answer.holds_back:
                self._send(rid, answer, ended)

    def _send(self, rid: str, answer: Answer, ended: dict[str, Any] | None) -> None:
        """Send what was not sent yet of an answer to the detokenizer."""
        kind = self._messages.BatchTokenIDOutput
        said, settings = answer.said[answer.sent :], answer.settings
        before = [] if answer.began else answer.prompt[-OVERLAP:]
        told = _nothing(kind)
        told |= {
            "rids": [rid],
            "finished_reasons": [ended],
            "decoded_texts": [""],
            "decode_ids": [array("q", before + said)],
            "read_offsets": [min(OVERLAP, len(answer.prompt))],
            "output_ids": [array("q", said)],
            "skip_special_tokens": [settings.skip_special_tokens],
            "spaces_between_special_tokens": [True],
            "no_stop_trim": [settings.no_stop_trim],
            "prompt_tokens": [len(answer.prompt)],
            "completion_tokens": [len(answer.said)],
            "reasoning_tokens": [0],
            "cached_tokens": [0],
            "retraction_counts": [0],
        }
        if answer.asked.return_logprob:
            told |= _probabilities(answer, said)
        if answer.asked.http_worker_ipc is not None:
            told["http_worker_ipcs"] = [answer.asked.http_worker_ipc]
        self._messages.sock_send(self._to_detokenizer, kind(**told))
        answer.began, answer.sent = True, len(answer.said)

    def _embed(self, asked: Any) -> None:
        """Answer with a made-up vector, or with one number where the texts are to be ranked."""
        tokens = list(asked.input_ids)
        ranks = os.environ.get("SCRIPT_RANKS") == "1"
        numbers = [(sum(tokens) + 7 * place) % 100 / 100 for place in range(asked.dimensions or 8)]
        kind = self._messages.BatchEmbeddingOutput
        told = _nothing(kind) | {
            "rids": [asked.rid],
            "finished_reasons": [{"type": "stop", "matched": None}],
            "embeddings": [numbers[0] if ranks else numbers],
            "prompt_tokens": [len(tokens)],
            "cached_tokens": [0],
            "retraction_counts": [0],
        }
        if asked.http_worker_ipc is not None:
            told["http_worker_ipcs"] = [asked.http_worker_ipc]
        self._messages.sock_send(self._to_detokenizer, kind(**told))

    def _new_gauges(self) -> dict[str, Any]:
        """Return the gauges of the metrics page that the scheduler keeps."""
        gauge = importlib.import_module("prometheus_client").Gauge
        labels = {
            "model_name": self._options.served_model_name,
            "engine_type": "unified",
            "tp_rank": "0",
            "pp_rank": "0",
            "moe_ep_rank": "0",
        }
        names = ["num_running_reqs", "num_queue_reqs", "token_usage"]
        names += ["lora_pool_slots_used"] if self._options.enable_lora else []
        return {
            name: gauge(f"sglang:{name}", name, list(labels), multiprocess_mode="mostrecent").labels(**labels)
            for name in names
        }

    def _publish(self) -> None:
        """Tell the load, for `/v1/loads` and the metrics page."""
        running, waiting, adapters = len(self._running), len(self._waiting), len(self._adapters)
        used = running / self._slots
        lora = self._loads.LoRAMetrics(adapters, 8, adapters / 8) if self._options.enable_lora else None
        self._writer.write(
            self._loads.LoadSnapshot(
                timestamp=time.time(),
                num_running_reqs=running,
                num_waiting_reqs=waiting,
                max_running_requests=self._slots,
                max_total_num_tokens=CAPACITY,
                token_usage=used,
                cache_hit_rate=0.5,
                lora=lora,
            )
        )
        told = {
            "num_running_reqs": running,
            "num_queue_reqs": waiting,
            "token_usage": used,
            "lora_pool_slots_used": adapters,
        }
        for name, found in self._gauges.items():
            found.set(told[name])


def _nothing(kind: Any) -> dict[str, Any]:
    """Return the required fields of a message, with nothing in them."""
    return {field.name: None for field in msgspec.structs.fields(kind) if field.required}


def _probabilities(answer: Answer, said: list[int]) -> dict[str, Any]:
    """Return the log probabilities of the tokens that were said, and of the most probable ones beside them."""
    most = answer.asked.top_logprobs_num or 0
    labels = answer.asked.token_ids_logprob
    told: dict[str, Any] = {
        f"{side}_{what}_logprobs_{part}": [[]]
        for side in ("input", "output")
        for what in ("token", "top", "token_ids")
        for part in ("val", "idx")
    }
    told |= {
        "output_token_logprobs_val": [[PROBABLE] * len(said)],
        "output_token_logprobs_idx": [list(said)],
        "output_top_logprobs_val": [[[PROBABLE - place for place in range(most)] for _ in said]],
        "output_top_logprobs_idx": [
            [[token, *(other for other in range(100, 130) if other != token)][:most] for token in said]
        ],
    }
    if labels:
        told["output_token_ids_logprobs_val"] = [
            [[-1.0 - place for place, _ in enumerate(labels)]] * len(said)
        ]
        told["output_token_ids_logprobs_idx"] = [[list(labels)] * len(said)]
    if not answer.began and answer.asked.logprob_start_len >= 0:
        part = answer.prompt[answer.asked.logprob_start_len :]
        told["input_token_logprobs_val"] = [[None, *([-0.5] * (len(part) - 1))]]
        told["input_token_logprobs_idx"] = [part]
    return told


def run_scheduler(options: Any, ports: Any, *rest: Any, **more: Any) -> None:
    """Be the scheduler's process."""
    pipe = more.get("pipe_writer") or next(one for one in rest if hasattr(one, "send"))
    try:
        scheduler = Scheduler(options, ports)
        pipe.send(scheduler.introduction())
        scheduler.run()
    except Exception:
        traceback.print_exc()
        raise


def main() -> None:
    """Run SGLang's server."""
    words = sys.argv[1:]
    options = importlib.import_module("sglang.srt.server_args").prepare_server_args(
        words[1:] if words[:1] == ["serve"] else words
    )
    importlib.import_module("sglang.srt.entrypoints.http_server").launch_server(
        options, run_scheduler_process_func=run_scheduler
    )


if __name__ == "__main__":
    main()
