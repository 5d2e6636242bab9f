"""Every fault at every kind of place, seen from the client's end of a real socket."""

import asyncio
import json
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.fake.raw import Received, ask, chat, connected, request


def failing(*faults: dict[str, Any], **fields: Any) -> FakeEngine:
    return FakeEngine(rules=[{"faults": faults, **fields}])


async def healthy(body: Any = None) -> Received:
    async with FakeEngine() as engine:
        return await ask(engine, chat() if body is None else body)


# Where


@pytest.mark.parametrize(("do", "end"), [("close", "fin"), ("reset", "reset")])
async def test_at_accept(do: str, end: str) -> None:
    async with failing({"at": "accept", "do": do}) as engine, connected(engine) as wire:
        answer = await wire.rest()
        assert (answer.data, answer.end) == (b"", end)
        assert engine.requests == []


@pytest.mark.parametrize(("do", "end"), [("close", "fin"), ("reset", "reset")])
async def test_at_the_request(do: str, end: str) -> None:
    async with failing({"at": "request", "do": do}) as engine:
        answer = await ask(engine, chat())
        assert (answer.data, answer.end) == (b"", end)
        assert engine.requests[0].outcome == "cut"


@pytest.mark.parametrize(("do", "end"), [("close", "fin"), ("reset", "reset")])
async def test_after_the_head(do: str, end: str) -> None:
    async with failing({"at": "headers", "do": do}) as engine:
        answer = await ask(engine, chat())
    assert (answer.status, answer.rest, answer.end) == (200, b"", end)


@pytest.mark.parametrize(("do", "end"), [("close", "fin"), ("reset", "reset")])
@pytest.mark.parametrize("stream", [True, False])
async def test_at_any_byte(do: str, end: str, stream: bool) -> None:
    whole = (await healthy(chat(stream=stream))).data
    async with FakeEngine() as engine:
        for place in {*range(0, len(whole), 37), 1, len(whole) - 1, len(whole)}:
            engine.set(rules=[{"faults": [{"at": f"byte {place}", "do": do}]}])
            answer = await ask(engine, chat(stream=stream))
            assert (answer.data, answer.end) == (whole[:place], end)


async def test_at_any_byte_of_the_body() -> None:
    whole = await healthy()
    async with FakeEngine() as engine:
        for place in range(0, len(whole.body), 41):
            engine.set(rules=[{"faults": [{"at": f"body byte {place}", "do": "close"}]}])
            answer = await ask(engine, chat())
            assert answer.body == whole.body[:place]
            assert not answer.whole and answer.end == "fin"


@pytest.mark.parametrize("place", [0, 1, 3, 6, 7, -1, -2, -7])
async def test_before_an_event(place: int) -> None:
    whole = await healthy()
    assert len(whole.payloads) == 7
    async with failing({"at": f"event {place}", "do": "reset"}) as engine:
        answer = await ask(engine, chat())
    assert answer.payloads == (whole.payloads[:place] if place else [])
    assert answer.end == "reset" and not answer.whole


async def test_an_event_that_never_comes_does_no_harm() -> None:
    async with failing({"at": "event 99", "do": "reset"}, {"at": "byte 99999", "do": "reset"}) as engine:
        assert (await ask(engine, chat())).data == (await healthy()).data


async def test_at_the_end_of_an_answer() -> None:
    async with failing({"at": "end", "do": "reset"}) as engine, connected(engine) as wire:
        wire.send(request(chat()))
        answer = await wire.rest()
    assert answer.whole and answer.payloads[-1] == b"[DONE]"
    assert answer.end == "reset"


async def test_negative_numbers_in_an_endless_stream_never_come() -> None:
    fault = {"at": "event -1", "do": "reset"}
    async with failing(fault, endless=True, gap=0.001) as engine, connected(engine) as wire:
        wire.send(request(chat()))
        await wire.until(b"word50")


# What


async def test_silence_for_ever_is_broken_only_by_the_client() -> None:
    async with failing({"at": "event 2", "do": "hang"}) as engine, connected(engine) as wire:
        wire.send(request(chat()))
        await wire.until(b"word0")
        wire.leave()
        (exchange,) = await engine.closed()
        assert (exchange.phase, exchange.events, exchange.tokens) == ("streaming", 2, 1)


