"""The section `server`: the gateway's own socket, its limits on clients, and its log."""

from __future__ import annotations

from typing import Literal

from backends.facts.units import Duration, Size, SizeOrShare, Wait
from gateway.config.address import IpNetwork, ListenAddress
from gateway.config.batches import Batches
from gateway.config.certificate import Tls
from gateway.config.data import FolderOrData
from gateway.config.section import Section, setting
from gateway.config.texts import Line, Name, Origin
from gateway.config.tracing import Tracing


class Limits(Section):
    """How much one client may send, and one engine answer."""

    body: Size = setting(
        "10MiB",
        "The largest request body, decoded if it comes compressed. A larger one is answered with 413.",
    )
    values: int = setting(
        500_000,
        "How many values a JSON body may have: items of lists and members of objects. More are answered with 413. "
        "A prompt given as tokens has one for each.",
        ge=1000,
        le=100_000_000,
    )
    headers: Size = setting("32KiB", "The largest request head: request line and headers together.")
    header_count: int = setting(100, "How many headers one request may have.", ge=1, le=100_000)
    reply: Size = setting(
        "256MiB",
        "The largest answer of an engine, streamed or whole. A larger one is answered with 502 `answer_too_large`.",
    )
    event: Size = setting(
        "32MiB",
        "The largest event of a streamed answer: images, for instance. The same applies to a larger one.",
    )
    background: int = setting(
        100,
        "How many responses of one key may be in the background at once: made with `background: true`, and not over.",
        ge=1,
        le=100_000,
    )
    connections: int = setting(10000, "How many client connections may be open at once.", ge=1, le=10_000_000)


class ClientTimeouts(Section):
    """Deadlines for what clients send and read. A trickle of bytes extends none of them but `write`."""

    headers: Duration = setting("10s", "From the first byte of a request to the end of its headers.")
    body: Duration = setting("60s", "From the end of the headers to the end of the body.")
    keep_alive: Duration = setting("75s", "How long an idle connection is kept open between requests.")
    write: Duration = setting(
        "60s",
        "How long a client may take nothing of an answer that waits for it. Begins anew whenever it takes something.",
    )


class Log(Section):
    """What the gateway prints to stderr about itself."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "The least serious message that is printed."
    )
    format: Literal["text", "json"] = setting(
        "text", "`text` for people, `json` for machines: one object per line."
    )
    access: Line | None = setting(
        None,
        "A file to which one line is added for each request that has ended; `-` is standard output. It has no prompts, "
        "answers or keys. Left out, there is none.",
    )
    access_format: Literal["json", "text"] = setting(
        "json",
        "`json` for machines and `gateway replay`: all that is known. `text` for people: who, what, where, status, "
        "tokens, first token, total.",
    )
    access_rate: int = setting(
        1000,
        "How many such lines each process writes per second. More are left out, and a line says how many.",
        ge=1,
        le=1_000_000,
    )


class Metrics(Section):
    """Where metrics are, and who may read them."""

    listen: ListenAddress | None = setting(
        None,
        "An address and port of their own for metrics and probes, in plain HTTP. The main port then shows metrics to "
        "operators only; probes are on both. Left out, everything is on the main port.",
    )
    auth: Literal["none", "keys"] = setting(
        "none",
        "`none`: whoever reaches the port reads metrics. `keys`: reading them needs a key with `metrics: true` or "
        "`admin: true`. Probes never need one.",
    )
    gen_ai: bool = setting(
        False,
        "Whether the page has a second set of metrics by the names of OpenTelemetry's semantic conventions: "
        "`gen_ai_*`.",
    )


class MemoryBudget(Section):
    """How much memory launched engines may take together."""

    ram: SizeOrShare = setting("90%", "Of the machine's RAM: a size, or a share of all there is.")
    gpu: SizeOrShare = setting("95%", "Of each GPU: a size, or a share of all it has.")


class Engines(Section):
    """Which launched engines may run at the same time. `start: always` is obeyed whatever this says."""

    memory: MemoryBudget = setting(
        {},
        "How much memory they may take. What other programs hold is not theirs either. An engine with "
        "`start: on_demand` starts only where there is room; others make room for it.",
    )
    adopt: Duration | None = setting(
        None,
        "How long engines go on after the gateway has ended, for whatever reason: one that starts meanwhile takes over "
        "those whose `launch` is the same. Needs `data`. Left out, they end with it. For engines that start after a "
        "change.",
    )
    at_once: int | None = setting(None, "The most that run at a time. Left out, any number.", ge=1, le=1000)
    together: tuple[tuple[Name, ...], ...] = setting(
        (),
        "Sets of backends whose engines may run together. Two that are named here, and never in one set, do not.",
    )


class Server(Section):
    """The gateway's own socket and what it accepts there."""

    listen: ListenAddress = setting(
        "127.0.0.1:8080",
        "Address and port, as `host:port` or `[::1]:port`. Port 0 takes any free port. An address that other machines "
        "can reach needs `keys`, or `auth: none`.",
    )
    auth: Literal["keys", "none"] = setting(
        "keys",
        "`keys`: a request needs one of the keys below; without any key the gateway is open, on loopback only. "
        "`none`: every request is accepted.",
    )
    tls: Tls | None = setting(
        None,
        "A certificate and its key: clients then connect by `https://` and not otherwise. Left out, by `http://`. The "
        "files are read again when they change.",
    )
    trusted_proxies: tuple[IpNetwork, ...] = setting(
        (),
        "Proxies before the gateway, as networks such as `10.0.0.0/8` or single addresses. What they say in "
        "`X-Forwarded-For` is believed: logs and traces then have the client's address. Needs `keys`, or `auth: none`.",
    )
    cors: tuple[Origin, ...] = setting(
        (),
        "Origins whose pages, shown in a browser, may call the gateway and read its answers: "
        "`https://app.example.com`, or `*` for all, which needs `keys`. Empty: no page of another origin may.",
    )
    drain: Wait = setting("30s", "How long running requests may go on after SIGTERM.")
    limits: Limits = setting({}, "How much one client may send, and one engine answer.")
    timeouts: ClientTimeouts = setting({}, "Deadlines for what clients send and read.")
    metrics: Metrics = setting({}, "Where metrics are, and who may read them.")
    engines: Engines = setting({}, "Which launched engines may run at the same time.")
    log: Log = setting({}, "What the gateway prints about itself.")
    tracing: Tracing | None = setting(
        None,
        "Traces of requests, sent to an OpenTelemetry collector; needs the extra `otel`. Left out, there are none.",
    )
    data: FolderOrData | None = setting(
        None,
        "A folder of the gateway's own, such as `/var/lib/gateway`, for stored responses, files and batches; or a map. "
        "Left out, nothing is kept, and requests for these are refused. A change takes a restart.",
    )
    batches: Batches = setting(
        {}, "How batches are worked on, and how much of them and of files one key may have. They need `data`."
    )
