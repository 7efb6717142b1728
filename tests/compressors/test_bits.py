"""Bits travel in numpy.packbits order, and the blocked kernels agree with plain numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdl.compressors import Sign
from gcdl.compressors.bits import SignSum, max_abs, mean_abs, norm2, pack_signs, packed_bytes, pieces
from gcdl.types import Layout


def layout_of(sizes):
    return Layout(tuple(map(str, range(len(sizes)))), tuple((size,) for size in sizes))


def test_eight_coordinates_a_byte_rounded_up():
    assert [packed_bytes(d) for d in (0, 1, 7, 8, 9, 16, 17)] == [0, 1, 1, 1, 2, 2, 3]


def test_the_first_coordinate_is_the_highest_bit():
    x = np.array([1, -1, -1, -1, -1, -1, -1, -1, -1, 1], dtype=np.float32)
    out = np.full(2, 0xFF, dtype=np.uint8)
    pack_signs(x, out, np.empty(10, dtype=bool))
    assert out.tolist() == [0b1000_0000, 0b0100_0000]


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=70))
@settings(deadline=None, derandomize=True)
def test_packed_signs_are_numpys_packbits_of_x_not_negative(numbers):
    x = np.array(numbers, dtype=np.float32)
    out = np.empty(packed_bytes(x.size), dtype=np.uint8)
    pack_signs(x, out, np.empty(x.size, dtype=bool))
    np.testing.assert_array_equal(out, np.packbits(x >= 0))


def test_a_sign_payload_is_packbits():
    x = np.random.default_rng(0).standard_normal(1003).astype(np.float32)
    codec = Sign().codec(layout_of([1000, 3]))
    out = np.empty(codec.payload_bytes, dtype=np.uint8)
    codec.compress(x.copy(), codec.init(), None, out)
    assert out.tobytes() == np.packbits(x >= 0).tobytes()


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=8),
    st.integers(0, 4),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, derandomize=True)
def test_a_sign_sum_is_the_naive_weighted_sum(sizes, m, seed):
    layout = layout_of(sizes)
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (m, packed_bytes(layout.size)), dtype=np.uint8)
    weights = rng.standard_normal((m, len(sizes))).astype(np.float32)
    into = np.full(layout.size, np.nan, dtype=np.float32)
    SignSum(layout)(list(bits), weights, into)
    signs = 2.0 * np.unpackbits(bits, axis=1)[:, : layout.size] - 1.0
    spread = np.repeat(weights.astype(np.float64), sizes, axis=1)
    np.testing.assert_allclose(into, (spread * signs).sum(axis=0), atol=1e-5)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.data())
@settings(deadline=None, derandomize=True)
def test_pieces_tile_a_range_and_name_the_tensor_of_each_coordinate(sizes, data):
    layout = layout_of(sizes)
    start = data.draw(st.integers(0, layout.size))
    stop = data.draw(st.integers(start, layout.size))
    tensors = np.repeat(np.arange(len(sizes)), sizes)
    found = np.full(stop - start, -1)
    for tensor, where in pieces(layout, start, stop):
        assert 0 <= where.start <= where.stop <= stop - start
        assert (found[where] == -1).all()
        found[where] = tensor
    np.testing.assert_array_equal(found, tensors[start:stop])


@pytest.mark.parametrize("d", [1, 5, 131072, 131072 + 3])
def test_magnitudes_are_those_of_plain_numpy(d):
    x = np.random.default_rng(d).standard_normal(d).astype(np.float32)
    wide = x.astype(np.float64)
    assert max_abs(x) == np.abs(x).max()
    assert norm2(x) == pytest.approx(np.linalg.norm(wide), rel=1e-5)
    assert mean_abs(x, np.empty(min(d, 131072), dtype=np.float32)) == pytest.approx(np.abs(wide).mean(), rel=1e-5)


def test_magnitudes_of_nothing_are_zero():
    nothing = np.empty(0, dtype=np.float32)
    assert max_abs(nothing) == norm2(nothing) == mean_abs(nothing, nothing) == 0.0


def test_the_largest_magnitude_may_be_negative():
    assert max_abs(np.array([1.0, -4.0, 2.0], dtype=np.float32)) == 4.0
    assert max_abs(np.array([-1.0, -4.0], dtype=np.float32)) == 4.0
