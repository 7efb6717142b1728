"""What is written is what is read; what was altered, cut or foreign is a MessageError."""

import dataclasses
import json
import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdl.downlinks import WholeContent
from gcdl.errors import MessageError
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Reply, Task
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind, bare, read_json, with_json
from gcdl.types import aligned_buffer

LAW = settings(deadline=None, derandomize=True)
RUN = 0x0123_4567_89AB_CDEF

headers = st.builds(
    Header,
    kind=st.sampled_from([kind for kind in Kind if kind is not Kind.STATE]),
    run=st.integers(0, 2**64 - 1),
    worker=st.integers(0, 2**16 - 1),
    step=st.integers(-(2**31), 2**31 - 1),
    loss=st.floats(allow_nan=False),
    slept=st.floats(width=32, allow_nan=False),
    computed=st.floats(width=32, allow_nan=False),
    body_bytes=st.integers(0, 2**64 - HEADER_BYTES - 1),
    clipped=st.integers(0, 2**32 - 1),
    held=st.floats(width=32, allow_nan=False),
    encoded=st.floats(width=32, allow_nan=False),
)


def written(header):
    buffer = aligned_buffer(HEADER_BYTES)
    header.write(buffer)
    return buffer


def sealed(head):
    """A header of these 60 bytes, with a checksum that fits."""
    return np.frombuffer(head + struct.pack("<I", zlib.crc32(head)), dtype=np.uint8)


# --- headers --------------------------------------------------------------------------------------------------------


@given(headers)
@LAW
def test_a_header_is_read_as_it_was_written(header):
    assert Header.read(written(header), HEADER_BYTES + header.body_bytes, header.run) == header


@given(headers)
@LAW
def test_a_header_is_64_bytes_and_touches_no_others(header):
    assert HEADER_BYTES == 64
    arena = np.full(80, 0xA5, dtype=np.uint8)
    header.write(arena)
    assert (arena[64:] == 0xA5).all()
    other = np.full(80, 0x5A, dtype=np.uint8)
    header.write(other)
    assert arena[:64].tobytes() == other[:64].tobytes()


def test_the_fields_lie_where_the_documentation_says():
    header = Header(
        Kind.REPLY,
        RUN,
        worker=7,
        step=-2,
        loss=1.5,
        slept=0.25,
        computed=0.5,
        body_bytes=99,
        held=0.75,
        encoded=0.125,
        clipped=258,
    )
    raw = written(header).tobytes()
    assert raw[:4] == b"GCDL"
    assert raw[4] == 4
    assert raw[5] == Kind.REPLY
    assert struct.unpack_from("<H", raw, 6) == (7,)
    assert struct.unpack_from("<i", raw, 8) == (-2,)
    assert struct.unpack_from("<I", raw, 12) == (258,)
    assert struct.unpack_from("<QQ", raw, 16) == (RUN, 99)
    assert struct.unpack_from("<d", raw, 32) == (1.5,)
    assert struct.unpack_from("<ffff", raw, 40) == (0.25, 0.5, 0.75, 0.125)
    assert raw[56:60] == b"\0\0\0\0"
    assert struct.unpack_from("<I", raw, 60) == (zlib.crc32(raw[:60]),)


@given(st.integers(0, 2**63 - 1))
@LAW
def test_a_part_of_a_state_says_where_it_begins(offset):
    header = Header(Kind.STATE, RUN, worker=3, step=4, body_bytes=5, offset=offset)
    raw = written(header)
    assert Header.read(raw, HEADER_BYTES + 5, RUN) == header
    assert struct.unpack_from("<q", raw.tobytes(), 32) == (offset,)


def test_a_loss_that_is_nan_travels():
    header = Header(Kind.REPLY, RUN, loss=math.nan, slept=math.inf)
    read = Header.read(written(header), HEADER_BYTES, RUN)
    assert math.isnan(read.loss)
    assert read.slept == math.inf


