"""Every randomised compressor under every dither: what its file says of bias and variance, and that draws can be recreated."""

import itertools
import math

import numpy as np
import pytest

from gcdl.codes import fractional_repetition
from gcdl.compressors import Draw, Message, NoisySign, StochasticSign
from gcdl.compressors.dither import Dither
from gcdl.compressors.kernels import BLOCK, Kernels, Stream16, mix

DRAWS = 1000
N = 16


@pytest.fixture(params=["independent", "correlated", "subtractive", "correlated+subtractive"])
def dither(request):
    return request.param


def decoded(compressor, layout, x, draws, seed=11, workers=1):
    """(draws, d): at each step the mean of what ``workers`` workers of N sent for the same x."""
    codec = compressor.codec(layout)
    payloads = np.empty((workers, codec.payload_bytes), dtype=np.uint8)
    found = np.empty((draws, layout.size), dtype=np.float32)
    for step in range(draws):
        keys = [Draw(seed, step, worker, worker * 65536 // N) for worker in range(workers)]
        for key, payload in zip(keys, payloads, strict=True):
            codec.compress(x.copy(), None, key, payload)
        codec.decode([Message(p, 1.0 / workers, key) for p, key in zip(payloads, keys, strict=True)], found[step])
    return found.astype(np.float64)


def scales(compressor, layout, x, plain):
    payload = plain.compress(compressor, layout, x)
    M = np.frombuffer(payload[plain.bits_bytes(layout.size) :].tobytes(), dtype="<f4").astype(np.float64)
    return np.repeat(M, [where.stop - where.start for where in layout.slices])


def probing_values(plain):
    """Two tensors whose values include the extremes +-max, exact zeros, and values near them."""
    x = plain.normal(48)
    x[:8] = [0.0, -0.0, 1e-4, -1e-4, 3.0, -3.0, 2.999, -2.999]
    x[30:34] = [0.0, 2.0, -2.0, 0.5]
    return plain.layout_of([(30,), (18,)]), x.clip(-3.0, 3.0)


# --- bias -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["max", "l2"])
@pytest.mark.parametrize("size", [1.0, 1e-20])
def test_stochastic_sign_is_unbiased_and_so_does_not_drift_at_zero(scale, size, dither, plain):
    layout, x = probing_values(plain)
    x = x * np.float32(size)
    found = decoded(StochasticSign(scale, dither), layout, x, DRAWS)
    M = scales(StochasticSign(scale, "independent"), layout, x, plain)
    wide = x.astype(np.float64)
    variance = M**2 / 3.0 if "subtractive" in dither else M**2 - wide**2
    assert (np.abs(found.mean(axis=0) - wide) <= 4.0 * np.sqrt(variance / DRAWS) + 1e-6 * M).all()


@pytest.mark.parametrize("d", [1, 1000, 2 * BLOCK + 77])
def test_stochastic_sign_is_unbiased_at_every_length(d, dither, plain):
    # One value everywhere: the mean over coordinates is a mean over draws, of each block and of each place in a word.
    layout = plain.layout_of([(d,), (1,)])
    x = np.full(d + 1, 0.3, dtype=np.float32)
    draws = max(2, 4_000 // d)
    found = decoded(StochasticSign("rms", dither, clip=2.0), layout, x, draws)[:, :d]
    M = 2.0 * 0.3
    deviation = math.sqrt(M**2 / 3.0 if "subtractive" in dither else M**2 - 0.09)
    parts = [found[:, slice(*np.clip([start, start + BLOCK], 0, d))] for start in range(0, d, BLOCK)]
    parts += [found[:, place::4] for place in range(min(d, 4))]
    for part in parts:
        assert abs(part.mean() - 0.3) <= 4.0 * deviation / math.sqrt(part.size)


def test_the_extremes_of_a_tensor_are_sent_as_they_are_in_every_draw(plain):
    layout, x = probing_values(plain)
    found = decoded(StochasticSign("max", "independent"), layout, x, 500)
    extreme = np.concatenate([np.abs(x[where]) == np.abs(x[where]).max() for where in layout.slices])
    assert extreme.sum() >= 2
    np.testing.assert_array_equal(found[:, extreme], np.broadcast_to(x[extreme], (500, extreme.sum())))


def test_rms_is_unbiased_within_its_clip_and_clips_beyond(dither, plain):
    layout, x = probing_values(plain)
    compressor = StochasticSign("rms", dither, clip=1.5)
    found = decoded(compressor, layout, x, DRAWS)
    M = scales(compressor, layout, x, plain)
    for where in layout.slices:
        np.testing.assert_allclose(M[where], 1.5 * np.sqrt((x[where].astype(np.float64) ** 2).mean()), rtol=1e-6)
    clipped = x.astype(np.float64).clip(-M, M)
    assert (np.abs(clipped) < np.abs(x)).any()
    variance = M**2 / 3.0 if "subtractive" in dither else M**2 - clipped**2
    assert (np.abs(found.mean(axis=0) - clipped) <= 4.0 * np.sqrt(variance / DRAWS) + 1e-6 * M).all()


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_noisy_sign_has_the_mean_that_its_file_states(noise, dither, plain):
    layout, x = probing_values(plain)
    compressor = NoisySign(noise, dither)
    found = decoded(compressor, layout, x, DRAWS)
    M = scales(compressor, layout, x, plain)
    sigma = M * math.sqrt(2.0 / math.pi)
    mean = M * np.array([math.erf(value) for value in x / (sigma * math.sqrt(2.0))])
    expected = M**2 - mean**2
    # The last term: an outcome so rare that it was not seen at all.
    variance = np.maximum(expected, found.var(axis=0))
    assert (np.abs(found.mean(axis=0) - mean) <= 4.0 * np.sqrt(variance / DRAWS) + 4.0 * M / DRAWS).all()
    if "subtractive" not in dither:
        np.testing.assert_allclose(found.var(axis=0), expected, rtol=0.2, atol=0.02 * (M**2).max())
    else:
        assert found.var(axis=0)[0] == pytest.approx((1.0 - 2.0 / math.pi) * M[0] ** 2, rel=0.2)


@pytest.mark.parametrize("scale", ["max", "l2"])
def test_the_scale_is_that_of_each_tensor(scale, layout, plain):
    x = plain.normal(layout.size) * 3.0
    payload = plain.compress(StochasticSign(scale, "independent"), layout, x)
    M = np.frombuffer(payload[plain.bits_bytes(layout.size) :].tobytes(), dtype="<f4")
    order = np.inf if scale == "max" else 2
    by_hand = [np.linalg.norm(x[where].astype(np.float64), order) if x[where].size else 0.0 for where in layout.slices]
    np.testing.assert_allclose(M, by_hand, rtol=1e-5)


# --- variance -------------------------------------------------------------------------------------------------------


def normal_errors(compressor, plain, workers, d=200_000):
    layout = plain.layout_of([(d,)])
    x = plain.normal(d)
    return decoded(compressor, layout, x, 4, workers=workers) - x


@pytest.mark.parametrize("scale", ["max", "l2", "rms"])
def test_subtracting_the_noise_leaves_at_most_0_4_of_the_variance(scale, plain):
    with_noise = normal_errors(StochasticSign(scale, "independent", clip=3.0), plain, 1, d=20_000)
    without = normal_errors(StochasticSign(scale, "subtractive", clip=3.0), plain, 1, d=20_000)
    ratio = without.var() / with_noise.var()
    assert 0.3 < ratio < 0.4


def test_the_default_is_the_one_with_the_least_error(plain):
    errors = {
        key: np.square(normal_errors(StochasticSign(*key), plain, 1, d=20_000)).mean()
        for key in itertools.product(("max", "l2", "rms"), plain.DITHERS)
    }
    default = np.square(normal_errors(StochasticSign(), plain, 1, d=20_000)).mean()
    assert default == errors["rms", "correlated+subtractive"]
    assert default < 1.05 * min(errors.values())
    assert default < 0.1 * errors["max", "independent"]


@pytest.mark.parametrize("scale", ["max", "l2"])
def test_correlated_workers_with_equal_inputs_cancel_their_errors(scale, plain):
    alone = normal_errors(StochasticSign(scale, "independent"), plain, N, d=20_000)
    together = normal_errors(StochasticSign(scale, "correlated"), plain, N, d=20_000)
    assert together.var() < 0.2 * alone.var()


def test_correlated_and_subtractive_is_the_sum_of_both_gains(plain):
    variances = {
        dither: normal_errors(StochasticSign("max", dither), plain, N, d=20_000).var()
        for dither in ("independent", "correlated", "subtractive", "correlated+subtractive")
    }
    assert variances["correlated+subtractive"] < 0.5 * min(variances["correlated"], variances["subtractive"])
    # N errors, evenly spaced over [-M, M), add up to one such error: 1 / (3 N) of what independent workers leave.
    assert variances["correlated+subtractive"] == pytest.approx(variances["independent"] / (3 * N), rel=0.15)


# --- draws ----------------------------------------------------------------------------------------------------------


def test_words_are_those_of_splitmix64():
    # Reference values of java.util.SplittableRandom's mixer, seed 1234567, with no second key.
    state = 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [mix(counter, (state, 0)) for counter in range(1, 6)] == expected


def test_shorts_are_the_words_quarter_by_quarter_from_any_place_on():
    key = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
    every = [(mix(counter, key) >> (16 * part)) & 0xFFFF for counter in range(30) for part in range(4)]
    for n, first, shift in itertools.product((1, 4, 7, 40), (0, 3, 20), (0, 1, 40_000)):
        found = Kernels(100).shorts(n, Stream16(key, first, shift)).astype(np.int64) % 65536
        assert found.tolist() == [(value + shift) % 65536 for value in every[4 * first :][:n]]


def test_random_shorts_are_uniform_and_their_neighbours_unrelated():
    r = Kernels(BLOCK).shorts(BLOCK, Stream16((5, 6), 0, 0)).astype(np.float64)
    assert abs(r.mean() + 0.5) <= 4 * 65536 / math.sqrt(12 * BLOCK)
    for bits in (4, 8):
        counts = np.bincount((r.astype(int) + 32768) >> (16 - bits), minlength=2**bits)
        chi2 = ((counts - BLOCK / 2**bits) ** 2).sum() / (BLOCK / 2**bits)
        assert abs(chi2 - (2**bits - 1)) <= 5 * math.sqrt(2 * 2**bits)
    for lag in (1, 2, 3, 4, 8, 1000):
        assert abs(np.corrcoef(r[lag:], r[:-lag])[0, 1]) <= 4 / math.sqrt(BLOCK)


@pytest.mark.parametrize("shared", [False, True])
def test_other_seeds_steps_and_workers_draw_other_bits(shared, plain):
    layout = plain.layout_of([(1000,)])
    x = plain.normal(1000)
    keys = list(itertools.product(range(3), repeat=3))
    compressor = StochasticSign("max", "correlated" if shared else "independent")
    payloads = {plain.compress(compressor, layout, x, Draw(*key, 9000 * key[2])).tobytes() for key in keys}
    assert len(payloads) == len(keys)


def test_draw_blocks_do_not_repeat_each_other(plain):
    layout = plain.layout_of([(2 * BLOCK,)])
    x = np.zeros(2 * BLOCK, dtype=np.float32)
    x[0] = 1.0
    bits = np.unpackbits(plain.compress(StochasticSign("max", "independent"), layout, x)[: 2 * BLOCK // 8])
    assert abs((bits[:BLOCK] == bits[BLOCK:]).mean() - 0.5) <= 4.0 * 0.5 / np.sqrt(BLOCK)


def test_independent_workers_draw_independently(plain):
    d = 100_000
    noises = [plain.noise("stochastic_sign-max", Draw(0, 0, worker, 0), d) for worker in range(4)]
    for one, other in itertools.combinations(noises, 2):
        assert abs((one * other).mean()) * 3.0 <= 4.0 / np.sqrt(d)


def test_correlated_workers_share_their_numbers_but_for_the_shift(plain):
    sources = [Dither("correlated").source(Draw(3, 5, worker, shift)) for worker, shift in enumerate((0, 1, 40_000))]
    assert len({source.key for source in sources}) == 1
    assert [source.shift for source in sources] == [0, 1, 40_000]
    first, *others = [plain.noise("stochastic_sign-correlated", Draw(3, 5, 0, shift), 1000) for shift in (0, 1, 40_000)]
    for shift, noise in zip((1, 40_000), others, strict=True):
        np.testing.assert_allclose((noise - first) % 2.0, shift / 2**15, rtol=1e-9)


@pytest.mark.parametrize("dither", ["correlated", "correlated+subtractive"], ids=str)
def test_replicas_leave_a_fraction_of_the_noise_of_workers_at_random_places(dither, plain):
    # Four groups of two replicas, each group with a gradient of its own.
    code = fractional_repetition(8, 8, stragglers=1)
    compressor, layout = StochasticSign("rms", dither, clip=2.0), plain.layout_of([(20_000,)])
    codec = compressor.codec(layout)
    inputs = [plain.normal(20_000, seed=group) for group in range(4)]
    into, payloads = np.empty(20_000, dtype=np.float32), np.empty((8, codec.payload_bytes), dtype=np.uint8)
    errors = {"code": 0.0, "random": 0.0}
    rng = np.random.default_rng(0)
    for step in range(20):
        for name, shifts in (("code", code.shifts), ("random", rng.permutation(8) * 65536 // 8)):
            messages = []
            for worker in range(8):
                key = Draw(0, step, worker, int(shifts[worker]))
                codec.compress(inputs[worker // 2].copy(), None, key, payloads[worker])
                messages.append(Message(payloads[worker], 0.5, key))
            codec.decode(messages, into)
            errors[name] += float(np.square(into - sum(inputs)).sum())
    assert errors["code"] < 0.75 * errors["random"]


def test_the_fraction_of_the_last_place_is_uniform():
    source = Dither("independent").source(Draw(0, 0, 0, 0))
    deltas = np.array([source.delta(block) for block in range(2000)])
    assert deltas.min() >= 0.0
    assert deltas.max() < 1.0
    assert abs(deltas.mean() - 0.5) <= 4.0 / math.sqrt(12 * 2000)
    assert len(set(deltas.tolist())) > 1990
    assert (deltas.astype(np.float32) == deltas).all()
