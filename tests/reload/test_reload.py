"""A running gateway whose config files change: what is noticed, what takes effect, and what is refused.

Rules:
- The gateway is the real server, the files are real, engines are fake ones behind real sockets.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import socket
import sys
from pathlib import Path

import pytest

from backends.base import Health
from gateway.fake.engine import FakeEngine
from gateway.logs import Json, Text
from gateway.outlet import OutletHandler
from tests.faults.clients import until
from tests.faults.support import question
from tests.reload.watched import SERVER, text, watched
from tests.serving import Answer, Served

BAD = SERVER + "backends: {a: {engine: vllm, url: 'http://h', tiemouts: {}}}\n"
WRONG = "gateway.yaml:2:47: unknown key 'tiemouts' (did you mean 'timeouts'?)"


def lines(log: pytest.LogCaptureFixture, folder: Path) -> list[str]:
    """Return what the reloader has logged."""
    return [
        f"{record.levelname.lower()} {record.getMessage()}".replace(f"{folder}/", "")
        for record in log.records
        if record.name == "gateway.reload"
    ]


async def test_a_change_of_the_file_takes_effect_and_is_told_in_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    async with FakeEngine(models=["m"]) as a, FakeEngine(models=["m"]) as b, watched(tmp_path, text(a)) as at:
        first = at.gateway.in_force.version
        assert (await at.ask()).headers["x-gateway-backend"] == "a"
        kept = at.gateway.pool.backends["a"]
        await at.write(text(a, b, more="models: {m: {targets: {b: m}}}"))
        assert (await at.ask()).headers["x-gateway-backend"] == "b"
        assert at.gateway.pool.backends["a"] is kept
        now = at.gateway.in_force.version
        assert now != first and len(now) == 12
        assert at.served.metric("gateway_config_info", version=now) == 1
        assert at.served.metric("gateway_config_info", version=first) == 0
        assert at.served.metric("gateway_config_last_reload_success") == 1
        [line] = lines(caplog, tmp_path)
        assert line == (
            f"info the config is reloaded, version {now} (its files have changed): "
            "backend 'b' is added (openai); model 'm' is added"
        )


async def test_a_bad_file_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    async with FakeEngine(models=["m"]) as a, watched(tmp_path, text(a)) as at:
        version = at.gateway.in_force.version
        for _ in range(3):
            await at.write(BAD, "refused")
            assert (await at.ask()).status == 200
        told = f"error the config stays as it is, version {version} (its files have changed): {WRONG}"
        assert lines(caplog, tmp_path) == [told]
        assert at.served.metric("gateway_config_last_reload_success") == 0
        assert at.count("refused") == 3
        await at.write(BAD.replace("vllm", "vlm"), "refused")
        assert len(lines(caplog, tmp_path)) == 2, "other mistakes are told"
        await at.write(text(a), "unchanged")
        assert at.served.metric("gateway_config_last_reload_success") == 1
        assert lines(caplog, tmp_path)[2:] == [
            f"info the config is unchanged, version {version} (its files have changed)"
        ]


async def test_a_file_that_is_away_keeps_the_config_and_may_come_back(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as a, FakeEngine(models=["m"]) as b, watched(tmp_path, text(a)) as at:
        away = tmp_path / "away"
        await at.after(lambda: at.file.rename(away), "refused")
        assert (await at.ask()).headers["x-gateway-backend"] == "a"
        await at.after(lambda: away.rename(at.file), "unchanged")
        await at.after(at.file.unlink, "refused")
        await at.write(text(b).replace("  a:", "  b:"))
        assert (await at.ask()).headers["x-gateway-backend"] == "b"


async def test_included_files_their_folder_and_secrets_are_watched(tmp_path: Path) -> None:
    folder, secret = tmp_path / "conf.d", tmp_path / "key"
    folder.mkdir()
    secret.write_text("one")
    async with FakeEngine(models=["m"]) as a, FakeEngine(models=["m"]) as b:
        (folder / "a.yaml").write_text(
            text(a, server="").replace("url:", f"api_key: '${{file:{secret}}}', url:")
        )
        async with watched(tmp_path, "include: [conf.d]\n" + SERVER) as at:
            await at.ask()
            assert a.requests[-1].headers["authorization"] == "Bearer one"
            version = at.gateway.in_force.version
            await at.after(lambda: secret.write_text("other"), "applied")
            await at.ask()
            assert a.requests[-1].headers["authorization"] == "Bearer other"
            assert at.gateway.in_force.version == version, "no trace of a secret is in the version"
            added = text(b, server="", more="models: {n: {targets: {b: m}}}").replace("  a:", "  b:")
            await at.after(lambda: (folder / "b.yaml").write_text(added), "applied")
            assert set(at.gateway.pool.backends) == {"a", "b"}
            await at.after(lambda: folder.rename(tmp_path / "elsewhere"), "refused")
            folder.mkdir()
            assert (await _reload(at.served))[0] == 400, "an empty folder is no config"
            assert set(at.gateway.pool.backends) == {"a", "b"}


async def _reload(served: Served, **headers: str) -> tuple[int, dict[str, object]]:
    answer = await served.post("/gateway/reload", {}, **headers)
    found = answer.json() if answer.status == 200 else answer.error
    return answer.status, found


async def test_an_operator_reloads_and_is_answered_with_what_changed_or_what_is_wrong(tmp_path: Path) -> None:
    def key(name: str, **more: object) -> str:
        digest = hashlib.sha256(f"sk-{name}".encode()).hexdigest()
        return f"  {name}: {json.dumps({'hash': f'sha256:{digest}', **more})}\n"

    keys = "keys:\n" + key("boss", admin=True) + key("team")
    server = SERVER.replace(", auth: none", "")
    async with FakeEngine(models=["m"]) as a, watched(tmp_path, text(a, server=server, more=keys)) as at:
        assert (await _reload(at.served, authorization="Bearer sk-team"))[0] == 403
        assert (await _reload(at.served))[0] == 401
        boss = {"authorization": "Bearer sk-boss"}
        first = at.gateway.in_force.version
        assert await _reload(at.served, **boss) == (
            200,
            {"result": "unchanged", "version": first, "changes": [], "notes": [], "problems": []},
        )
        at.put(text(a, server=server, more="defaults: {retry: {attempts: 3}}\n" + keys))
        status, told = await _reload(at.served, **boss)
        now = at.gateway.in_force.version
        assert (status, told["version"]) == (200, now)
        assert told["result"] == "unchanged" or told["changes"] == ["defaults.retry.attempts: 2 -> 3"]
        at.put(BAD + keys)
        status, error = await _reload(at.served, **boss)
        assert (status, error["type"], error["code"]) == (400, "invalid_request_error", "invalid_config")
        expected = f"the config stays as it is, version {now}:\n{tmp_path}/{WRONG}"
        assert error["message"] == expected
        assert (await at.served.get("/gateway/config")).status == 401
        shown = (await at.served.get("/gateway/config", **boss)).json()
        assert (shown["version"], shown["files"]) == (now, [str(at.file)])
        assert (await at.served.get("/gateway/status", **boss)).json()["config"] == now
        assert shown["last_reload"]["result"] == "refused" and shown["last_reload"]["problems"] == [
            expected.partition("\n")[2]
        ]


async def test_settings_of_the_server_take_effect(tmp_path: Path) -> None:
    server = (
        'server: {listen: "127.0.0.1:0", auth: none, cors: ["http://x"], limits: {body: 1KiB, headers: 1KiB},'
    )
    server += " timeouts: {keep_alive: 1s}, drain: 7s}\n"
    async with FakeEngine(models=["m"]) as a, watched(tmp_path, text(a)) as at:
        big = {"model": "m", "messages": [{"role": "user", "content": "x" * 2000}]}
        reader, writer = await at.served.connect()
        assert (await at.served.post("/v1/chat/completions", big)).status == 200
        await at.write(text(a, server=server))
        assert (await at.served.post("/v1/chat/completions", big)).status == 413
        assert (await at.served.get("/v1/models", x_a="y" * 2000)).status == 431
        answer = await at.served.get("/healthz", origin="http://x")
        assert answer.headers["access-control-allow-origin"] == "http://x"
        assert at.served.server.config.timeout_graceful_shutdown == 7
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nx-a: " + b"y" * 2000 + b"\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 431"), "also on open connections"
        writer.close()
        await at.write(text(a))
        assert (await at.served.post("/v1/chat/completions", big)).status == 200


async def test_a_new_address_is_opened_before_the_old_one_closes(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as a, watched(tmp_path, text(a)) as at:
        port = _free_port()
        old = await at.served.connect()
        await at.write(text(a, server=SERVER.replace(":0", f":{port}")))
        assert at.served.server.listener.getsockname()[1] == port
        await until(lambda: not _accepts(at.served.port), "the old address is closed")
        old[1].write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await old[0].readline()) == b"HTTP/1.1 200 OK\r\n", "open connections go on"
        old[1].close()
        at.served.port = port
        assert (await at.ask()).status == 200
        # The same port at another address: both are open for a moment, and nobody else may share them afterwards.
        await at.write(text(a, server=SERVER.replace("127.0.0.1:0", f"0.0.0.0:{port}")))
        assert at.served.server.listener.getsockname() == ("0.0.0.0", port)
        assert (await at.ask()).status == 200
        await at.write(text(a, server=SERVER.replace(":0", f":{port}")))
        assert at.served.server.listener.getsockname() == ("127.0.0.1", port)
        assert (await at.ask()).status == 200
        assert at.served.server.listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


async def test_an_address_that_cannot_be_had_keeps_the_old_one_and_the_rest_takes_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeEngine(models=["m"]) as a, FakeEngine(models=["m"]) as b, watched(tmp_path, text(a)) as at:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            where = f"127.0.0.1:{taken.getsockname()[1]}"
            server = SERVER.replace("127.0.0.1:0", where)
            await at.write(text(a, b, server=server))
            assert (await at.ask()).status == 200
            assert set(at.gateway.pool.backends) == {"a", "b"}
            note = f"server.listen stays 127.0.0.1:0: cannot listen on {where}: Address already in use"
            assert lines(caplog, tmp_path)[-1] == f"warning {note}"
            assert at.gateway.in_force.last is not None and at.gateway.in_force.last.notes == (note,)
        status, told = await _reload(at.served)
        assert (status, told["result"]) == (200, "applied"), "asked again, it tries again"
        assert told["changes"] == [f"server.listen: 127.0.0.1:0 -> {where}"]
        at.served.port = taken_port = int(where.rpartition(":")[2])
        assert (await at.ask()).status == 200 and at.served.server.listener.getsockname()[1] == taken_port


async def test_an_address_that_kept_strangers_out_must_be_had(tmp_path: Path) -> None:
    keys = "keys: {k: {hash: 'sha256:" + "0" * 64 + "'}}"
    open_to_all = SERVER.replace("127.0.0.1", "0.0.0.0").replace(", auth: none", "")
    async with FakeEngine(models=["m"]) as a, watched(tmp_path, text(a, server=open_to_all, more=keys)) as at:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = f"server: {{listen: '127.0.0.1:{taken.getsockname()[1]}'}}\n"
            await at.write(text(a, server=server), "refused")
            assert (await at.ask()).status == 401
            last = at.gateway.in_force.last
            assert last is not None and "without keys it must not stay at 0.0.0.0:0" in last.problems[0]
            port = taken.getsockname()[1]
        await until(lambda: at.count("applied") == 1, "it is tried again by itself", 30)
        at.served.port = port
        assert (await at.ask()).status == 200


async def test_strangers_are_parted_with_where_keys_go_and_only_this_machine_may_come(tmp_path: Path) -> None:
    keys = "keys: {k: {hash: 'sha256:" + "0" * 64 + "'}}"
    open_to_all = SERVER.replace("127.0.0.1", "0.0.0.0").replace(", auth: none", "")
    async with FakeEngine(models=["m"]) as a, watched(tmp_path, text(a, server=open_to_all, more=keys)) as at:
        reader, writer = await at.served.connect()
        port = _free_port()
        await at.write(text(a, server=f"server: {{listen: '127.0.0.1:{port}'}}\n"))
        assert await reader.read() == b""
        writer.close()
        at.served.port = port
        assert (await at.ask()).status == 200


async def test_the_log_changes_its_level_and_style(tmp_path: Path) -> None:
    logger = logging.getLogger("gateway")
    before, handler = logger.level, OutletHandler(sys.stderr, Text())
    logging.getLogger().addHandler(handler)
    try:
        async with FakeEngine(models=["m"]) as a, watched(tmp_path, text(a)) as at:
            await at.write(text(a, server=SERVER.replace("}", ", log: {level: debug, format: json}}")))
            assert logger.level == logging.DEBUG and isinstance(handler.formatter, Json)
            await at.write(text(a))
            assert logger.level == logging.INFO and isinstance(handler.formatter, Text)
    finally:
        logging.getLogger().removeHandler(handler)
        logger.setLevel(before)


async def test_running_requests_finish_while_their_backend_and_model_leave(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as a, FakeEngine(models=["m"]) as b, watched(tmp_path, text(a)) as at:
        a.set(defaults={"gap": 0.05, "tokens": 12, "text": "count"})
        call = at.served.post("/v1/chat/completions", question("m", stream=True))
        stream = asyncio.create_task(call)
        await a.until(lambda: bool(a.requests))
        await at.write(text(b, more="models: {n: {targets: {b: m}}}").replace("  a:", "  b:"))
        assert (await at.ask()).status == 404
        answer = await stream
        assert answer.whole and answer.events[-1] == "[DONE]"


async def test_a_storm_of_reloads_loses_no_request(tmp_path: Path) -> None:
    async with FakeEngine(models=["m"]) as a, FakeEngine(models=["m"]) as b, watched(tmp_path, text(a)) as at:
        for engine in (a, b):
            engine.set(defaults={"say": "one two three", "gap": 0.002})
        over = False

        async def client() -> int:
            count = 0
            while not over:
                answer = await at.ask()
                assert answer.status == 200 and answer.whole, answer.body
                count += 1
            return count

        async def keeps_its_connection() -> int:
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
            reader, writer = await at.served.connect()
            count = 0
            while not over:
                writer.write(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                count += 1
            writer.close()
            return count

        clients = [asyncio.create_task(each) for each in (client(), client(), keeps_its_connection())]
        shapes = [text(a), text(a, b), text(b), text(b, a, more="models: {m: {targets: {a: m, b: m}}}")]
        for number in range(50):
            if number % 5 == 4:
                await at.write(BAD + f"# {number}\n", "refused")
            await at.write(f"# {number}\n" + shapes[number % 4])
        over = True
        counts = await asyncio.gather(*clients)
        assert min(counts) > 20
        assert at.count("applied") == 50 and at.count("refused") == 10


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


PROFILES = """
models:
  qwen: {aliases: [gpt-4], targets: {a: m}}
  coder: {targets: {b: m}}
