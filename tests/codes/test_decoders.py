"""Decoders: what each one minimises, and the closed forms that stand in for solving."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gcdl.codes import (
    CODES,
    DECODERS,
    GradientCode,
    add_up,
    fractional_repetition,
    least_squares,
    majority,
    mmse,
    one_step,
    sgc,
    uncoded,
)
from gcdl.compressors import Draw, ErrorFeedback, Identity, Message, ScaledSign, Sign, StochasticSign
from gcdl.types import Layout

rows = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(-3, 3).map(float))


def masks(n):
    return (np.array(bits) for bits in itertools.product([False, True], repeat=n))


# --- one step -------------------------------------------------------------------------------------------------------


@given(rows, st.floats(-2, 2))
@settings(deadline=None, derandomize=True)
def test_one_step_is_the_best_constant(rows, c):
    a = one_step(rows)
    assert np.ptp(a) == 0.0
    assert np.linalg.norm(a @ rows - 1.0) <= np.linalg.norm(c * rows.sum(axis=0) - 1.0) + 1e-9


def test_one_step_is_charles_rho_when_shards_are_covered_evenly():
    # k shards, m replies of load s each: rho = k / (m s).
    rows = np.array([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]])
    np.testing.assert_allclose(one_step(rows), 4 / (4 * 2))


# --- least squares --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", [uncoded(7, 9), fractional_repetition(6, 7, stragglers=2), fractional_repetition(8, 8, stragglers=1)]
)
def test_closed_forms_are_least_squares_for_every_arrived_set(code):
    assert code.closed_form is not None
    for arrived in masks(code.n):
        a = np.zeros(code.n)
        if arrived.any():
            a[arrived] = least_squares(code.B[arrived])
        np.testing.assert_allclose(code.closed_form(arrived), a, atol=1e-12)


def test_another_decoder_does_not_ask_the_closed_form():
    code = GradientCode(np.eye(3), decoder=add_up, closed_form=lambda arrived: np.full(3, 7.0))
    assert code.decoding_vector(np.array([True, True, False])).tolist() == [1.0, 1.0, 0.0]
    code = GradientCode(np.eye(3), closed_form=lambda arrived: None)
    assert code.decoding_vector(np.array([True, True, False])) == pytest.approx([1.0, 1.0, 0.0])


# --- majority -------------------------------------------------------------------------------------------------------


def test_majority_is_the_sign_of_the_vote_and_nothing_in_a_tie():
    layout = Layout(("w",), ((4,),))
    codec = Sign().codec(layout)
    votes = np.array([[1, -1, 1, -2], [3, -1, -1, -1], [-5, -1, 1, -1], [1, -1, -1, 1]], dtype=np.float32)
    payloads = np.zeros((4, codec.payload_bytes), dtype=np.uint8)
    for i, vote in enumerate(votes):
        codec.compress(vote.copy(), codec.init(), Draw(0, 0, i, 4096 * 3), payloads[i])
    a = majority(np.ones((4, 2)))
    gradient = np.empty(4, dtype=np.float32)
    codec.decode([Message(payloads[i], float(a[i]), Draw(0, 0, i, 4096 * 3)) for i in range(4)], gradient)
    majority.finish(gradient)
    assert gradient.tolist() == [1.0, -1.0, 0.0, -1.0]


def test_other_decoders_leave_the_sum_alone():
    for name, decoder in DECODERS.items():
        gradient = np.array([0.5, -3.0, 0.0], dtype=np.float32)
        decoder.finish(gradient)
        assert (gradient.tolist() == [0.5, -3.0, 0.0]) == (name != "majority")


# --- MMSE -----------------------------------------------------------------------------------------------------------

noise_of = arrays(np.float64, 6, elements=st.floats(0.015625, 4.0))


@given(rows, noise_of | noise_of.map(np.floor), arrays(np.float64, 6, elements=st.floats(-1, 1)))
@settings(deadline=None, derandomize=True)
def test_mmse_minimises_error_plus_lambda_times_noise(rows, noise, move):
    v, lam = noise[: len(rows)], np.sum(rows**2)

    def cost(a):
        return np.sum((a @ rows - 1) ** 2) + lam * np.sum(a**2 * v)

    a = mmse(rows, v)
    assert cost(a) <= cost(a + move[: len(rows)]) + 1e-9
    by_hand = np.linalg.lstsq(rows @ rows.T + lam * np.diag(v), rows.sum(axis=1), rcond=None)[0]
    np.testing.assert_allclose(a, by_hand, atol=1e-7)


@given(rows)
@settings(deadline=None, derandomize=True)
def test_mmse_without_noise_is_least_squares(rows):
    np.testing.assert_array_equal(mmse(rows), least_squares(rows))
    np.testing.assert_array_equal(mmse(rows, np.zeros(len(rows))), least_squares(rows))


def test_vectors_that_depend_on_noise_are_not_cached_and_the_others_ignore_it():
    arrived = np.array([True, True, True, False])
    noise = np.array([0.1, 0.2, 0.0, 0.0])
    code = fractional_repetition(4, 4, stragglers=1)
    assert code.decoding_vector(arrived, noise) is code.decoding_vector(arrived)
    code = GradientCode(code.B, decoder=mmse)
    a = code.decoding_vector(arrived, noise)
    assert a is not code.decoding_vector(arrived, noise)
    assert a[0] > a[1] > 0.0
    np.testing.assert_allclose(code.decoding_vector(arrived), [0.5, 0.5, 1.0, 0.0], atol=1e-12)
    assert not a.flags.writeable


D, LAYOUT = 96, Layout(("w", "b"), ((64,), (32,)))
NOISY = [
    StochasticSign("max", "independent"),
    StochasticSign("l2", "independent"),
    StochasticSign("rms", "independent", clip=3.0),
]


def squared_errors(code, decoders, compressor, runs, lost, rng):
    """(runs, decoders): ||decoded - sum_j G_j||^2 / ||sum_j G_j||^2 with real messages, everyone decoding the same ones."""
    codec = compressor.codec(LAYOUT)
    codes = [GradientCode(code.B, decoder=decoder) for decoder in decoders]
    payloads = np.empty((code.n, codec.payload_bytes), dtype=np.uint8)
    decoded = np.empty(D, dtype=np.float32)
    found = np.empty((runs, len(decoders)))
    for run in range(runs):
        G = rng.standard_normal((code.k, D))
        energies = np.zeros((code.n, 2))
        for i, x in enumerate((code.B @ G).astype(np.float32)):
            codec.compress(x, codec.init(), Draw(1, run, i, 4096 * 3), payloads[i])
            energies[i] = codec.energies(payloads[i]).sum(axis=0)
        arrived = np.ones(code.n, dtype=bool)
        arrived[rng.choice(code.n, lost, replace=False)] = False
        noise = energies[:, 1] / energies[arrived, 0].sum()
        for which, one in enumerate(codes):
            a = one.decoding_vector(arrived, noise)
            codec.decode(
                [Message(payloads[i], float(a[i]), Draw(1, run, i, 4096 * 3)) for i in np.flatnonzero(arrived)], decoded
            )
            found[run, which] = np.sum((decoded - G.sum(axis=0)) ** 2)
    return found


PLANNED = {
    "fractional_repetition": (fractional_repetition(6, 6, stragglers=2), 2),
    "uncoded": (uncoded(6, 6), 2),
    "sgc": (sgc(8, 8, np.random.default_rng(0), replication=3, stragglers=2), 2),
    "random": (GradientCode(np.random.default_rng(3).standard_normal((7, 6))), 1),
}


@pytest.mark.parametrize("compressor", NOISY, ids=lambda compressor: compressor.scale)
@pytest.mark.parametrize("name", PLANNED)
def test_mmse_is_never_worse_than_sum_or_least_squares_under_real_quantiser_noise(name, compressor):
    code, lost = PLANNED[name]
    errors = squared_errors(code, [mmse, add_up, least_squares], compressor, 400, lost, np.random.default_rng(11))
    for other in (1, 2):
        gain = errors[:, other] - errors[:, 0]
        assert gain.mean() > -3 * gain.std() / np.sqrt(len(gain))
    assert errors[:, 0].mean() < 0.9 * errors[:, 2].mean()


def test_energies_are_those_of_the_vectors_that_were_sent():
    rng = np.random.default_rng(0)
    for compressor in [*NOISY, Identity(), ScaledSign(), ErrorFeedback(ScaledSign())]:
        codec = compressor.codec(LAYOUT)
        out = np.empty(codec.payload_bytes, dtype=np.uint8)
        decoded = np.empty(D, dtype=np.float32)
        signal, noise, said = 0.0, 0.0, np.zeros(2)
        for step in range(300):
            x = rng.standard_normal(D).astype(np.float32) * 3
            x[64:] *= 10
            codec.compress(x.copy(), codec.init(), Draw(0, step, 0, 4096 * 3), out)
            codec.decode([Message(out, 1.0, Draw(0, step, 0, 4096 * 3))], decoded)
            signal += float(x @ x)
            noise += float(np.sum((decoded - x) ** 2))
            said += codec.energies(out).sum(axis=0)
        assert said[0] == pytest.approx(signal, rel=0.12), compressor
        assert said[1] == pytest.approx(noise, rel=0.12), compressor


def test_energy_of_messages_without_scales_or_of_zeros():
    codec = Sign().codec(Layout(("w",), ((8,),)))
    signal, noise = codec.energies(np.zeros(1, dtype=np.uint8)).sum(axis=0)
    assert signal == pytest.approx(8 * np.pi / 2)
    assert noise == pytest.approx(8 * (np.pi / 2 - 1))
    codec = StochasticSign("max", "independent").codec(Layout(("w", "empty", "one"), ((8,), (0,), (1,))))
    assert codec.energies(np.zeros(codec.payload_bytes, dtype=np.uint8)).sum(axis=0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("kind", "missing"), [("sgc", 0), ("sgc", 40), ("graph", 30), ("bernoulli", 10)])
def test_least_squares_of_many_workers_is_the_shortest_solution_whichever_way_it_is_found(kind, missing):
    rng = np.random.default_rng(3)
    code = dataclasses.replace(CODES[kind](n=320, k=320, rng=rng, replication=3), decoder=least_squares)
    arrived = np.ones(320, dtype=bool)
    arrived[rng.choice(320, missing, replace=False)] = False
    a = code.decoding_vector(arrived)[arrived]
    expected = np.linalg.lstsq(code.B[arrived].T, np.ones(320), rcond=None)[0]
    np.testing.assert_allclose(a, expected, rtol=1e-6, atol=1e-8)


def test_replicas_are_averaged_among_many_workers_too():
    code = dataclasses.replace(fractional_repetition(400, 400, stragglers=1), closed_form=None)
    np.testing.assert_allclose(code.decoding_vector(np.ones(400, dtype=bool)), 0.5, atol=1e-9)
