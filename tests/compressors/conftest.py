"""The table of compressors and layouts that every law runs over, and a decoder too plain to be wrong."""

from functools import cache
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest

from gcdl.compressors import Draw, Eden, ErrorFeedback, Identity, NoisySign, ScaledSign, Sign, StochasticSign, TwoMean
from gcdl.types import Layout

DITHERS = ["independent", "correlated", "subtractive", "correlated+subtractive"]
PLAIN = {
    "identity": Identity(),
    "identity-bfloat16": Identity("bfloat16"),
    "identity-float16": Identity("float16"),
    "sign": Sign(),
    "scaled_sign": ScaledSign(),
    "scaled_sign-block": ScaledSign(block=24),
    "two_mean": TwoMean(),
    "two_mean-block": TwoMean(block=1000),
    "stochastic_sign-max": StochasticSign("max", "independent"),
    "stochastic_sign-l2": StochasticSign("l2", "independent"),
    "stochastic_sign-rms": StochasticSign("rms", "independent", clip=1.5),
    "stochastic_sign-block": StochasticSign("max", "independent", block=500),
    "noisy_sign": NoisySign(),
    "noisy_sign-block": NoisySign(0.5, "correlated+subtractive", block=100),
}
for dither in DITHERS[1:]:
    PLAIN[f"stochastic_sign-{dither}"] = StochasticSign("rms", dither, clip=2.0)
    PLAIN[f"noisy_sign-{dither}"] = NoisySign(dither=dither)
PLAIN["stochastic_sign-block-correlated+subtractive"] = StochasticSign("max", "correlated+subtractive", block=40)
PLAIN["eden"] = Eden()
PLAIN["eden-shared"] = Eden("shared")
PLAIN["eden-shared-subtractive"] = Eden("shared", "correlated+subtractive")
WRAPPED = ["eden", "identity", "identity-bfloat16", "sign", "scaled_sign", "two_mean-block", "stochastic_sign-max",
           "noisy_sign", "stochastic_sign-correlated+subtractive", "stochastic_sign-block-correlated+subtractive"]  # fmt: skip
TABLE = {**PLAIN, **{f"{name}+error_feedback": ErrorFeedback(PLAIN[name]) for name in WRAPPED}}
SCALED = [name for name in TABLE if name.startswith(("scaled_sign", "stochastic_sign", "two_mean", "noisy_sign", "eden"))]

# The kernels work on 131072 coordinates at a time.
SHAPES = {
    "d=1": [(1,)],
    "d=7": [(7,)],
    "d=8": [(8,)],
    "odd": [(7,), (3, 5), (1,)],
    "scalar": [(), (2,)],
    "empty tensor": [(3,), (0,), (5,)],
    "empty tensors at the ends": [(0,), (9,), (4, 0)],
    "many tensors": [(3,)] * 40,
    "straddle the decode block": [(32768 - 3,), (10,), (5, 13), (32768,), (1,)],
    "end on the decode block": [(32768,), (32768,)],
    "straddle the draw block": [(131072 - 5,), (11,), (3,)],
    "one tensor over two draw blocks": [(131072 * 2 + 13,)],
}


EVERYWHERE = ["identity", "sign", "scaled_sign", "stochastic_sign-max", "stochastic_sign-block-correlated+subtractive"]
TELLING = ["odd", "many tensors"]


def layout_of(shapes):
    return Layout(tuple(f"tensor{i}" for i in range(len(shapes))), tuple(shapes))


def normal(d, seed=0):
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


def compress(compressor, layout, x, draw=None):
    """The payload of a fresh codec for x, which is left alone."""
    codec = compressor.codec(layout)
    out = np.full(codec.payload_bytes, 0xA5, dtype=np.uint8)
    codec.compress(x.copy(), codec.init(), draw or Draw(0, 0, 0, 0), out)
    return out


def bits_bytes(d):
    return d // 8 + (d % 8 > 0)


def recipe(name):
    compressor = TABLE[name]
    return compressor.inner if isinstance(compressor, ErrorFeedback) else compressor