async def test_silence_for_a_while_changes_no_byte() -> None:
    places = ("request", "headers", "byte 5", "event 1", "end")
    async with failing(*({"at": at, "do": "hang", "duration": 0.01} for at in places)) as engine:
        assert (await ask(engine, chat())).data == (await healthy()).data
    async with failing({"at": "body byte 7", "do": "hang", "duration": 0.01}) as engine:
        assert (await ask(engine, chat())).body == (await healthy()).body


async def test_an_accepted_connection_that_is_silent_still_answers_later() -> None:
    async with failing({"at": "accept", "do": "hang", "duration": 0.02}) as engine:
        assert (await ask(engine, chat())).data == (await healthy()).data


async def test_accepted_and_never_answered() -> None:
    async with failing({"at": "accept", "do": "hang"}) as engine, connected(engine) as wire:
        wire.send(request(chat()))
        await engine.until(lambda: engine.journal.totals.open == 1)
        wire.leave()
        await engine.until(lambda: engine.journal.totals.open == 0)
        assert engine.requests == []


async def test_a_banner_of_another_protocol() -> None:
    async with failing({"at": "accept", "do": "raw", "data": "SSH-2.0-x\r\n"}) as engine:
        answer = await ask(engine, chat())
    assert answer.data == b"SSH-2.0-x\r\n" + (await healthy()).data


async def test_garbage_is_random_but_the_same_each_time() -> None:
    async with failing({"at": "request", "do": "garbage", "size": 20}) as engine:
        one, two = [(await ask(engine, chat())).data for _ in range(2)]
    assert one == two
    assert one[20:] == (await healthy()).data
    async with failing({"at": "request", "do": "garbage", "size": 20}) as engine:
        engine.set(engine.script.model_copy(update={"seed": 1}))
        assert (await ask(engine, chat())).data[:20] != one[:20]


async def test_raw_bytes_fall_between_chunks() -> None:
    async with failing({"at": "event 1", "do": "raw", "data": "hex:5a0d0a"}) as engine:
        answer = await ask(engine, chat())
    before, found, after = answer.rest.partition(b"Z\r\n")
    assert found and before.endswith(b"\n\n\r\n") and after.startswith(b"cd\r\ndata:")


async def test_dripping_from_a_place() -> None:
    async with failing({"at": "byte 3", "do": "drip", "every": 0.0001}) as engine, connected(engine) as wire:
        wire.send(request(chat(stream=False), headers={"connection": "close"}))
        answer = await wire.rest()
    assert answer.data == (await healthy(chat(stream=False))).data


async def test_an_extra_event() -> None:
    async with failing({"at": "event 2", "do": "event", "data": {"odd": 1}}) as engine:
        answer = await ask(engine, chat())
    whole = (await healthy()).payloads
    assert answer.payloads == [*whole[:2], b'{"odd":1}', *whole[2:]]


async def test_invalid_json_in_an_event() -> None:
    async with failing({"at": "event 0", "do": "event", "data": '{"broken'}) as engine:
        assert (await ask(engine, chat())).payloads[0] == b'{"broken'


async def test_a_huge_event() -> None:
    async with failing({"at": "event 1", "do": "event", "size": 3_000_000}) as engine:
        answer = await ask(engine, chat())
    assert b"x" * 2_999_000 in answer.body


@pytest.mark.parametrize("place", [0, 3])
async def test_an_error_event_ends_the_stream(place: int) -> None:
    async with failing({"at": f"event {place}", "do": "error"}) as engine:
        answer = await ask(engine, chat())
    assert answer.whole and answer.end == "fin"
    assert len(answer.payloads) == place + 1
    assert set(json.loads(answer.payloads[-1])) == {"error"}


async def test_an_error_of_ones_own() -> None:
    async with failing({"at": "event 0", "do": "error", "data": {"error": "no memory"}}) as engine:
        assert (await ask(engine, chat())).payloads == [b'{"error":"no memory"}']