profiles:
  coding: {aliases: {gpt-4: coder, fast: coder}}
  night: {aliases: {gpt-4: qwen}}
"""


async def test_a_profile_is_chosen_and_outlives_a_reload(tmp_path: Path) -> None:
    async with (
        FakeEngine(models=["m"]) as a,
        FakeEngine(models=["m"]) as b,
        watched(tmp_path, text(a, b, more=PROFILES)) as at,
    ):

        async def serves(model: str) -> str:
            answer = await at.served.post("/v1/chat/completions", question(model))
            return answer.headers.get("x-gateway-backend", str(answer.status))

        async def listed() -> list[str]:
            return [each["id"] for each in (await at.served.get("/v1/models")).json()["data"]]

        async def choose(name: str | None) -> Answer:
            return await at.served.post("/gateway/profile", {"profile": name})

        shown = await at.served.get("/gateway/profile")
        assert shown.json() == {"profile": None, "profiles": ["coding", "night"]}
        assert (await serves("gpt-4"), await serves("fast")) == ("a", "404")
        assert (await choose("coding")).json()["profile"] == "coding"
        assert (await serves("gpt-4"), await serves("fast"), await serves("qwen")) == ("b", "b", "a")
        assert sorted(await listed()) == ["coder", "fast", "gpt-4", "qwen"]
        unknown = await choose("codign")
        assert (unknown.status, unknown.error["code"]) == (400, "profile_not_found")
        assert (await at.served.post("/gateway/profile", {"name": "night"})).status == 400
        assert (await at.served.get("/gateway/config")).json()["profile"] == "coding"

        await at.write("# other\n" + text(a, b, more=PROFILES))
        assert await serves("gpt-4") == "b", "it outlives a reload"
        await at.write(text(a, b, more=PROFILES.replace("coding:", "work:")))
        assert await serves("gpt-4") == "a", "as long as the config has it"
        assert (await at.served.get("/gateway/profile")).json()["profile"] is None
        await choose("work")
        assert (await choose(None)).json() == {"profile": None, "profiles": ["work", "night"]}
        assert (await serves("gpt-4"), await serves("fast")) == ("a", "404")


@pytest.mark.slow
async def test_only_an_engine_whose_launch_options_changed_is_started_anew(tmp_path: Path) -> None:
    model = Path(__file__).parents[2] / "models" / "demo.gguf"

    def launched(threads: int, more: str = "") -> str:
        lines = [
            f"  {name}: {{engine: llamacpp, launch: {{model: {model}, name: m, threads: {count}}}{more}}}"
            for name, count in (("a", 1), ("b", threads))
        ]
        return "\n".join([SERVER, "backends:", *lines])

    async with watched(tmp_path, launched(1)) as at:

        def pids() -> dict[str, int | None]:
            views = at.gateway.fleet.views(0)
            return {view.name: view.launched.pid for view in views if view.launched is not None}

        def ready() -> bool:
            return all(backend.health is Health.READY for backend in at.gateway.pool.backends.values())

        await until(ready, "both engines are ready", 60)
        before = pids()
        await at.write(launched(2))
        assert at.gateway.in_force.last is not None
        [line] = at.gateway.in_force.last.changes
        assert line.startswith("backend 'b' changes: launch.threads; its engine ends")
        assert (await at.ask()).status == 200, "the other engine serves meanwhile"
        await until(lambda: ready() and pids()["b"] != before["b"], "the engine runs anew", 60)
        assert pids()["a"] == before["a"]
        await at.write(launched(2, ", timeouts: {total: 1m}"))
        assert (await at.ask()).status == 200
        assert pids()["a"] == before["a"]