@given(headers)
@settings(deadline=None, derandomize=True, max_examples=20)
def test_every_single_flipped_bit_of_a_header_is_found(header):
    good = written(header)
    for bit in range(8 * HEADER_BYTES):
        altered = good.copy()
        altered[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(MessageError):
            Header.read(altered, HEADER_BYTES + header.body_bytes, header.run)


@given(headers, st.integers(0, 63), st.integers(1, 32), st.data())
@LAW
def test_a_damaged_stretch_of_a_header_is_found(header, start, length, data):
    good = written(header)
    altered = good.copy()
    stretch = altered[start : min(start + length, HEADER_BYTES)]
    stretch[:] = np.frombuffer(data.draw(st.binary(min_size=stretch.size, max_size=stretch.size)), dtype=np.uint8)
    if altered.tobytes() != good.tobytes():
        with pytest.raises(MessageError):
            Header.read(altered, HEADER_BYTES + header.body_bytes, header.run)


@given(headers, st.data())
@LAW
def test_every_truncation_is_found(header, data):
    header = dataclasses.replace(header, body_bytes=header.body_bytes % 1000)
    whole = HEADER_BYTES + header.body_bytes
    received = data.draw(st.integers(0, whole - 1))
    buffer = aligned_buffer(whole)
    header.write(buffer)
    with pytest.raises(MessageError):
        Header.read(buffer, received, header.run)


@pytest.mark.parametrize("received", range(HEADER_BYTES))
def test_less_than_a_header_is_found_whatever_the_buffer_still_holds(received):
    with pytest.raises(MessageError, match=f"a message of {received} bytes is shorter than a header"):
        Header.read(written(Header(Kind.STOP, RUN)), received, RUN)


@pytest.mark.parametrize("extra", [1, 64, 10**6])
def test_a_message_longer_than_it_says_is_found(extra):
    with pytest.raises(MessageError, match=f"a message of {64 + extra} bytes that should have 64"):
        Header.read(written(Header(Kind.STOP, RUN)), HEADER_BYTES + extra, RUN)


def test_a_message_of_another_run_is_found():
    with pytest.raises(MessageError, match="another run"):
        Header.read(written(Header(Kind.REPLY, RUN)), HEADER_BYTES, RUN + 1)


def test_a_message_of_another_version_is_found():
    head = bytearray(written(Header(Kind.REPLY, RUN)).tobytes()[:60])
    head[4] = 5
    with pytest.raises(MessageError, match="a message of version 5; this is version 4"):
        Header.read(sealed(bytes(head)), HEADER_BYTES, RUN)


@pytest.mark.parametrize("kind", [0, 99, 255])
def test_a_message_of_unknown_kind_is_found(kind):
    assert kind not in set(Kind)
    head = bytearray(written(Header(Kind.REPLY, RUN)).tobytes()[:60])
    head[5] = kind
    with pytest.raises(MessageError, match=f"unknown kind {kind}"):
        Header.read(sealed(bytes(head)), HEADER_BYTES, RUN)


@given(st.binary(max_size=200))
@LAW
def test_bytes_of_someone_else_are_never_a_message(raw):
    buffer = np.zeros(200, dtype=np.uint8)
    buffer[: len(raw)] = np.frombuffer(raw, dtype=np.uint8)
    with pytest.raises(MessageError):
        Header.read(buffer, len(raw), RUN)


# --- tasks ----------------------------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 40), st.integers(1, 200), st.integers(0, 20))


@given(sizes, st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1), st.booleans())
@LAW
def test_a_task_is_read_as_it_was_written(size, step, seed, first):
    n, d, scales = size
    rng = np.random.default_rng(seed)
    agreed = None if first or not scales else rng.standard_normal(scales).astype(np.float32)
    model = rng.standard_normal(d).astype(np.float32)
    task = Task(step, rng.integers(-1, 2**40, n), model, agreed, WholeContent(model.view(np.uint8)))
    layout = TaskFormat(n, scales)
    nbytes = layout.nbytes(task, -1)
    assert nbytes == 64 + -(-8 * n // 64) * 64 + -(-4 * scales // 64) * 64 + 4 * d
    buffer = aligned_buffer(nbytes)
    layout.write(task, RUN, -1, buffer)
    header = Header.read(buffer, nbytes, RUN)
    assert header == Header(Kind.TASK, RUN, step=step, body_bytes=nbytes - HEADER_BYTES)
    read = layout.read(header, buffer)
    np.testing.assert_array_equal(read.accepted, task.accepted)
    assert read.content.tobytes() == model.tobytes()
    assert (read.agreed is None) == (agreed is None)
    assert agreed is None or read.agreed.tobytes() == agreed.tobytes()
    # The model can be used where it lies.
    assert read.content.ctypes.data % 64 == 0
    assert np.shares_memory(read.content, buffer)


def test_a_task_that_is_too_short_is_refused():
    buffer = bare(Kind.TASK, RUN)
    with pytest.raises(MessageError, match="a task of 0 bytes where 64 are the least"):
        TaskFormat(4).read(Header.read(buffer, buffer.size, RUN), buffer)


def test_the_count_of_clipped_coordinates_stops_at_the_end_of_its_field():
    for clipped, read in ((0, 0), (77, 77), (1 << 32, (1 << 32) - 1), (1 << 40, (1 << 32) - 1)):
        header = Header(Kind.REPLY, RUN, clipped=clipped)
        assert Header.read(written(header), HEADER_BYTES, RUN) == Header(Kind.REPLY, RUN, clipped=read)


def test_the_payload_of_a_reply_is_what_follows_the_header():
    message = np.arange(70, dtype=np.uint8)
    payload = Reply(0, 0, 0.0, message).payload
    assert payload.tolist() == [64, 65, 66, 67, 68, 69]
    assert np.shares_memory(payload, message)


# --- the others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(Kind))
def test_a_bare_message_is_a_header_and_nothing_else(kind):
    message = bare(kind, RUN, worker=3, step=1)
    assert message.nbytes == HEADER_BYTES
    assert Header.read(message, HEADER_BYTES, RUN) == Header(kind, RUN, worker=3, step=1)


bodies = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=6
    ),
    max_size=5,
)


