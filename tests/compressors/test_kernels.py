"""The kernels are those of plain numpy, and the compiled ones give the same bits."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdl.compressors import Draw, Sign
from gcdl.compressors.kernels import BLOCK, Kernels, Stream16, Wraps, blocks, kernels_for, packed_bytes
from gcdl.compressors.kernels.native import CompiledKernels
from gcdl.compressors.scale_groups import Groups
from gcdl.errors import UsageError
from gcdl.types import Layout


def layout_of(sizes):
    return Layout(tuple(map(str, range(len(sizes)))), tuple((size,) for size in sizes))


def numbers(d, seed=0):
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


def test_eight_coordinates_a_byte_rounded_up():
    assert [packed_bytes(d) for d in (0, 1, 7, 8, 9, 16, 17)] == [0, 1, 1, 1, 2, 2, 3]


def test_the_first_coordinate_is_the_highest_bit():
    out = np.full(2, 0xFF, dtype=np.uint8)
    Kernels(10).pack(np.array([1, -1, -1, -1, -1, -1, -1, -1, -1, 1], dtype=np.float32), out)
    assert out.tolist() == [0b1000_0000, 0b0100_0000]


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=70))
@settings(deadline=None, derandomize=True)
def test_packed_signs_are_numpys_packbits_of_x_not_negative(values):
    x = np.array(values, dtype=np.float32)
    out = np.empty(packed_bytes(x.size), dtype=np.uint8)
    Kernels(x.size).pack(x, out)
    np.testing.assert_array_equal(out, np.packbits(x >= 0))


def test_a_sign_payload_is_packbits():
    x = numbers(1003)
    codec = Sign().codec(layout_of([1000, 3]))
    out = np.empty(codec.payload_bytes, dtype=np.uint8)
    codec.compress(x.copy(), codec.init(), Draw(0, 0, 0, 1), out)
    assert out.tobytes() == np.packbits(x >= 0).tobytes()


SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=50)


def edges_of(sizes):
    return np.cumsum([0, *sizes])


@given(SIZES, st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True)
def test_decoding_is_the_naive_weighted_sum(sizes, m, seed):
    d = sum(sizes)
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (m, packed_bytes(d)), dtype=np.uint8)
    values = rng.standard_normal((m, len(sizes))).astype(np.float32)
    into = np.full(d, np.nan, dtype=np.float32)
    Kernels(d).decode(list(bits), values, edges_of(sizes), into)
    signs = 2.0 * np.unpackbits(bits, axis=1)[:, :d] - 1.0
    np.testing.assert_allclose(into, (np.repeat(values.astype(np.float64), sizes, axis=1) * signs).sum(axis=0), atol=1e-5)


@given(SIZES, st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True)
def test_decoding_adds_up_in_the_documented_order(sizes, m, seed):
    # Bit for bit, whatever way was taken: eights from +0 in order, then the eights in theirs.
    d = sum(sizes)
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (m, packed_bytes(d)), dtype=np.uint8)
    values = (rng.standard_normal((m, len(sizes))) * 10.0 ** rng.integers(-9, 9, (m, 1))).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = 0.0
    into = np.full(d, np.nan, dtype=np.float32)
    Kernels(d).decode(list(bits), values, edges_of(sizes), into)
    signed = np.repeat(values, sizes, axis=1) * (2.0 * np.unpackbits(bits, axis=1)[:, :d] - 1.0).astype(np.float32)
    total = np.zeros(d, dtype=np.float32)
    for first in range(0, m, 8):
        eight = np.zeros(d, dtype=np.float32)
        for row in signed[first : first + 8]:
            eight = eight + row
        total = total + eight
    assert into.tobytes() == total.tobytes()


@given(SIZES, st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True)
def test_a_fold_adds_one_message(sizes, seed):
    d = sum(sizes)
    rng = np.random.default_rng(seed)
    bits, values = rng.integers(0, 256, packed_bytes(d), dtype=np.uint8), rng.standard_normal(len(sizes)).astype(np.float32)
    source = numbers(d, 1)
    signed = np.repeat(values, sizes) * (2.0 * np.unpackbits(bits)[:d] - 1.0).astype(np.float32)
    into = np.full(d, np.nan, dtype=np.float32)
    Kernels(d).fold(bits, values, edges_of(sizes), source, into)
    assert into.tobytes() == (source + signed).tobytes()
    Kernels(d).fold(bits, values, edges_of(sizes), source, source)
    assert into.tobytes() == source.tobytes()


@given(st.integers(0, 70), st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True)
def test_votes_are_counted_in_as_many_planes_as_it_takes(m, seed):
    rows = list(np.random.default_rng(seed).integers(0, 256, (m, 5), dtype=np.uint8))
    before = [row.copy() for row in rows]
    planes = Kernels(40).count_votes([rows])
    assert len(planes) == int(np.ceil(np.log2(m + 1)))
    counted = sum((2**i * np.unpackbits(plane).astype(int) for i, plane in enumerate(planes)), np.zeros(40, dtype=int))
    np.testing.assert_array_equal(counted, sum((np.unpackbits(row).astype(int) for row in before), np.zeros(40, dtype=int)))
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("sizes", [[1], [1023], [1024], [5000, 3], [0, 7, 0], [3] * 40, [0, 2] * 30, [BLOCK - 1, 1]], ids=str)
def test_sums_of_runs_are_those_of_plain_numpy(sizes):
    x = numbers(sum(sizes))
    edges, kernels = edges_of(sizes), Kernels(x.size)
    parts = [x[a:b].astype(np.float64) for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(kernels.sums_abs(x, edges), [np.abs(p).sum() for p in parts], rtol=1e-5)
    np.testing.assert_allclose(kernels.sums_square(x, edges), [(p**2).sum() for p in parts], rtol=1e-5)
    np.testing.assert_allclose(kernels.sums_positive(x, edges), [p[p > 0].sum() for p in parts], rtol=1e-5)
    assert kernels.counts_positive(x, edges).tolist() == [int((p >= 0).sum()) for p in parts]
    assert kernels.maxima(x, edges).tolist() == [float(np.abs(p).max()) if p.size else 0.0 for p in parts]


@pytest.mark.parametrize("runs", [1, 50])
@pytest.mark.parametrize("size", [1e25, 1e-24, 0.0])
def test_squares_neither_overflow_nor_underflow(size, runs):
    x = numbers(runs * 20) * np.float32(size)
    found = Kernels(x.size).sums_square(x, edges_of([0, *[20] * runs]))
    np.testing.assert_allclose(found, [0.0, *(x.astype(np.float64) ** 2).reshape(runs, 20).sum(axis=1)], rtol=1e-6)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(0, 5), st.data())
@settings(deadline=None, derandomize=True)
def test_a_window_names_the_group_of_each_coordinate(sizes, block, data):
    groups = Groups.of(layout_of(sizes), block)
    assert groups.sizes.sum() == sum(sizes)
    assert (groups.sizes <= (block or 12)).all()
    start = data.draw(st.integers(0, sum(sizes)))
    stop = data.draw(st.integers(start, sum(sizes)))
    window, edges = groups.window(start, stop)
    every = np.repeat(np.arange(groups.count), groups.sizes)
    np.testing.assert_array_equal(np.repeat(np.arange(groups.count)[window], np.diff(edges)), every[start:stop])


def test_blocks_tile_the_vector_and_start_at_whole_bytes():
    d = 2 * BLOCK + 5
    assert list(blocks(d)) == [
        (slice(0, BLOCK), slice(0, BLOCK // 8)),
        (slice(BLOCK, 2 * BLOCK), slice(BLOCK // 8, BLOCK // 4)),
        (slice(2 * BLOCK, d), slice(BLOCK // 4, BLOCK // 4 + 1)),
    ]
    assert list(blocks(0)) == []


# --- compiled -------------------------------------------------------------------------------------------------------


def runs(d):
    """Ways to cut d coordinates into runs: one, two, with empty ones, with short ones, and more than a loop is worth."""
    yield from ([d], [d // 3, d - d // 3], [0, d // 7, 0, d - d // 7, 0], [1] * min(d, 20) + [d - min(d, 20)])
    yield [d // 50] * 50 + [d - 50 * (d // 50)]


def drawn(rng, *shape, size=6):
    """Numbers of very different sizes, with zeros and minus zeros among them."""
    values = (rng.standard_normal(shape) * 10.0 ** rng.integers(-size, size, shape)).astype(np.float32)
    values[rng.random(shape) < 0.1] = 0.0
    values[rng.random(shape) < 0.1] *= -0.0
    return values


@pytest.mark.parametrize("d", [1, 63, 64, 65, 1000, 1024, 4096, 100_001, BLOCK])
def test_the_compiled_kernels_give_the_same_bits(d):
    rng = np.random.default_rng(d)
    reference, compiled = Kernels(d), CompiledKernels(d)

    def check(name, *arguments, out=None):
        """Both write to buffers of their own, filled differently."""
        results = []
        for kernels, background in ((reference, 0x11), (compiled, 0xEE)):
            buffer = None if out is None else np.full(out[0] * np.dtype(out[1]).itemsize, background, np.uint8).view(out[1])
            if out is not None and len(out) == 3:
                buffer[:] = out[2]
            found = getattr(kernels, name)(*arguments, *([] if buffer is None else [buffer]))
            results.append((buffer if found is None else found).tobytes())
        assert results[0] == results[1], name

    for sizes in runs(d):
        edges, q, size = edges_of(sizes), len(sizes), packed_bytes(d)
        x, units = drawn(rng, d), drawn(rng, q)
        bits = rng.integers(0, 256, size, dtype=np.uint8)
        key = int(rng.integers(2**63)) * 2 + 1, int(rng.integers(2**63)) * 2
        stream = Stream16(key, int(rng.integers(2**40)), int(rng.integers(2**16)))
        check("pack", x, out=(size, np.uint8))
        check("shorts", d, stream)
        check("stochastic", x, units * 1e3, edges, stream, 0.37, out=(size, np.uint8))
        for name in ("sums_abs", "sums_square", "sums_positive", "maxima", "counts_positive"):
            check(name, x, edges)
        check("fold", bits, units, edges, x, out=(d, np.float32))
        check("add_ramp", stream, units, drawn(rng, q), edges, out=(d, np.float32, x))
        for m in (1, 7, 8, 9, 50):
            check("decode", list(rng.integers(0, 256, (m, size), dtype=np.uint8)), drawn(rng, m, q), edges, out=(d, np.float32))
            wraps = Wraps(np.sort(rng.integers(-(2**15), 2**15 + 1, m)).astype(np.int32))
            check("add_steps", stream, wraps, units, drawn(rng, q, m + 1), edges, out=(d, np.float32, x))
        check("decode", [], np.empty((0, q), dtype=np.float32), edges, out=(d, np.float32))


def test_a_nan_is_packed_alike():
    x = np.tile(np.array([np.nan, -np.nan, np.inf, -np.inf], dtype=np.float32), 32)
    packed = [np.empty(16, dtype=np.uint8), np.empty(16, dtype=np.uint8)]
    for kernels, out in zip((Kernels(128), CompiledKernels(128)), packed, strict=True):
        kernels.pack(x, out)
    assert packed[0].tobytes() == packed[1].tobytes()


def test_kernels_are_compiled_where_it_is_worth_it(monkeypatch):
    monkeypatch.delenv("GCDL_KERNELS", raising=False)
    assert type(kernels_for(1000)) is Kernels
    assert type(kernels_for(1_000_000)) is CompiledKernels
    monkeypatch.setenv("GCDL_KERNELS", "compiled")
    assert type(kernels_for(1000)) is CompiledKernels
    monkeypatch.setenv("GCDL_KERNELS", "numpy")
    assert type(kernels_for(1_000_000)) is Kernels


def test_compiling_adds_less_than_a_second_to_the_start_of_a_job():
    script = (
        "import time, gcdl.compressors; began = time.process_time()\n"
        "from gcdl.compressors.kernels.native import CompiledKernels; CompiledKernels(100)\n"
        "print(time.process_time() - began)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) < 1.0  # about 0.1; there is no cache that would have to be warm


def test_without_the_compiler_numpy_does_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcdl.compressors.kernels.native", None)
    monkeypatch.delenv("GCDL_KERNELS", raising=False)
    assert type(kernels_for(1_000_000)) is Kernels
    monkeypatch.setenv("GCDL_KERNELS", "compiled")
    with pytest.raises(UsageError, match="llvmlite"):
        kernels_for(1000)
    monkeypatch.setenv("GCDL_KERNELS", "fortran")
    with pytest.raises(UsageError, match="fortran"):
        kernels_for(1000)
