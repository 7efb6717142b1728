"""The kernels are those of plain numpy, and those in machine code give the same bits, at every level of the processor."""

import itertools
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gcdl
from gcdl.compressors import Draw, Sign
from gcdl.compressors.kernels import (
    BLOCK,
    Kernels,
    Rows,
    Stream16,
    Streams,
    Values,
    Wraps,
    blocks,
    kernels_for,
    mix,
    native,
    packed_bytes,
    pieces,
    select,
)
from gcdl.compressors.kernels.native import LEVELS, NativeKernels, best_level
from gcdl.compressors.scale_groups import Groups
from gcdl.errors import UsageError
from gcdl.types import Layout

BEST = best_level()
BUILT = pytest.mark.skipif(BEST is None, reason="the native kernels are not built: no C compiler, or not yet")
# What a processor has is all that it can be tested with.
HERE = LEVELS[LEVELS.index(BEST) if BEST else len(LEVELS) :]


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


def ones(values):
    return Values(list(values), np.ones(len(values), dtype=np.float32))


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
    Kernels(d).decode(Rows(list(bits)), slice(0, packed_bytes(d)), ones(values), slice(0, len(sizes)), edges_of(sizes), into)
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
    Kernels(d).decode(Rows(list(bits)), slice(0, packed_bytes(d)), ones(values), slice(0, len(sizes)), edges_of(sizes), into)
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


@given(st.lists(st.integers(1, 5), min_size=1, max_size=50), st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True)
def test_votes_are_counted_in_as_many_planes_as_it_takes(counts, seed):
    rows = list(np.random.default_rng(seed).integers(0, 256, (len(counts), 5), dtype=np.uint8))
    before = [row.copy() for row in rows]
    planes = np.full((int(np.ceil(np.log2(sum(counts) + 1))), 5), 0xA5, dtype=np.uint8)
    Kernels(40).count_votes(Rows(rows), counts, slice(0, 5), planes)
    counted = sum((2**i * np.unpackbits(plane).astype(int) for i, plane in enumerate(planes)), np.zeros(40, dtype=int))
    voted = sum((count * np.unpackbits(row).astype(int) for count, row in zip(counts, before, strict=True)))
    np.testing.assert_array_equal(counted, voted)
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


# --- in machine code ------------------------------------------------------------------------------------------------


