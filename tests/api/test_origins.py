"""Pages in browsers: CORS for the origins of the config, and what a gateway without keys refuses of all others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.config.file import load
from gateway.config.problems import ConfigError
from gateway.fake.engine import FakeEngine
from gateway.wire.origins import is_host, is_own
from tests.faults.clients import CHAT, chat, client, config, http
from tests.serving import Answer, Served, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = "https://app.example.com"
KEYS = 'keys: {a: {value: "${env.A}"}}\n'
BEARER = "Authorization: Bearer sk-right"
ODD = ("X-Odd: 1", "X-Odd: 2")

OWN = [
    "localhost", "localhost:8080", "LOCALHOST", "localhost.", "gateway.localhost", "127.0.0.1", "127.0.0.1:80",
    "[::1]", "[::1]:8080", "192.168.1.7", "host.docker.internal:8080", "here.lan",
]  # fmt: skip
FOREIGN = [
    "evil.test", "localhost.evil.test", "127.0.0.1.evil.test", "internal", "evil.test:8080", "notlocalhost", "1.2.3",
    "1.2.3.4.5", "256.1.1.1", "1.2.3.0x4", "xlocalhost", "gateway", "", "a b", "here.lan.evil.test",
]  # fmt: skip


@pytest.mark.parametrize("host", OWN)
async def test_own(host: str) -> None:
    assert is_host(host.encode()) and is_own(host.encode(), b"here.lan")


@pytest.mark.parametrize("host", FOREIGN)
async def test_foreign(host: str) -> None:
    assert not is_own(host.encode(), b"here.lan")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine(models=["up"]) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyless(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    text = config(engine.url, server=f"cors: ['{PAGE}', 'app://obsidian.md'], limits: {{body: 2KiB}}")
    async with serving(tmp_path_factory.mktemp("keyless"), text) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    text = config(engine.url, server="cors: ['*']", extra=KEYS)
    async with serving(tmp_path_factory.mktemp("keyed"), text, {"A": "sk-right"}) as made:
        yield made


async def ask(
    served: Served, *headers: str, path: str = CHAT, method: str = "POST", body: bytes | None = None
) -> Answer:
    data = http(body or chat() if method == "POST" else None, *headers, path=path, method=method)
    async with client(served.port) as caller:
        await caller.send(data)
        return await caller.answer()


def cors(answer: Answer) -> dict[str, str]:
    """Return the headers of CORS in an answer."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control")}


PLACES = {
    "chat": (CHAT, "POST"),
    "models": ("/v1/models", "GET"),
    "liveness": ("/healthz", "GET"),
    "metrics": ("/metrics", "GET"),
    "the page": ("/", "GET"),
    "nothing": ("/v1/none", "GET"),
    "operators": ("/gateway/backends", "GET"),
}


@pytest.mark.parametrize("odd", [(), ODD], ids=["front door", "full protocol"])
@pytest.mark.parametrize("place", PLACES)
async def test_without_keys_other_names_and_pages_are_refused(
    place: str, odd: tuple[str, ...], keyless: Served
) -> None:
    path, method = PLACES[place]
    headers = {
        "a name that resolves to this machine": ("evil.test:8080", ()),
        "a page of another site": ("localhost", ("Origin: https://evil.test",)),
        "a sandboxed page": ("localhost", ("Origin: null",)),
        "an app": ("localhost", ("Origin: app://localhost",)),
        "a page under its own name": ("evil.test", ("Origin: http://evil.test",)),
    }
    for host, more in headers.values():
        data = http(chat() if method == "POST" else None, *more, *odd, path=path, method=method)
        async with client(keyless.port) as caller:
            await caller.send(data.replace(b"gateway.localhost", host.encode()))
            answer = await caller.answer()
        assert (answer.status, answer.error["code"]) == (403, "cross_site")
        assert not cors(answer)


