"""Modbus answers as bytes: the checksum, and that no bytes whatever can do harm."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hal.modbus_frames import Answer, Ask, RtuStream, Stream, TcpStream, crc16
from tests.support.modbus_peer import PeerRequest, bit_value, register_value, right_pdu, rtu_frame, tcp_frame

ASKS = st.builds(
    Ask,
    unit=st.integers(1, 255),
    function=st.sampled_from([1, 2, 3, 4, 16]),
    address=st.integers(0, 0xFF00),
    count=st.integers(1, 120),
    transaction=st.integers(1, 65000),
)


def _streams() -> tuple[Stream, Stream]:
    return TcpStream(), RtuStream()


def _frames(ask: Ask) -> tuple[bytes, bytes]:
    pdu = right_pdu(PeerRequest(ask.unit, ask.function, ask.address, ask.count))
    return tcp_frame(ask.transaction, ask.unit, pdu), rtu_frame(ask.unit, pdu)


def _right(ask: Ask) -> list[int]:
    if ask.function == 16:
        return []
    value = bit_value if ask.function in {1, 2} else register_value
    return [value(ask.unit, ask.address + i) for i in range(ask.count)]


def test_the_checksum_is_that_of_the_catalogue() -> None:
    """CRC-16/MODBUS of "123456789" is 0x4B37, and over a frame with its own CRC it is 0."""
    assert crc16(b"123456789") == 0x4B37
    assert crc16(rtu_frame(17, b"\x03\x02\x00\x01")) == 0


@settings(derandomize=True, max_examples=200)
@given(ask=ASKS, cuts=st.lists(st.integers(1, 12), max_size=40))
def test_a_right_answer_is_understood_however_it_is_cut(ask: Ask, cuts: list[int]) -> None:
    """Split anywhere, an answer gives its values exactly once, with the last byte."""
    for stream, frame in zip(_streams(), _frames(ask), strict=True):
        rest, answers = frame, []
        for cut in [*cuts, len(frame)]:
            part, rest = rest[:cut], rest[cut:]
            answers += [stream.take(part, ask)] if part else []
        assert answers[:-1] == [None] * (len(answers) - 1)
        answer = answers[-1]
        assert answer is not None
        assert not answer.problem
        assert list(answer.values) == _right(ask)


@settings(derandomize=True, max_examples=400)
@given(ask=st.none() | ASKS, chunks=st.lists(st.binary(max_size=300), max_size=8))
def test_no_bytes_raise_or_pile_up(ask: Ask | None, chunks: list[bytes]) -> None:
    """Random bytes end in nothing, a problem or a refusal, and what is kept stays small."""
    for stream in _streams():
        for chunk in chunks:
            answer = stream.take(chunk, ask)
            assert answer is None or isinstance(answer, Answer)
            assert stream.broken or len(stream.unread) <= 512


@settings(derandomize=True, max_examples=300)
@given(ask=ASKS, data=st.data())
def test_a_damaged_answer_never_gives_values(ask: Ask, data: st.DataObject) -> None:
    """One flipped bit in an RTU frame, or in the first nine bytes of a TCP frame, never yields values.

    TCP carries no checksum of its own, so a flip in its data bytes is TCP's to find.
    """
    for stream, frame, guarded in zip(_streams(), _frames(ask), (8, 10_000), strict=True):
        position = data.draw(st.integers(0, min(guarded, len(frame)) - 1))
        damaged = bytearray(frame)
        damaged[position] ^= 1 << data.draw(st.integers(0, 7))
        answer = stream.take(bytes(damaged), ask)
        assert answer is None or answer.problem or answer.refusal is not None


@pytest.mark.parametrize("pdu", ["03", "83", "0300", "0301aa", "030312", "03031234ab", "0302123456", "100001", "80"])
def test_short_and_odd_answers_are_problems(pdu: str) -> None:
    """An answer whose length or byte count does not fit is a problem, also where it is too short to look into."""
    answer = TcpStream().take(tcp_frame(9, 1, bytes.fromhex(pdu)), Ask(1, 3, 0, 1, 9))
    assert answer is not None
    assert answer.problem