@given(bodies)
@LAW
def test_a_json_body_is_read_as_it_was_written(body):
    message = with_json(Kind.ERROR, RUN, 5, body, step=2)
    header = Header.read(message, message.nbytes, RUN)
    assert header == Header(Kind.ERROR, RUN, worker=5, step=2, body_bytes=message.nbytes - HEADER_BYTES)
    assert read_json(header, message) == body


def test_a_json_body_ends_where_the_header_says_though_the_buffer_is_longer():
    message = with_json(Kind.BYE, RUN, 0, {"a": 1})
    longer = np.concatenate([message, np.full(50, ord("}"), dtype=np.uint8)])
    assert read_json(Header.read(longer, message.nbytes, RUN), longer) == {"a": 1}


@pytest.mark.parametrize("body", [b"", b"{", b"no json", b"\xff\xfe", b"{} {}", b"[1]", b"3", b"null", b'"text"'])
def test_a_body_that_is_no_json_object_is_refused(body):
    buffer = aligned_buffer(HEADER_BYTES + len(body))
    Header(Kind.READY, RUN, body_bytes=len(body)).write(buffer)
    buffer[HEADER_BYTES:] = np.frombuffer(body, dtype=np.uint8)
    with pytest.raises(MessageError, match="a READY message whose body is not"):
        read_json(Header.read(buffer, buffer.nbytes, RUN), buffer)


def test_json_is_what_other_programs_call_json():
    message = with_json(Kind.READY, RUN, 0, {"host": "Zürich"})
    assert json.loads(message[HEADER_BYTES:].tobytes()) == {"host": "Zürich"}