@pytest.mark.parametrize(
    "origin", ["", "Origin: http://localhost:3000", "Origin: http://127.0.0.1", "Origin: http://[::1]:80"]
)
async def test_without_keys_this_machine_is_served(origin: str, keyless: Served) -> None:
    for path, method in (PLACES["chat"], PLACES["models"]):
        answer = await ask(keyless, origin or "X-None: 1", path=path, method=method)
        assert (answer.status, cors(answer)) == (200, {}), answer.body


async def test_a_name_for_everybody_is_served_where_the_config_says_so(
    engine: FakeEngine, tmp_path: Path
) -> None:
    """With keys, or under `auth: none`, neither names nor origins are looked at: proxies and other machines call it."""
    for more, environ in ((KEYS, {"A": "sk-right"}), ("", {})):
        text = config(engine.url, server="" if more else "auth: none", extra=more)
        async with serving(tmp_path, text, environ) as served, client(served.port) as caller:
            data = http(chat(), BEARER, "Origin: https://evil.test")
            await caller.send(data.replace(b"gateway.localhost", b"llm.example.com"))
            answer = await caller.answer()
            assert (answer.status, cors(answer)) == (200, {})


@pytest.mark.parametrize("odd", [(), ODD], ids=["front door", "full protocol"])
async def test_json_without_a_type_is_taken_from_no_page(odd: tuple[str, ...], keyless: Served) -> None:
    """A browser sends a body without a type without asking first, for any page."""
    for origin, status in (
        ("X-None: 1", 200),
        ("Origin: http://localhost:3000", 415),
        (f"Origin: {PAGE}", 415),
    ):
        data = http(chat(), origin, *odd).replace(b"Content-Type: application/json\r\n", b"")
        async with client(keyless.port) as caller:
            await caller.send(data)
            assert (await caller.answer()).status == status


# CORS


READABLE = {
    "an answer": (http(chat(), f"Origin: {PAGE}"), 200),
    "a stream": (http(chat(stream=True), f"Origin: {PAGE}"), 200),
    "an answer of the full protocol": (http(chat(), f"Origin: {PAGE}", *ODD), 200),
    "the models": (http(None, f"Origin: {PAGE}", path="/v1/models", method="GET"), 200),
    "an unknown model": (http(chat() | {"model": "none"}, f"Origin: {PAGE}"), 404),
    "an unknown path": (http(None, f"Origin: {PAGE}", path="/v1/none", method="GET"), 404),
    "another method": (http(None, f"Origin: {PAGE}", path=CHAT, method="GET"), 405),
    "a body too large": (http(chat("x" * 5000), f"Origin: {PAGE}"), 413),
    "another type": (http(chat(), f"Origin: {PAGE}").replace(b"application/json", b"text/plain"), 415),
    "headers too large": (http(chat(), f"Origin: {PAGE}", "X: " + "y" * 40_000), 431),
}


@pytest.mark.parametrize("name", READABLE)
async def test_a_listed_origin_may_read_every_answer(name: str, keyless: Served) -> None:
    data, status = READABLE[name]
    async with client(keyless.port) as caller:
        await caller.send(data)
        answer = await caller.answer()
    assert answer.status == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["vary"] == "Origin"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in answer.headers


def preflight(*headers: str, path: str = CHAT) -> bytes:
    return http(None, "Access-Control-Request-Method: POST", *headers, path=path, method="OPTIONS")


@pytest.mark.parametrize("path", [CHAT, "/chat/completions", "/v1/models", "/v1/none"])
async def test_preflights_are_answered_without_a_key(path: str, keyed: Served, keyless: Served) -> None:
    wanted = "authorization,content-type,x-stainless-os"
    for served, origin in ((keyless, PAGE), (keyed, "*")):
        async with client(served.port) as caller:
            await caller.send(
                preflight(f"Origin: {PAGE}", f"Access-Control-Request-Headers: {wanted}", path=path)
                + http(None, path="/healthz", method="GET")
            )
            answer = await caller.answer()
            assert (await caller.answer()).status == 200, "the connection goes on"
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST"
        assert answer.headers["access-control-allow-headers"] == wanted
        assert answer.headers["access-control-max-age"] == "600"
        assert "access-control-allow-private-network" not in answer.headers