def runs(d):
    """Ways to cut d coordinates into runs: one, two, with empty ones, short ones, equal ones, and very many."""
    yield from ([d], [d // 3, d - d // 3], [0, d // 7, 0, d - d // 7, 0], [1] * min(d, 20) + [d - min(d, 20)])
    yield [d // 50] * 50 + [d - 50 * (d // 50)]
    for size in (1, 5, 16, 64, 100, 256, 1000):
        if size < d <= 5000 * size:
            yield [size] * (d // size) + [d % size]
    yield [0] * 70 + [min(d, 3)] + [0] * 20 + [d - min(d, 3)]


def drawn(rng, *shape, size=6):
    """Numbers of very different sizes, with zeros, minus zeros and denormal numbers among them."""
    values = (rng.standard_normal(shape) * 10.0 ** rng.integers(-size, size, shape)).astype(np.float32)
    values[rng.random(shape) < 0.1] = 0.0
    values[rng.random(shape) < 0.1] *= -0.0
    values[rng.random(shape) < 0.02] = 1e-42
    return values


@BUILT
@pytest.mark.parametrize("level", HERE)
@pytest.mark.parametrize("d", [1, 7, 63, 64, 65, 1000, 1024, 4096, 100_001, BLOCK])
def test_native_kernels_give_the_bits_of_the_reference(d, level):
    rng = np.random.default_rng(d)
    reference, compiled = Kernels(d), NativeKernels(level)

    def check(name, *arguments, out=None):
        """Both write to buffers of their own, filled differently."""
        results = []
        for kernels, background in ((reference, 0x11), (compiled, 0xEE)):
            buffer = None if out is None else np.full(out[0] * np.dtype(out[1]).itemsize, background, np.uint8).view(out[1])
            if out is not None and len(out) == 3:
                buffer[:] = out[2]
            found = getattr(kernels, name)(*arguments, *([] if buffer is None else [buffer]))
            results.append(buffer.tobytes() if buffer is not None else np.asarray(found).tobytes())
        assert results[0] == results[1], name

    table = rng.standard_normal(65536).astype(np.float32)
    for sizes in runs(d):
        edges, q, size = edges_of(sizes), len(sizes), packed_bytes(d)
        x, units = drawn(rng, d), drawn(rng, q)
        bits = rng.integers(0, 256, size, dtype=np.uint8)
        key = int(rng.integers(2**63)) * 2 + 1, int(rng.integers(2**63)) * 2
        stream = Stream16(key, int(rng.integers(2**40)), int(rng.integers(2**16)))
        check("pack", x, out=(size, np.uint8))
        check("shorts", d, stream)
        check("stochastic", x, units * 1e3, edges, stream, 0.37, out=(size, np.uint8))
        check("exceeds", x, units, edges, table, stream, out=(size, np.uint8))
        for name in ("sums_abs", "sums_square", "sums_positive", "maxima", "counts_positive"):
            check(name, x, edges)
        check("count_beyond", x, units, edges)
        check("fold", bits, units, edges, x, out=(d, np.float32))
        check("add_values", units, edges, out=(d, np.float32, x))
        check("scale", 3.0, units, edges, out=(d, np.float32, x))
        for m in (1, 7, 8, 9, 50) if q < 1000 else (9,):
            # The rows lie in a longer message, and are read from the third byte on.
            rows = Rows(list(rng.integers(0, 256, (m, size + 5), dtype=np.uint8)))
            here = slice(3, 3 + size)
            # The values lie in one too, at an odd address; the block's are the fourth and those after it.
            stored = [np.empty(4 * q + 17, np.uint8)[1:-4].view(np.float32) for _ in range(m + 2)]
            for row in stored:
                row[:] = drawn(rng, q + 3)
            values, groups = Values(stored, drawn(rng, m + 2)), slice(3, q + 3)
            check("decode", rows, here, Values(stored[:m], values.weights[:m]), groups, edges, out=(d, np.float32))
            wraps = Wraps(*rng.integers(0, 2**16, m).tolist(), 0, 2**16 - 1)
            check("add_steps", stream, wraps, values, groups, 0.3, edges, out=(d, np.float32, x))
        streams = Streams([key, (5, 6), (7, 2**64 - 1)], [0, 1, 2**16 - 1])
        dither = 2**41, drawn(rng, 3, q), drawn(rng, 3, q), edges
        check("add_ramps", streams, *dither, out=(d, np.float32, x))
        check("add_noises", table, streams, *dither[:2], edges, out=(d, np.float32, x))
        check("decode", Rows([]), slice(0, size), ones([]), slice(0, q), edges, out=(d, np.float32))


@BUILT
@pytest.mark.parametrize("level", HERE)
@pytest.mark.parametrize("d", [1, 2, 3, 67, 1000, 4096, 4097, 3 * 4096 + 2047, BLOCK])
def test_native_rotations_give_the_bits_of_the_reference(d, level):
    rng, edges = np.random.default_rng(d), edges_of(pieces(d))
    key = (int(rng.integers(2**63)), int(rng.integers(2**63)))
    stream, streams = Stream16(key, 77, 0), Streams([key, (1, 2)], [0, 9])
    x, q = drawn(rng, d), edges.size - 1
    rows = Rows(list(rng.integers(0, 256, (2, packed_bytes(d) + 3), dtype=np.uint8)))
    values = ones(drawn(rng, 2, q + 1))
    found = []
    for kernels in (Kernels(d), NativeKernels(level)):
        there, back, total = np.full((3, d), np.nan, np.float32)
        kernels.rotate(x, stream, edges, there)
        back[:] = there
        kernels.rotate_back(stream, edges, back)
        total[:] = x
        kernels.add_rotated_back(rows, slice(2, 2 + packed_bytes(d)), values, slice(1, q + 1), streams, 5, edges, total)
        found.append((there.tobytes(), back.tobytes(), total.tobytes()))
        np.testing.assert_allclose(back, x, atol=1e-4 * np.abs(x).max())
        np.testing.assert_allclose(np.linalg.norm(there.astype(float)), np.linalg.norm(x.astype(float)), rtol=1e-5)
    assert found[0] == found[1]


@BUILT
@pytest.mark.parametrize("level", HERE)
@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_native_votes_are_those_of_the_reference(size, level):
    rng = np.random.default_rng(size)
    for m in (1, 2, 9, 50):
        rows, counts = Rows(list(rng.integers(0, 256, (m, size + 3), dtype=np.uint8))), rng.integers(1, 6, m).tolist()
        planes = np.full((2, sum(counts).bit_length(), size + 9), 0x5A, dtype=np.uint8)
        for kernels, found in zip((Kernels(8 * size), NativeKernels(level)), planes, strict=True):
            kernels.count_votes(rows, counts, slice(2, 2 + size), found[:, 1 : 1 + size])
        assert planes[0].tobytes() == planes[1].tobytes()


@BUILT
@pytest.mark.parametrize("level", HERE)
def test_a_nan_is_packed_alike(level):
    x = np.tile(np.array([np.nan, -np.nan, np.inf, -np.inf], dtype=np.float32), 32)
    packed = [np.empty(16, dtype=np.uint8), np.empty(16, dtype=np.uint8)]
    for kernels, out in zip((Kernels(128), NativeKernels(level)), packed, strict=True):
        kernels.pack(x, out)
    assert packed[0].tobytes() == packed[1].tobytes()


def test_the_random_numbers_of_many_messages_are_those_of_each():
    keys = [(1, 2), (3, 2**64 - 1)]
    streams = Streams(keys, [0, 2**16 - 1])
    assert streams.mixed(2**63 + 9).tolist() == [mix(2**63 + 9, key) for key in keys]
    assert streams.at(7) == [Stream16(keys[0], 7, 0), Stream16(keys[1], 7, 2**16 - 1)]


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True)
def test_steps_are_the_sum_of_the_shifted_numbers(shifts, seed):
    rng = np.random.default_rng(seed)
    wraps, scales = Wraps(*shifts), rng.standard_normal((len(shifts), 2)).astype(np.float32)
    slope, levels = wraps.steps(scales, 0.25)
    for r in rng.integers(-(2**15), 2**15, 50).tolist():
        wrapped = [(r + shift + 2**15) % 2**16 - 2**15 + 0.25 for shift in shifts]
        level = levels[:, wraps.counts[np.int16(r).astype(np.uint16)]]
        np.testing.assert_allclose(r * slope + level, np.array(wrapped) @ scales / 2.0**15, atol=1e-4)


# --- which kernels --------------------------------------------------------------------------------------------------


@BUILT
def test_native_kernels_compute_where_they_are_built(monkeypatch):
    monkeypatch.delenv("GCDL_KERNELS", raising=False)
    assert type(kernels_for(1000)) is NativeKernels
    assert select.chosen() == f"native ({BEST})"
    for name, kind in (("native", NativeKernels), ("compiled", NativeKernels), ("numpy", Kernels)):
        monkeypatch.setenv("GCDL_KERNELS", name)
        assert type(kernels_for(1000)) is kind
    assert select.chosen() == "numpy"


def test_without_them_numpy_computes(monkeypatch):
    monkeypatch.setattr(select, "best_level", lambda: None)
    monkeypatch.delenv("GCDL_KERNELS", raising=False)
    assert type(kernels_for(1_000_000)) is Kernels
    assert select.chosen() == "numpy"
    for name, said in (("native", "with a C compiler"), ("compiled", "with a C compiler"), ("fortran", "fortran")):
        monkeypatch.setenv("GCDL_KERNELS", name)
        with pytest.raises(UsageError, match=said):
            kernels_for(1000)


def test_a_library_of_another_build_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "broken.so").write_bytes(b"no library")
    monkeypatch.setattr(native, "find_spec", lambda name: type("Spec", (), {"origin": str(tmp_path / "broken.so")}))
    assert native._library.__wrapped__() is None


@BUILT
def test_a_library_of_an_older_source_is_not_used(monkeypatch):
    assert native._library.__wrapped__() is not None
    monkeypatch.setattr(native, "crc32", lambda source: 1)
    assert native._library.__wrapped__() is None


@pytest.mark.parametrize("compiler", [None, "false"], ids=["a compiler", "no compiler"])
def test_it_is_built_where_there_is_a_compiler_and_left_out_where_there_is_none(compiler, tmp_path):
    pytest.importorskip("setuptools")
    root = Path(gcdl.__file__).parent.parent
    if compiler is None and shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    for part in ("setup.py", "pyproject.toml", "README.md", "gcdl/compressors/kernels/native.c"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / part, tmp_path / part)
    environment = {**os.environ, **({"CC": compiler} if compiler else {"CC": "cc"})}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "lib", "--build-temp", "temp"]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=250, check=True)
    built = list((tmp_path / "lib").rglob(f"_native*{sysconfig.get_config_var('EXT_SUFFIX')}"))
    assert len(built) == (compiler is None or platform.machine() not in ("x86_64", "aarch64"))
