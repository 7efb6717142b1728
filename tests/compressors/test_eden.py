"""EDEN has the errors of its paper, one bit a coordinate, and its shared rotation goes with votes and dither."""

import numpy as np
import pytest

from gcdl.compressors import Draw, Eden, Message, StochasticSign
from gcdl.compressors.kernels import BLOCK
from gcdl.compressors.parts import part_of
from gcdl.compressors.to_device import to_device
from gcdl.errors import ParameterError
from gcdl.types import Layout

D = 1 << 15
N = 8


def layout_of(d):
    return Layout(("x",), ((d,),))


def messages(codec, vectors, step=0):
    sent = []
    for worker, x in enumerate(vectors):
        draw = Draw(0, step, worker, worker * 65536 // len(vectors))
        payload = np.empty(codec.payload_bytes, np.uint8)
        codec.compress(x.copy(), codec.init(), draw, payload)
        sent.append(Message(payload, 1.0 / len(vectors), draw))
    return sent


def nmse(compressor, correlation, steps=6):
    """E||mean_i Q(x_i) - mean_i x_i||^2 / ||mean_i x_i||^2 for N normal vectors of this correlation."""
    rng, codec, found = np.random.default_rng(1), compressor.codec(layout_of(D)), []
    for step in range(steps):
        common, own = rng.standard_normal(D), rng.standard_normal((N, D))
        vectors = (np.sqrt(correlation) * common + np.sqrt(1.0 - correlation) * own).astype(np.float32)
        into = np.empty(D, np.float32)
        codec.decode(messages(codec, vectors, step), into)
        mean = vectors.astype(np.float64).mean(axis=0)
        found.append(((into - mean) ** 2).sum() / (mean**2).sum())
    return np.mean(found)


@pytest.mark.parametrize("scale", [1.0, 1e-12])
@pytest.mark.parametrize("kind", ["normal", "one of a hundred"])
def test_one_vector_loses_what_the_paper_says_whatever_it_looks_like(kind, scale):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(D) * (rng.random(D) < (1.0 if kind == "normal" else 0.01)) * scale
    codec, into = Eden().codec(layout_of(D)), np.empty(D, np.float32)
    codec.decode(messages(codec, [x.astype(np.float32)]), into)
    assert ((into - x) ** 2).sum() / (x**2).sum() == pytest.approx(np.pi / 2 - 1, rel=0.05)  # 0.571


@pytest.mark.parametrize(
    ("compressor", "correlation", "expected"),
    [
        *((Eden(), correlation, expected) for correlation, expected in ((0.5, 0.127), (0.9, 0.079), (1.0, 0.071))),
        *(
            (StochasticSign("rms", "correlated+subtractive", 1.5), correlation, expected)
            for correlation, expected in ((0.5, 0.176), (0.9, 0.094), (1.0, 0.058))
        ),
    ],
    ids=str,
)
def test_the_mean_of_eight_errs_as_much_as_was_measured(compressor, correlation, expected):
    assert nmse(compressor, correlation) == pytest.approx(expected, rel=0.05)


def test_a_shared_rotation_without_dither_errs_alike_and_with_it_as_little_as_the_dither():
    assert nmse(Eden("shared"), 1.0, steps=2) == pytest.approx(np.pi / 2 - 1, rel=0.05)
    assert nmse(Eden("shared", "correlated+subtractive"), 1.0) == pytest.approx(0.058, rel=0.05)


def test_the_mean_over_rotations_is_the_vector():
    x = np.random.default_rng(2).laplace(size=4096 + 33).astype(np.float32)
    codec, total, into = Eden().codec(layout_of(x.size)), np.zeros(x.size), np.empty(x.size, np.float32)
    for step in range(400):
        codec.decode(messages(codec, [x], step), into)
        total += into
    error = total / 400 - x
    assert (error**2).sum() / (x.astype(float) ** 2).sum() < 1.3 * 0.571 / 400


def test_votes_of_a_shared_rotation_decode_to_what_the_messages_do():
    d = BLOCK + 5000
    codec = Eden("shared", "correlated+subtractive", agreed=True).codec(layout_of(d))
    agreed = np.full(codec.agreed_count, 2.0, np.float32)
    vectors = np.random.default_rng(3).standard_normal((3, d)).astype(np.float32)
    sent = []
    for worker, x in enumerate(vectors):
        draw = Draw(0, 4, worker, worker * 20000, agreed)
        payload = np.empty(codec.payload_bytes, np.uint8)
        codec.compress(x, None, draw, payload)
        sent.append(Message(payload, 1 / 3, draw))
    by_messages, by_votes = np.empty((2, d), np.float32)
    codec.decode(sent, by_messages)
    codec.decode_votes(codec.votes(sent), [(message.weight, message.draw) for message in sent], by_votes)
    assert by_messages.tobytes() == by_votes.tobytes()
    assert Eden().codec(layout_of(d)).votes(sent) is None


@pytest.mark.parametrize("recipe", [Eden(), Eden("shared"), Eden("shared", "subtractive")], ids=str)
def test_slices_and_threads_decode_to_the_bits_of_the_whole(recipe):
    d = 2 * BLOCK + 4099
    codec = recipe.codec(layout_of(d))
    sent = messages(codec, np.random.default_rng(4).standard_normal((3, d)).astype(np.float32))
    wanted, into = np.full((2, d), np.nan, np.float32)
    codec.decode(sent, wanted)
    codec.threads = 3
    codec.decode(sent, into)
    assert into.tobytes() == wanted.tobytes()
    for where in (slice(0, BLOCK), slice(BLOCK, d)):
        part, received = part_of(codec, where), []
        for message in sent:
            piece = np.empty(part.codec.payload_bytes, np.uint8)
            part.cut(message.payload, piece)
            received.append(message._replace(payload=piece))
        found = np.empty(where.stop - where.start, np.float32)
        part.codec.decode(received, found)
        assert found.tobytes() == wanted[where].tobytes()


def test_a_dither_and_agreed_scales_need_a_shared_rotation():
    for wrong in ({"dither": "subtractive"}, {"agreed": True}):
        with pytest.raises(ParameterError, match=f'^{next(iter(wrong))}: needs rotation = "shared"'):
            Eden(**wrong)


def test_it_stays_on_the_host():
    assert to_device(Eden().codec(layout_of(10)), None) is None
