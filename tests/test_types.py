"""Random numbers are a function of their key, buffers lie where they should, layouts are flat."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdl.types import Layout, Stream, aligned_buffer, aligned_vector, rng_for


def numbers(*key):
    return tuple(rng_for(*key).integers(0, 1 << 62, 4).tolist())


def test_a_generator_depends_on_its_arguments_alone():
    first = numbers(1, Stream.DATA, 2, 3)
    np.random.default_rng().random()
    assert numbers(1, Stream.DATA, 2, 3) == first


def test_other_seeds_streams_and_keys_give_other_numbers():
    keys = [
        (seed, stream, *key)
        for seed in (0, 1, 2**40)
        for stream in Stream
        for key in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]
    ]
    assert len({numbers(*key) for key in keys}) == len(keys)


def test_two_generators_of_one_key_do_not_share_their_state():
    one, other = rng_for(0, Stream.CODE), rng_for(0, Stream.CODE)
    one.random(100)
    assert other.random() == rng_for(0, Stream.CODE).random()


def test_streams_are_never_renumbered():
    # A stream's number is part of every seed's meaning: old configs must go on giving the same runs.
    assert {stream.name: int(stream) for stream in Stream}.items() >= {
        "CODE": 1, "SHARDS": 2, "DATA": 3, "MODEL": 4, "MINIBATCH": 5, "DELAYS": 6, "COMPRESSOR": 7,
    }.items()  # fmt: skip


def test_random_numbers_are_the_same_on_every_machine_and_in_every_version():
    assert rng_for(7, Stream.MINIBATCH, 1, 2).integers(0, 1 << 32, 3).tolist() == [1438677962, 3292212332, 4121665002]


@given(st.integers(0, 300), st.sampled_from([1, 16, 64, 128, 4096]))
@settings(deadline=None, derandomize=True)
def test_a_buffer_has_its_size_and_starts_on_its_boundary(nbytes, alignment):
    buffer = aligned_buffer(nbytes, alignment)
    assert buffer.shape == (nbytes,)
    assert buffer.dtype == np.uint8
    assert nbytes == 0 or buffer.ctypes.data % alignment == 0
    buffer[:] = 255  # all of it is ours


@pytest.mark.parametrize("d", [0, 1, 17, 100_000])
def test_a_vector_is_zeros_on_a_64_byte_boundary(d):
    vector = aligned_vector(d)
    assert vector.shape == (d,)
    assert vector.dtype == np.float32
    assert not vector.any()
    assert d == 0 or vector.ctypes.data % 64 == 0
    assert vector.flags.c_contiguous
    assert vector.flags.writeable


SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=7)


@given(SHAPES)
@settings(deadline=None, derandomize=True)
def test_slices_tile_the_flat_vector_in_order(shapes):
    layout = Layout(tuple(f"t{i}" for i in range(len(shapes))), tuple(shapes))
    sizes = [int(np.prod(shape)) for shape in shapes]
    assert layout.size == sum(sizes)
    assert [where.stop - where.start for where in layout.slices] == sizes
    edges = [0, *itertools.accumulate(sizes)]
    assert [where.start for where in layout.slices] == edges[:-1]


@given(SHAPES)
@settings(deadline=None, derandomize=True)
def test_every_coordinate_has_the_tensor_whose_slice_holds_it(shapes):
    layout = Layout(tuple(f"t{i}" for i in range(len(shapes))), tuple(shapes))
    for name, where in zip(layout.names, layout.slices, strict=True):
        assert all(layout.tensor_at(coordinate) == name for coordinate in range(where.start, where.stop))
    with pytest.raises(IndexError):
        layout.tensor_at(layout.size)


def test_a_layout_of_no_tensors_has_size_zero():
    assert Layout((), ()).size == 0
