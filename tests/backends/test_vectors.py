"""Embeddings come as they were asked for, whatever the engine gives."""

import math
import struct
from base64 import b64decode, b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Failure, Kind, Operation, Request, RequestError
from backends.dialect import vectors
from backends.registry import create, engine, names

VECTOR = [0.5, -0.25, 0.75, 1.0]


def packed(numbers: list[float]) -> str:
    return b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def unpacked(text: str) -> list[float]:
    data = b64decode(text)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def answer(*given: Any) -> bytes:
    data = [{"object": "embedding", "index": n, "embedding": each} for n, each in enumerate(given)]
    return msgspec.json.encode(
        {"object": "list", "data": data, "model": "own", "usage": {"prompt_tokens": 3}}
    )


def asked(**members: Any) -> bytes:
    return msgspec.json.encode({"model": "m", "input": ["a"], **members})


def found(wanted: bytes, body: bytes) -> list[Any]:
    told = vectors.answered(wanted, body)
    assert isinstance(told, bytes)
    return [item["embedding"] for item in msgspec.json.decode(told)["data"]]


@pytest.mark.parametrize("given", [VECTOR, packed(VECTOR)], ids=["numbers", "base64"])
def test_either_encoding_becomes_the_one_that_was_asked_for(given: Any) -> None:
    assert found(asked(), answer(given, given)) == [VECTOR, VECTOR]
    assert found(asked(encoding_format="float"), answer(given)) == [VECTOR]
    assert found(asked(encoding_format="base64"), answer(given)) == [packed(VECTOR)]


def test_an_answer_that_is_as_it_was_asked_for_keeps_its_bytes() -> None:
    spaced = answer(VECTOR).replace(b":", b": ")
    assert vectors.answered(asked(), spaced) is spaced
    assert vectors.answered(asked(dimensions=4), spaced) is spaced
    coded = answer(packed(VECTOR))
    assert vectors.answered(asked(encoding_format="base64"), coded) is coded
    odd = answer([1.5])
    assert vectors.answered(asked(encoding_format="bytes"), odd) is odd


def test_a_shorter_vector_has_the_first_numbers_and_the_length_one() -> None:
    short = [0.5 / math.sqrt(0.3125), -0.25 / math.sqrt(0.3125)]
    assert found(asked(dimensions=2), answer(VECTOR))[0] == pytest.approx(short)
    text = found(asked(dimensions=2, encoding_format="base64"), answer(VECTOR))[0]
    assert unpacked(text) == pytest.approx(short)
    assert found(asked(dimensions=1), answer([0.0, 1.0])) == [[0.0]]


def test_what_stands_beside_the_vectors_stays() -> None:
    told = vectors.answered(asked(encoding_format="base64"), answer(VECTOR))
    assert isinstance(told, bytes)
    assert msgspec.json.decode(told) == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": packed(VECTOR)}],
        "model": "own",
        "usage": {"prompt_tokens": 3},
    }


def test_a_vector_longer_than_the_models_is_the_clients_mistake() -> None:
    told = vectors.answered(asked(dimensions=8), answer(VECTOR))
    assert isinstance(told, Failure)
    assert (told.kind, told.param) == (Kind.REJECTED, "dimensions")
    assert "4 numbers" in told.message


@pytest.mark.parametrize("body", [b'{"data":[{"embedding":"?"}]}', b'{"data":[{"embedding":"YQ=="}]}'])
def test_what_is_no_vector_cannot_be_read(body: bytes) -> None:
    with pytest.raises(ValueError):
        vectors.answered(asked(), body)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=64), st.integers(1, 64))
def test_shortened_vectors_have_length_one_or_are_zero(numbers: list[float], dimensions: int) -> None:
    short = vectors.shortened(numbers, dimensions)
    assert len(short) == min(len(numbers), dimensions)
    size = math.sqrt(math.fsum(each * each for each in short))
    assert size == 0 or size == pytest.approx(1)


EMBEDDING = [name for name in names() if Operation.EMBEDDINGS in engine(name).operations]


@pytest.mark.parametrize("name", EMBEDDING)
def test_every_engine_gives_openais_clients_what_they_ask_for(name: str) -> None:
    made = create(name)
    request = Request(Operation.EMBEDDINGS, asked(encoding_format="base64", dimensions=2), "m")
    sent = msgspec.json.decode(made.call(request, "own").body)
    assert sent.get("dimensions", 2) == 2
    body = msgspec.json.encode({"embeddings": [VECTOR]}) if name == "ollama" else answer(VECTOR)
    reply = made.reply(request, "own", [], body)
    assert not isinstance(reply, Failure)
    told = msgspec.json.decode(reply.body)["data"][0]["embedding"]
    assert unpacked(told) == pytest.approx([0.5 / math.sqrt(0.3125), -0.25 / math.sqrt(0.3125)])


@pytest.mark.parametrize("name", EMBEDDING)
@pytest.mark.parametrize("dimensions", [0, -3])
def test_no_vector_has_no_numbers(name: str, dimensions: int) -> None:
    with pytest.raises(RequestError) as refused:
        create(name).call(Request(Operation.EMBEDDINGS, asked(dimensions=dimensions), "m"), "own")
    assert (refused.value.failure.kind, refused.value.failure.param) == (Kind.REJECTED, "dimensions")


@pytest.mark.parametrize("name", EMBEDDING)
def test_tokens_are_embedded_or_refused_by_name(name: str) -> None:
    request = Request(Operation.EMBEDDINGS, asked(input=[[1, 2, 3]]), "m")
    if name in ("ollama", "llama-cpp-python"):
        with pytest.raises(RequestError) as refused:
            create(name).call(request, "own")
        assert (refused.value.failure.kind, refused.value.failure.param) == (Kind.UNSUPPORTED, "input")
    else:
        sent = msgspec.json.decode(create(name).call(request, "own").body)
        assert sent["input"] in ([[1, 2, 3]], [1, 2, 3])