def group_sizes(name, layout):
    """How many coordinates share each scale, by hand."""
    if name.startswith("eden"):
        return pieces(layout.size)
    sizes = [int(np.prod(shape)) for shape in layout.shapes]
    block = getattr(recipe(name), "block", 0)
    if not block:
        return sizes
    return [part for size in sizes for part in [block] * ((size - 1) // block) + [(size - 1) % block + 1 if size else 0]]


def pieces(d):
    """What EDEN rotates together: 4096 coordinates, and of the rest the powers of two that make it up."""
    return [4096] * (d // 4096) + [2**bit for bit in range(11, -1, -1) if d % 4096 >> bit & 1]


def rotated_back(name, draw, y):
    """R^T y, by matrices."""
    spawn = (10, draw.step) if "shared" in name else (10, draw.step, draw.worker)
    r, _ = random_words(draw.seed, spawn, y.size)
    flips, out, start = np.where(r < 0, -1.0, 1.0), np.empty(y.size), 0
    for size in pieces(y.size):
        out[start : start + size] = sylvester(size) @ y[start : start + size] / np.sqrt(size)
        start += size
    return flips * out


@cache
def sylvester(size):
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def expected_bytes(name, layout):
    """The formulas of the documentation, by hand."""
    d = sum(int(np.prod(shape)) for shape in layout.shapes)
    if name.startswith("identity"):
        return (4 if recipe(name).dtype == "float32" else 2) * d
    if name.startswith("sign"):
        return bits_bytes(d)
    return bits_bytes(d) + (8 if name.startswith("two_mean") else 4) * len(group_sizes(name, layout))


def random_bits(draw, d, shared):
    """r, (d,) in -2^15 .. 2^15 - 1, and delta, (d,): what the documentation of the dither says, without blocks or buffers."""
    spawn = (8, draw.step) if shared else (7, draw.step, draw.worker)
    return random_words(draw.seed, spawn, d, draw.shift if shared else 0)


def random_words(seed, spawn, d, shift=0):
    u64 = np.uint64

    def mix(counter, key):
        with np.errstate(over="ignore"):
            z = counter * u64(0x9E3779B97F4A7C15) + key[0]
            z = ((z ^ (z >> u64(30))) * u64(0xBF58476D1CE4E5B9)) ^ key[1]
            z = (z ^ (z >> u64(27))) * u64(0x94D049BB133111EB)
            return z ^ (z >> u64(31))

    key = np.random.SeedSequence(seed, spawn_key=spawn).generate_state(2, np.uint64)
    j = np.arange(d, dtype=np.uint64)
    r = (mix(j // u64(4), key) >> (u64(16) * (j % u64(4)))) & u64(0xFFFF)
    r = (r + u64(shift)) & u64(0xFFFF)
    delta = (mix(j // u64(131072) + u64(1 << 63), key) >> u64(40)).astype(np.float64) / 2**24
    r = r.astype(np.int64)
    return np.where(r >= 32768, r - 65536, r), delta


@cache
def quantiles():
    normal = NormalDist(0.0, (2.0 / np.pi) ** 0.5)
    return np.array([normal.inv_cdf((place + 0.5) / 65536) for place in range(65536)])


def noise(name, draw, d):
    """N / M for each coordinate."""
    r, delta = random_bits(draw, d, recipe(name).dither.startswith("correlated"))
    if name.startswith(("stochastic_sign", "eden")):
        return (r + delta) / 2**15
    return quantiles()[r + 32768]


def values(name, layout, payload, draw=None):
    """The (d,) float64 values that a payload stands for, by way of plain numpy.unpackbits."""
    raw = payload.tobytes()
    d = layout.size
    compressor = recipe(name)
    if name.startswith("identity"):
        if compressor.dtype == "bfloat16":
            return (np.frombuffer(raw, dtype="<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
        return np.frombuffer(raw, dtype="<f4" if compressor.dtype == "float32" else "<f2").astype(np.float64)
    bits = np.unpackbits(np.frombuffer(raw[: bits_bytes(d)], dtype=np.uint8))[:d]
    signs = 2.0 * bits - 1.0
    if name.startswith("sign"):
        return signs
    scales = np.frombuffer(raw[bits_bytes(d) :], dtype="<f4").astype(np.float64)
    sizes = group_sizes(name, layout)
    if name.startswith("two_mean"):
        upper, lower = scales.reshape(2, -1)
        return np.where(bits, np.repeat(upper, sizes), np.repeat(lower, sizes))
    if (getattr(compressor, "dither", "") or "").endswith("subtractive"):
        signs = signs + noise(name, draw or Draw(0, 0, 0, 0), d)
    decoded = signs * np.repeat(scales, sizes)
    return rotated_back(name, draw or Draw(0, 0, 0, 0), decoded) if name.startswith("eden") else decoded


def extent(name, layout, payload):
    """(d,): how large the numbers are that are added up to make the values, subtracted noise included."""
    if name.startswith(("identity", "sign")):
        return np.abs(values(name, layout, payload))
    scales = np.frombuffer(payload.tobytes()[bits_bytes(layout.size) :], dtype="<f4").astype(np.float64)
    sizes = group_sizes(name, layout)
    return 4.0 * np.repeat(np.abs(scales).reshape(-1, len(sizes)).max(axis=0), sizes)


def pytest_generate_tests(metafunc):
    """Every compressor on some layouts, some compressors on every layout; the rest of the product in the exhaustive suite."""
    layouts = "layout" in metafunc.fixturenames
    for fixture, names in (("name", TABLE), ("scaled", SCALED), ("wrapped", WRAPPED)):
        if fixture in metafunc.fixturenames:
            if layouts:
                pairs = [
                    pytest.param(name, layout, marks=[] if name in EVERYWHERE or layout in TELLING else pytest.mark.exhaustive)
                    for name in names
                    for layout in SHAPES
                ]
                metafunc.parametrize((fixture, "layout"), pairs, indirect=True)
            else:
                metafunc.parametrize(fixture, names, indirect=True)
            return
    if layouts:
        metafunc.parametrize("layout", SHAPES, indirect=True)


@pytest.fixture
def name(request):
    return request.param


@pytest.fixture
def compressor(name):
    return TABLE[name]


@pytest.fixture
def scaled(request):
    return request.param


@pytest.fixture
def wrapped(request):
    return request.param


@pytest.fixture
def layout(request):
    return layout_of(SHAPES[request.param])


@pytest.fixture(scope="session")
def plain():
    """The helpers above: importlib mode has no package to import them from."""
    return SimpleNamespace(
        PLAIN=PLAIN, TABLE=TABLE, layout_of=layout_of, normal=normal, compress=compress, values=values, bits_bytes=bits_bytes,
        expected_bytes=expected_bytes, noise=noise, extent=extent, group_sizes=group_sizes, DITHERS=DITHERS,
    )  # fmt: skip
