"""Where frames begin, for any split of the bytes."""

from hypothesis import given
from hypothesis import strategies as st

from backends.framing.websocket import FAILED, Frames, closing


def frame(kind: int, payload: bytes, masked: bool) -> bytes:
    size = len(payload)
    mask = 128 if masked else 0
    if size < 126:
        head = bytes((128 | kind, mask | size))
    elif size < 1 << 16:
        head = bytes((128 | kind, mask | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((128 | kind, mask | 127)) + size.to_bytes(8, "big")
    return head + (b"abcd" if masked else b"") + payload


FRAMES = st.lists(
    st.builds(
        frame,
        st.sampled_from([0, 1, 2, 9, 10]),
        st.one_of(st.binary(max_size=200), st.sampled_from([b"x" * 125, b"x" * 126, b"x" * 70_000])),
        st.booleans(),
    ),
    max_size=6,
)


@given(FRAMES, st.integers(1, 50_000))
def test_it_is_between_frames_exactly_at_their_ends(frames: list[bytes], size: int) -> None:
    whole = b"".join(frames)
    ends = {0}
    for each in frames:
        ends.add(max(ends) + len(each))
    found = Frames()
    for at in range(0, len(whole), size):
        found.feed(whole[at : at + size])
        assert found.between is (min(at + size, len(whole)) in ends)
    assert found.between and not found.closing


def test_a_closing_frame_is_seen_with_its_head() -> None:
    found = Frames()
    data = frame(1, b"hi", True) + frame(8, b"\x03\xe8", True)
    for byte in data[:-1]:
        found.feed(bytes((byte,)))
    assert found.closing and not found.between
    found.feed(data[-1:])
    assert found.between


def test_a_closing_frame_fits_into_a_control_frame() -> None:
    made = closing(FAILED, "ä" * 100)
    assert made[:2] == bytes((0x88, 2 + 122)) and made[2:4] == (1011).to_bytes(2, "big")
    assert made[4:].decode() == "ä" * 61
