"""What differs between two configs, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.diff import changes
from tests.config.files import config

BASE = """
server: {listen: "127.0.0.1:8080"}
backends:
  a: {engine: vllm, url: "http://a"}
  cpu: {engine: llamacpp, launch: {model: m.gguf, threads: 1}}
models:
  qwen: {aliases: [x, y], targets: {a: q}}
keys:
  team: {hash: "sha256:ZERO", models: [qwen]}
""".replace("ZERO", "0" * 64)

MOVED = "new requests go to the new place, those under way finish at the old one"
RELAUNCHED = "its engine ends when requests under way have finished, and is started anew; others wait"
MODEL = (
    "aliases +z -x, targets +cpu, targets.a.model q -> 'q 2', targets.a.weight 1 -> 3, "
    "admission not set -> {concurrency: 4}, heartbeat not set -> 5s"
)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", []),
        ("server: {", "# a comment\nserver: {drain: 30s, ", []),
        ("8080", "8081", ["server.listen: 127.0.0.1:8080 -> 127.0.0.1:8081"]),
        (
            "server: {",
            "server: {limits: {body: 64KB, event: 1GiB}, timeouts: {body: 2m, write: 1m30s}, log: {level: error}, ",
            [
                "server.limits.body: 10MiB -> 64000B",
                "server.limits.event: 32MiB -> 1GiB",
                "server.timeouts.body: 1m -> 2m",
                "server.timeouts.write: 1m -> 90s",
                "server.log.level: info -> error",
            ],
        ),
        (
            "backends:",
            "defaults: {timeouts: {answer: 5s}, retry: {attempts: 3}, retry_budget: 5%}\nbackends:",
            [
                "defaults.timeouts.answer: not set -> 5s",
                "defaults.retry.attempts: 2 -> 3",
                "defaults.retry_budget: 20% -> 5%",
            ],
        ),
        ("backends:", "backends:\n  b: {engine: ollama, url: 'http://b'}", ["backend 'b' is added (ollama)"]),
        ('  cpu: {engine: llamacpp, launch: {model: m.gguf, threads: 1}}\n', "", ["backend 'cpu' is removed"]),
        (
            '"http://a"',
            '"http://b", labels: {gpu: h200}',
            [f"backend 'a' changes: url, labels; {MOVED}"],
        ),
        ('"http://a"', '"http://a", api_key: sk-secret', ["backend 'a' changes: api_key"]),
        (
            "threads: 1",
            "threads: 2, env: {TOKEN: secret}",
            [f"backend 'cpu' changes: launch.env, launch.threads; {RELAUNCHED}"],
        ),
        (
            'vllm, url: "http://a"',
            "llamacpp, launch: {model: n.gguf}",
            ["backend 'a' changes: engine, url, launch; it is replaced: requests under way finish first"],
        ),
        ("qwen: {aliases", "other: {targets: {cpu: m}}\n  qwen: {aliases", ["model 'other' is added"]),
        (
            "aliases: [x, y], targets: {a: q}",
            ("aliases: [y, z], targets: {a: {model: 'q 2', weight: 3}, cpu: c}, heartbeat: 5s, "
            "admission: {concurrency: 4}"),
            [f"model 'qwen' changes: {MODEL}"],
        ),
        ("[x, y]", "[y, x]", ["model 'qwen' changes: aliases another order"]),
        ("0" * 64, "1" * 64, ["key 'team' changes: hash"]),
        ("[qwen]}", "[qwen], admin: true}", ["key 'team' changes: admin"]),
        ("team: {hash", "crew: {hash", ["key 'team' is removed", "key 'crew' is added"]),
    ],
)  # fmt: skip
def test_a_line_for_each_thing_that_differs(
    before: str, after: str, expected: list[str], tmp_path: Path
) -> None:
    old, new = config(tmp_path, BASE), config(tmp_path, BASE.replace(before, after, 1))
    assert changes(old, new) == expected
    assert bool(changes(new, old)) == bool(expected)
    assert changes(new, new) == []


def test_no_secret_is_shown(tmp_path: Path) -> None:
    secret = "s3cret"
    with_it = BASE.replace(
        '"http://a"', f'"http://a/{secret}", api_key: {secret}, headers: {{x-token: {secret}}}'
    ).replace("threads: 1", f"threads: 1, env: {{A: {secret}}}, extra_args: [{secret}]")
    lines = changes(config(tmp_path, BASE), config(tmp_path, with_it))
    assert len(lines) == 2 and secret not in "".join(lines)


def test_what_is_told_of_one_thing_is_bounded(tmp_path: Path) -> None:
    many = ", ".join(f"k{number}: v" for number in range(300))
    [line] = changes(
        config(tmp_path, BASE), config(tmp_path, BASE.replace("m.gguf", f"m.gguf, env: {{{many}}}"))
    )
    assert len(line) < 300
    aliases = ", ".join(f"alias-{number}" for number in range(300))
    [line] = changes(config(tmp_path, BASE), config(tmp_path, BASE.replace("[x, y]", f"[{aliases}]")))
    assert len(line) < 500 and "and 282 more" in line
