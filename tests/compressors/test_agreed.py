"""Scales that all workers agree on, and votes: the same sum by way of the messages or of their counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcdl.compressors import Draw, ErrorFeedback, Identity, Message, NoisySign, ScaledSign, Sign, StochasticSign, TwoMean
from gcdl.compressors.kernels import Kernels, Rows
from gcdl.compressors.votes import MOST_VOTES, multiples, planes_of
from gcdl.types import Layout, aligned_vector

LAYOUT = Layout(("a", "b", "empty", "c"), ((150_000,), (7, 3), (0,), (1,)))
D = LAYOUT.size
AGREEING = {
    "max": StochasticSign("max", "independent", agreed=True, margin=1.5),
    "rms": StochasticSign("rms", "independent", clip=2.0, agreed=True),
    "block": StochasticSign("max", "correlated+subtractive", block=5000, agreed=True),
    "subtractive": StochasticSign("max", "subtractive", agreed=True),
    "noisy": NoisySign(agreed=True),
    "scaled": ScaledSign(agreed=True),
    "feedback": ErrorFeedback(ScaledSign(agreed=True)),
}


def messages_of(codec, weights, agreed, seed=0):
    messages = []
    for worker, weight in enumerate(weights):
        x = np.random.default_rng((seed, worker)).standard_normal(D).astype(np.float32)
        draw = Draw(1, seed, worker, (worker << 16) // len(weights), agreed)
        payload = np.zeros(codec.payload_bytes, dtype=np.uint8)
        codec.compress(x, codec.init(), draw, payload)
        messages.append(Message(payload, weight, draw))
    return messages


def decoded(codec, messages):
    into = aligned_vector(D)
    codec.decode(messages, into)
    return into


@pytest.mark.parametrize("agreeing", AGREEING)
@pytest.mark.parametrize("weights", [[1.0] * 5, [0.5, 0.5, 1.0], [0.25] * 3 + [1.0], [2.0], [0.1] * 40], ids=len)
def test_votes_are_decoded_to_what_the_messages_are_to_the_bit(agreeing, weights):
    codec = AGREEING[agreeing].codec(LAYOUT)
    agreed = codec.agree([message.payload for message in messages_of(codec, weights, None)])
    messages = messages_of(codec, weights, agreed, seed=1)
    votes = codec.votes(messages)
    assert votes.planes.shape == (planes_of(votes.total), -(-D // 8))
    into = aligned_vector(D)
    codec.decode_votes(votes, [(message.weight, message.draw) for message in messages], into)
    assert into.tobytes() == decoded(codec, messages).tobytes()


@pytest.mark.parametrize("agreeing", AGREEING)
def test_a_sum_of_votes_is_the_sum_of_what_each_message_says(agreeing):
    codec = AGREEING[agreeing].codec(LAYOUT)
    agreed = codec.agree([message.payload for message in messages_of(codec, [1.0] * 3, None)])
    messages = messages_of(codec, [0.5, 0.5, 1.0], agreed, seed=1)
    one_by_one = sum(decoded(codec, [message]).astype(np.float64) for message in messages)
    np.testing.assert_allclose(decoded(codec, messages), one_by_one, rtol=1e-4, atol=1e-4 * float(agreed.max()))


def test_counts_are_those_of_the_bits():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (4, 9), dtype=np.uint8)
    counts = [1, 4, 3, 1]
    codec = Sign().codec(Layout(("x",), ((72,),)))
    votes = codec.votes(
        [Message(row, 0.3 * count, Draw(0, 0, i, 0)) for i, (row, count) in enumerate(zip(rows, counts, strict=True))]
    )
    found = sum(np.unpackbits(plane).astype(int) << p for p, plane in enumerate(votes.planes))
    wanted = sum(np.unpackbits(row).astype(int) * count for row, count in zip(rows, counts, strict=True))
    np.testing.assert_array_equal(found, wanted)
    assert (votes.total, votes.unit) == (9, pytest.approx(0.3))


def test_a_column_that_nobody_counts_in_is_empty_and_kept():
    rows = [np.array([0xFF], np.uint8), np.array([0x0F], np.uint8)]
    planes = np.full((3, 1), 0xA5, np.uint8)
    Kernels(8).count_votes(Rows(rows), [1, 4], slice(0, 1), planes)
    assert [plane.tolist() for plane in planes] == [[0xFF], [0x00], [0x0F]]


def test_weights_are_multiples_of_a_unit_or_they_are_not():
    assert multiples([0.5, 1.0, 0.5]) == (0.5, [1, 2, 1])
    assert multiples([1 / 3, 1 / 2]) == (pytest.approx(1 / 6), [2, 3])
    assert multiples([0.7]) == (0.7, [1])
    for none in ([], [0.0, 1.0], [-1.0, 1.0], [1.0, np.pi], [1.0, 1e9], [1.0] * (MOST_VOTES + 1), [np.nan, 1.0]):
        assert multiples(none) is None, none
    assert multiples([1.0] * MOST_VOTES) == (1.0, [1] * MOST_VOTES)
    for counts in itertools.product(range(1, 5), repeat=3):
        unit, found = multiples([0.1 * count for count in counts])
        assert [unit * count for count in found] == pytest.approx([0.1 * count for count in counts])


@pytest.mark.parametrize("compressor", [Identity(), TwoMean(), StochasticSign("max", "independent")], ids=str)
def test_what_has_no_common_scale_is_no_vote(compressor):
    codec = compressor.codec(LAYOUT)
    assert codec.agreed_count == 0
    messages = messages_of(codec, [1.0, 1.0], None)
    assert codec.votes(messages) is None
    assert codec.agree([message.payload for message in messages]) is None


def test_the_scale_agreed_on_is_the_largest_of_the_last_step_times_the_margin():
    codec = StochasticSign("max", "independent", agreed=True, margin=1.5).codec(LAYOUT)
    messages = messages_of(codec, [1.0] * 3, None)
    largest = np.zeros(4, dtype=np.float32)
    for worker in range(3):
        x = np.random.default_rng((0, worker)).standard_normal(D).astype(np.float32)
        for group, where in enumerate(LAYOUT.slices):
            largest[group] = max(largest[group], np.abs(x[where]).max(initial=0.0))
    agreed = codec.agree([message.payload for message in messages])
    np.testing.assert_array_equal(agreed, np.float32(1.5) * largest)
    # A message carries the scale that it would have used, whatever it did use: so the next agreement is not the last one's.
    again = messages_of(codec, [1.0] * 3, 100.0 * agreed)
    assert [m.payload[-16:].tobytes() for m in again] == [m.payload[-16:].tobytes() for m in messages]


@pytest.mark.parametrize("scale", ["max", "rms"])
def test_what_lies_beyond_is_clipped_and_counted(scale):
    codec = StochasticSign(scale, "independent", clip=2.0, agreed=True).codec(LAYOUT)
    agreed = np.array([2.0, 0.5, 1.0, 10.0], dtype=np.float32)
    x = np.random.default_rng(3).standard_normal(D).astype(np.float32)
    beyond = sum(int((np.abs(x[where]) > scale).sum()) for where, scale in zip(LAYOUT.slices, agreed, strict=True))
    assert 0 < beyond < D
    payload = np.zeros(codec.payload_bytes, dtype=np.uint8)
    for given, counted in ((None, 0), (agreed, beyond), (np.full(4, 100.0, np.float32), 0)):
        codec.compress(x.copy(), None, Draw(0, 0, 0, 0, given), payload)
        assert codec.clipped == counted


def test_with_a_scale_that_clips_nothing_it_is_unbiased():
    layout = Layout(("x",), ((64,),))
    codec = StochasticSign("max", "independent", agreed=True).codec(layout)
    x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    agreed = np.array([2.0 * np.abs(x).max()], dtype=np.float32)
    payload, into, draws = np.zeros(codec.payload_bytes, dtype=np.uint8), aligned_vector(64), 4000
    total = np.zeros(64)
    for step in range(draws):
        draw = Draw(0, step, 0, 0, agreed)
        codec.compress(x.copy(), None, draw, payload)
        codec.decode([Message(payload, 1.0, draw)], into)
        total += into
    deviation = np.sqrt(agreed[0] ** 2 - x.astype(np.float64) ** 2) / np.sqrt(draws)
    assert np.abs((total / draws - x) / deviation).max() < 4.0


def test_what_is_not_sent_is_kept_with_an_agreed_scale_too():
    codec = ErrorFeedback(ScaledSign(agreed=True)).codec(LAYOUT)
    agreed = np.array([0.5, 1.0, 1.0, 3.0], dtype=np.float32)
    x = np.random.default_rng(3).standard_normal(D).astype(np.float32)
    payload, draw = np.zeros(codec.payload_bytes, dtype=np.uint8), Draw(0, 4, 0, 0, agreed)
    state = codec.settle(codec.compress(x.copy(), codec.init(), draw, payload), 4)
    np.testing.assert_allclose(decoded(codec, [Message(payload, 1.0, draw)]) + state.kept, x, atol=1e-6)


def test_the_noise_of_a_wider_scale_is_told():
    codec = StochasticSign("rms", "independent", clip=1.0, agreed=True).codec(LAYOUT)
    (message,) = messages_of(codec, [1.0], None)
    signal, noise = codec.energies(message.payload).sum(axis=0)
    agreed = codec.agree([message.payload]) * np.float32(2.0)
    assert codec.energies(message.payload, agreed).sum(axis=0)[0] == signal
    x = np.random.default_rng((0, 0)).standard_normal(D).astype(np.float32)
    (wide,) = messages_of(codec, [1.0], agreed)
    error = float(np.square(decoded(codec, [wide]).astype(np.float64) - x).sum())
    assert codec.energies(message.payload, agreed).sum(axis=0)[1] == pytest.approx(error, rel=0.05)
    assert noise < 0.5 * error
