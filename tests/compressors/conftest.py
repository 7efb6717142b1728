"""The table of compressors and layouts that every law runs over, and a decoder too plain to be wrong."""

from types import SimpleNamespace

import numpy as np
import pytest

from gcdl.compressors import Draw, ErrorFeedback, Identity, ScaledSign, Sign, StochasticSign
from gcdl.types import Layout

PLAIN = {
    "identity": Identity(),
    "sign": Sign(),
    "scaled_sign": ScaledSign(),
    "stochastic_sign-max": StochasticSign(),
    "stochastic_sign-l2": StochasticSign(scale="l2"),
    "stochastic_sign-rms": StochasticSign(scale="rms", clip=1.5),
}
TABLE = {**PLAIN, **{f"{name}+error_feedback": ErrorFeedback(inner) for name, inner in PLAIN.items()}}
SCALED = [name for name in TABLE if name.startswith(("scaled_sign", "stochastic_sign"))]

# The kernels decode 32768 coordinates at a time, and draw for 131072 at a time.
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


def layout_of(shapes):
    return Layout(tuple(f"tensor{i}" for i in range(len(shapes))), tuple(shapes))


def normal(d, seed=0):
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


def compress(compressor, layout, x, draw=None):
    """The payload of a fresh codec for x, which is left alone."""
    codec = compressor.codec(layout)
    out = np.full(codec.payload_bytes, 0xA5, dtype=np.uint8)
    codec.compress(x.copy(), codec.init(), draw or Draw(0, 0, 0), out)
    return out


def bits_bytes(d):
    return d // 8 + (d % 8 > 0)


def expected_bytes(name, layout):
    """The formulas of the documentation, by hand."""
    d, tensors = sum(int(np.prod(shape)) for shape in layout.shapes), len(layout.shapes)
    if name.startswith("identity"):
        return 4 * d
    return bits_bytes(d) + (0 if name.startswith("sign") else 4 * tensors)


def values(name, layout, payload):
    """The (d,) float64 values that a payload stands for, by way of plain numpy.unpackbits."""
    raw = payload.tobytes()
    d = layout.size
    if name.startswith("identity"):
        return np.frombuffer(raw, dtype="<f4").astype(np.float64)
    bits = np.unpackbits(np.frombuffer(raw[: bits_bytes(d)], dtype=np.uint8))[:d]
    signs = 2.0 * bits - 1.0
    if name.startswith("sign"):
        return signs
    scales = np.frombuffer(raw[bits_bytes(d) :], dtype="<f4").astype(np.float64)
    sizes = [int(np.prod(shape)) for shape in layout.shapes]
    return signs * np.repeat(scales, sizes)


@pytest.fixture(params=TABLE)
def name(request):
    return request.param


@pytest.fixture
def compressor(name):
    return TABLE[name]


@pytest.fixture(params=SCALED)
def scaled(request):
    return request.param


@pytest.fixture(params=SHAPES)
def layout(request):
    return layout_of(SHAPES[request.param])


@pytest.fixture(scope="session")
def plain():
    """The helpers above: importlib mode has no package to import them from."""
    return SimpleNamespace(
        PLAIN=PLAIN, TABLE=TABLE, layout_of=layout_of, normal=normal, compress=compress, values=values, bits_bytes=bits_bytes,
        expected_bytes=expected_bytes,
    )  # fmt: skip