async def test_a_preflight_from_a_public_page_to_a_private_address(keyless: Served) -> None:
    answer = await ask(
        keyless, f"Origin: {PAGE}", "Access-Control-Request-Method: POST",
        "Access-Control-Request-Private-Network: true", method="OPTIONS",
    )  # fmt: skip
    assert answer.headers["access-control-allow-private-network"] == "true"


NO_PREFLIGHT = {
    "another origin": (("Origin: https://evil.test", "Access-Control-Request-Method: POST"), 405),
    "an origin that begins alike": (
        (f"Origin: {PAGE}.evil.test", "Access-Control-Request-Method: POST"),
        405,
    ),
    "another port": ((f"Origin: {PAGE}:444", "Access-Control-Request-Method: POST"), 405),
    "no origin": (("Access-Control-Request-Method: POST",), 405),
    "no method": ((f"Origin: {PAGE}",), 405),
}


@pytest.mark.parametrize("name", NO_PREFLIGHT)
async def test_what_is_no_preflight_of_a_listed_origin_gets_none(name: str, keyless: Served) -> None:
    headers, status = NO_PREFLIGHT[name]
    answer = await ask(keyless, *headers, method="OPTIONS")
    assert answer.status == status
    assert "access-control-allow-methods" not in answer.headers


async def test_header_names_that_are_none_are_not_echoed(keyless: Served) -> None:
    answer = await ask(
        keyless, f"Origin: {PAGE}", "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: <canary>", method="OPTIONS",
    )  # fmt: skip
    assert answer.headers["access-control-allow-headers"] == ""


async def test_every_origin_may_read_where_the_config_says_so(keyed: Served) -> None:
    for headers, status in (((BEARER,), 200), ((), 401)):
        answer = await ask(keyed, "Origin: https://any.test", *headers)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "*")
    assert not cors(await ask(keyed, BEARER))


async def test_pages_stay_out_of_what_operators_do(keyless: Served) -> None:
    answer = await ask(keyless, f"Origin: {PAGE}", path="/gateway/backends", method="GET")
    assert (answer.status, answer.error["code"]) == (403, "cross_site")


# The config, and proxies in between


async def test_the_config_says_which_origins(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    for origins, wrong in {
        "['*']": "without keys every page",
        "['https://app.example.com/']": "an origin as browsers send it",
        "['HTTPS://app.example.com']": "an origin as browsers send it",
        "[app.example.com]": "an origin as browsers send it",
        "['null']": "an origin as browsers send it",
        "['https://*.example.com']": "an origin as browsers send it",
        "['https://app.example.com:8443', 'http://[::1]:3000', 'app://obsidian.md']": "",
    }.items():
        file.write_text(config("http://127.0.0.1:9", server=f"cors: {origins}"))
        if not wrong:
            load(file, {})
            continue
        with pytest.raises(ConfigError) as refused:
            load(file, {})
        [problem] = refused.value.problems
        assert wrong in problem.message and problem.line == 2


async def test_what_is_made_piece_by_piece_is_not_buffered_by_proxies(tmp_path: Path) -> None:
    """Speech, whose type is the engine's; streams of events; an operator's progress."""
    reply = {"status": 200, "body": "RIFF", "headers": {"content-type": "audio/wav"}}
    sound = {"match": {"path": "/v1/audio/speech"}, "reply": reply}
    async with (
        FakeEngine(models=["up"], rules=[sound]) as engine,
        serving(tmp_path, config(engine.url)) as served,
    ):
        speech = await served.post("/v1/audio/speech", {"model": "m", "input": "hi", "voice": "a"})
        assert (speech.status, speech.headers["content-type"], speech.body) == (200, "audio/wav", b"RIFF")
        assert speech.headers["x-accel-buffering"] == "no"
        assert (await served.post(CHAT, chat(stream=True))).headers["x-accel-buffering"] == "no"
        assert "x-accel-buffering" not in (await served.post(CHAT, chat())).headers