async def test_comments_and_nothing_else() -> None:
    fault = {"at": "event 0", "do": "comments", "every": 0.001}
    async with failing(fault) as engine, connected(engine) as wire:
        wire.send(request(chat()))
        for _ in range(5):
            await wire.until(b": keep-alive\n\n")
        assert engine.requests[0].events == 0


async def test_comments_for_a_while() -> None:
    fault = {"at": "event 0", "do": "comments", "every": 0.001, "duration": 0.004}
    async with failing(fault) as engine:
        answer = await ask(engine, chat())
    assert answer.body == b": keep-alive\n\n" * 4 + (await healthy()).body


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_body_that_ends_early_in_good_order(framing: str) -> None:
    faults = [{"at": "body byte 40", "do": "end"}]
    async with failing(*faults, http={"framing": framing}) as engine:
        answer = await ask(engine, chat(stream=False))
    assert answer.end == "fin"
    assert answer.body == (await healthy(chat(stream=False))).body[:40]
    assert framing == "close" or answer.whole


async def test_a_body_shorter_than_its_length() -> None:
    async with failing({"at": "body byte 40", "do": "end"}) as engine, connected(engine) as wire:
        wire.send(request(chat(stream=False)))
        answer = await wire.rest()
    assert int(answer.headers["content-length"]) > 40 == len(answer.rest)


async def test_an_empty_body() -> None:
    async with failing({"at": "headers", "do": "end"}) as engine:
        answer = await ask(engine, chat())
    assert (answer.status, answer.rest, answer.whole) == (200, b"0\r\n\r\n", True)


async def test_faults_at_one_place_happen_in_their_order() -> None:
    faults = [{"at": "event 1", "do": "event", "data": "{}"}, {"at": "event 1", "do": "close"}]
    async with failing(*faults) as engine:
        assert (await ask(engine, chat())).payloads[1:] == [b"{}"]


# When


async def test_after_and_times() -> None:
    async with failing({"at": "request", "do": "close"}, match={"after": 1, "times": 2}) as engine:
        answers = [bool((await ask(engine, chat())).data) for _ in range(5)]
        assert answers == [True, False, False, True, True]
        assert [exchange.rule for exchange in engine.requests] == [None, 0, 0, None, None]


async def test_after_and_times_for_connections() -> None:
    async with failing({"at": "accept", "do": "close"}, match={"after": 1, "times": 1}) as engine:
        answers = []
        for _ in range(3):
            async with connected(engine) as wire:
                await asyncio.sleep(0)
                wire.send(request(path="/health", method="GET", headers={"connection": "close"}))
                answers.append(bool((await wire.rest()).data))
        assert answers == [True, False, True]


@pytest.mark.parametrize(
    ("match", "body", "matches"),
    [
        ({"model": "m"}, chat(), True),
        ({"model": "n"}, chat(), False),
        ({"stream": True}, chat(), True),
        ({"stream": False}, chat(), False),
        ({"path": "/v1/chat/*"}, chat(), True),
        ({"path": "/v1/completions"}, chat(), False),
        ({"contains": "one two"}, chat(), True),
        ({"contains": "nonce-7"}, chat(), False),
        ({"header": {"X-Kind": "batch"}}, chat(), True),
        ({"header": {"x-kind": "other"}}, chat(), False),
    ],
)
async def test_what_a_rule_matches(match: dict[str, Any], body: Any, matches: bool) -> None:
    async with FakeEngine(rules=[{"match": match, "reply": {"status": 418}}]) as engine:
        answer = await ask(engine, body, headers={"x-kind": "batch"})
    assert (answer.status == 418) is matches


async def test_rules_without_a_path_leave_health_and_models_alone() -> None:
    async with FakeEngine(rules=[{"reply": {"status": 500}}], defaults={"first_token": 60}) as engine:
        assert (await ask(engine, path="/health", method="GET")).status == 200
        engine.set(rules=[{"match": {"path": "/health"}, "reply": {"status": 503}}])
        assert (await ask(engine, path="/health", method="GET")).status == 503
        assert (await ask(engine, chat())).status == 200
