"""Every compressor in the table, with and without error feedback, obeys the same laws."""

import itertools

import numpy as np
import pytest

from gcdl.compressors import COMPRESSORS, Draw, Identity, Message, ScaledSign, Sign, StochasticSign
from gcdl.types import aligned_buffer


def test_the_table_names_every_compressor(plain):
    assert {name.split("-")[0] for name in plain.PLAIN} == set(COMPRESSORS)
    assert {type(compressor) for compressor in plain.PLAIN.values()} == set(COMPRESSORS.values())


# --- size -----------------------------------------------------------------------------------------------------------


def test_payload_size_is_exact_to_the_byte(name, compressor, layout, plain):
    assert compressor.codec(layout).payload_bytes == plain.expected_bytes(name, layout)


def test_compress_writes_every_byte_of_its_buffer_and_none_beyond(compressor, layout, plain):
    x = plain.normal(layout.size)
    written = []
    for background in (0x00, 0xFF):
        codec = compressor.codec(layout)
        arena = np.full(64 + codec.payload_bytes + 64, background, dtype=np.uint8)
        codec.compress(x.copy(), codec.init(), Draw(1, 2, 3), arena[64 : 64 + codec.payload_bytes])
        assert (arena[:64] == background).all()
        assert (arena[64 + codec.payload_bytes :] == background).all()
        written.append(arena[64 : 64 + codec.payload_bytes].tobytes())
    assert written[0] == written[1]


def test_spare_bits_of_the_last_byte_are_zero(name, compressor, layout, plain):
    if name.startswith("identity"):
        return
    payload = plain.compress(compressor, layout, np.abs(plain.normal(layout.size)) + 1.0)
    assert not np.unpackbits(payload[: plain.bits_bytes(layout.size)])[layout.size :].any()


# --- decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replies", [0, 1, 2, 5])
def test_decode_is_the_weighted_sum_of_what_the_payloads_stand_for(name, compressor, layout, plain, replies):
    weights = [0.5, -1.25, 3.0, 0.0, 1.0][:replies]
    codec = compressor.codec(layout)
    messages, by_hand, size = [], np.zeros(layout.size), np.zeros(layout.size)
    for worker, weight in enumerate(weights):
        x = plain.normal(layout.size, seed=worker) * np.float32(10.0**worker)
        draw = Draw(0, 5, worker)
        payload = plain.compress(compressor, layout, x, draw)
        messages.append(Message(payload, weight, draw))
        by_hand += weight * plain.values(name, layout, payload)
        size += np.abs(weight * plain.values(name, layout, payload))
    into = np.full(layout.size, np.nan, dtype=np.float32)
    codec.decode(messages, into)
    assert (np.abs(into - by_hand) <= 1e-6 * size).all()


def test_decode_depends_on_the_messages_alone(compressor, layout, plain):
    payloads = [plain.compress(compressor, layout, plain.normal(layout.size, seed), Draw(0, 0, seed)) for seed in range(4)]
    messages = [Message(payload, 0.3, Draw(0, 0, worker)) for worker, payload in enumerate(payloads)]
    fresh, used = np.empty((2, layout.size), dtype=np.float32)
    compressor.codec(layout).decode(messages[:2], fresh)
    codec = compressor.codec(layout)
    codec.decode(messages, used)  # leaves more rows in its scratch than the next call fills
    codec.decode(messages[:2], used)
    assert fresh.tobytes() == used.tobytes()


def test_decode_leaves_the_payloads_alone(compressor, layout, plain):
    payload = plain.compress(compressor, layout, plain.normal(layout.size))
    before = payload.tobytes()
    compressor.codec(layout).decode([Message(payload, -2.0, Draw(0, 0, 0))], np.empty(layout.size, dtype=np.float32))
    assert payload.tobytes() == before


def test_the_payload_may_lie_at_any_address_behind_a_header(name, compressor, layout, plain):
    codec = compressor.codec(layout)
    message = aligned_buffer(64 + codec.payload_bytes)
    payload = message[64:]
    codec.compress(plain.normal(layout.size), codec.init(), Draw(0, 0, 0), payload)
    into = np.empty(layout.size, dtype=np.float32)
    codec.decode([Message(payload, 1.0, Draw(0, 0, 0))], into)
    np.testing.assert_array_equal(into, plain.values(name, layout, payload).astype(np.float32))


# --- determinism ----------------------------------------------------------------------------------------------------


def test_the_payload_is_a_function_of_x_and_the_key(compressor, layout, plain):
    x = plain.normal(layout.size)
    first = plain.compress(compressor, layout, x, Draw(3, 4, 5))
    codec = compressor.codec(layout)
    again = np.empty_like(first)
    codec.compress(plain.normal(layout.size, seed=9), codec.init(), Draw(3, 3, 5), again)
    codec.compress(x.copy(), codec.init(), Draw(3, 4, 5), again)
    assert first.tobytes() == again.tobytes()


def test_compressing_leaves_numpys_global_generator_alone(compressor, layout, plain):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    plain.compress(compressor, layout, plain.normal(layout.size))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_other_seeds_steps_and_workers_draw_other_bits(plain):
    layout = plain.layout_of([(1000,)])
    x = plain.normal(1000)
    keys = list(itertools.product(range(3), repeat=3))
    payloads = {plain.compress(StochasticSign(), layout, x, Draw(*key)).tobytes() for key in keys}
    assert len(payloads) == len(keys)


# --- meaning --------------------------------------------------------------------------------------------------------


def test_identity_is_lossless(layout, plain):
    x = plain.normal(layout.size)
    assert plain.compress(Identity(), layout, x).tobytes() == x.tobytes()


@pytest.mark.parametrize("odd_one", [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45])
def test_identity_carries_special_values(odd_one, plain):
    layout = plain.layout_of([(3,)])
    x = np.array([1.0, odd_one, -2.0], dtype=np.float32)
    assert plain.compress(Identity(), layout, x).tobytes() == x.tobytes()


@pytest.mark.parametrize("kind", ["sign", "scaled_sign"])
def test_a_sign_is_plus_exactly_where_x_is_not_negative(kind, layout, plain):
    x = plain.normal(layout.size)
    x[::5] = 0.0
    x[1::5] = -0.0
    x[2::5] = np.float32(-1e-45)  # subnormal, and negative
    bits = np.unpackbits(plain.compress(plain.PLAIN[kind], layout, x)[: plain.bits_bytes(layout.size)])[: layout.size]
    np.testing.assert_array_equal(bits, [0 if value < 0 else 1 for value in x.tolist()])


def test_sign_sends_plus_one_at_zero_and_at_minus_zero(plain):
    layout = plain.layout_of([(4,)])
    payload = plain.compress(Sign(), layout, np.array([0.0, -0.0, 1.0, -1.0], dtype=np.float32))
    assert plain.values("sign", layout, payload).tolist() == [1.0, 1.0, 1.0, -1.0]


def test_scaled_sign_sends_the_mean_magnitude_of_each_tensor(layout, plain):
    x = plain.normal(layout.size) * 7.0
    decoded = plain.values("scaled_sign", layout, plain.compress(ScaledSign(), layout, x))
    for where in layout.slices:
        part = x[where].astype(np.float64)
        if part.size:
            np.testing.assert_allclose(decoded[where], np.where(part >= 0, 1, -1) * np.abs(part).mean(), rtol=1e-6)


def test_scaled_sign_is_the_contraction_its_documentation_states(plain):
    layout = plain.layout_of([(1001,)])
    x = plain.normal(1001).astype(np.float64)
    left = x - plain.values("scaled_sign", layout, plain.compress(ScaledSign(), layout, x.astype(np.float32)))
    share = np.abs(x).sum() ** 2 / (1001 * (x**2).sum())
    assert (left**2).sum() == pytest.approx((1 - share) * (x**2).sum(), rel=1e-5)


def test_zeros_decode_to_zeros(scaled, layout, plain):
    payload = plain.compress(plain.TABLE[scaled], layout, np.zeros(layout.size, dtype=np.float32))
    into = np.full(layout.size, np.nan, dtype=np.float32)
    plain.TABLE[scaled].codec(layout).decode([Message(payload, 3.0, Draw(0, 0, 0))], into)
    assert not into.any()


def test_a_tensor_of_zeros_decodes_to_zeros_beside_one_that_is_not(scaled, plain):
    layout = plain.layout_of([(9,), (11,), (3,)])
    x = np.ones(23, dtype=np.float32)
    x[9:20] = 0.0
    payload = plain.compress(plain.TABLE[scaled], layout, x)
    into = np.full(23, np.nan, dtype=np.float32)
    plain.TABLE[scaled].codec(layout).decode([Message(payload, 3.0, Draw(0, 0, 0))], into)
    assert not into[9:20].any()
    assert into[:9].all()
    assert into[20:].all()


@pytest.mark.parametrize("size", [1e-36, 1e-30, 1e-6, 1e6, 1e18])
def test_tiny_and_huge_values_decode_to_finite_ones(scaled, size, plain):
    layout = plain.layout_of([(33,)])
    x = plain.normal(33) * np.float32(size)
    payload = plain.compress(plain.TABLE[scaled], layout, x)
    decoded = plain.values(scaled, layout, payload)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() <= 1.001 * np.linalg.norm(x.astype(np.float64))


# --- stochastic sign ------------------------------------------------------------------------------------------------


def mean_decoded(compressor, layout, x, plain, draws, worker=0):
    """The mean of Q(x) over steps, and the scale of each coordinate."""
    codec = compressor.codec(layout)
    out = np.empty(codec.payload_bytes, dtype=np.uint8)
    total = np.zeros(layout.size)
    for step in range(draws):
        codec.compress(x.copy(), None, Draw(11, step, worker), out)
        total += plain.values("stochastic_sign", layout, out)
    return total / draws, np.abs(plain.values("stochastic_sign", layout, out))


def probing_values(plain):
    """Two tensors whose values include the extremes +-max, exact zeros, and values near them."""
    x = plain.normal(48)
    x[:8] = [0.0, -0.0, 1e-4, -1e-4, 3.0, -3.0, 2.999, -2.999]
    x[30:34] = [0.0, 2.0, -2.0, 0.5]
    return plain.layout_of([(30,), (18,)]), x.clip(-3.0, 3.0)


@pytest.mark.parametrize("scale", ["max", "l2"])
def test_stochastic_sign_is_unbiased_and_so_does_not_drift_at_zero(scale, plain):
    layout, x = probing_values(plain)
    draws = 4000
    mean, M = mean_decoded(StochasticSign(scale=scale), layout, x, plain, draws)
    standard_error = np.sqrt((M**2 - x.astype(np.float64) ** 2).clip(0.0) / draws)
    assert (np.abs(mean - x) <= 4.0 * standard_error + 1e-6 * M).all()


def test_the_extremes_of_a_tensor_are_sent_as_they_are_in_every_draw(plain):
    layout, x = probing_values(plain)
    mean, _ = mean_decoded(StochasticSign(scale="max"), layout, x, plain, 2000)
    extreme = np.concatenate([np.abs(x[where]) == np.abs(x[where]).max() for where in layout.slices])
    assert extreme.sum() >= 2
    np.testing.assert_array_equal(mean[extreme], x[extreme])


def test_stochastic_sign_is_unbiased_on_every_block_of_a_long_tensor(plain):
    # The same value everywhere: the mean over a block's coordinates is the mean over draws.
    d = 131072 + 40000
    layout = plain.layout_of([(1,), (d - 1,)])
    x = np.full(d, 0.3, dtype=np.float32)
    x[-1] = 1.0
    decoded = plain.values("stochastic_sign", layout, plain.compress(StochasticSign(), layout, x))
    for block in (slice(1, 131072), slice(131072, d - 1)):
        part = decoded[block]
        assert abs(part.mean() - 0.3) <= 4.0 * np.sqrt((1 - 0.09) / part.size)


def test_draw_blocks_do_not_repeat_each_other(plain):
    layout = plain.layout_of([(2 * 131072,)])
    x = np.zeros(2 * 131072, dtype=np.float32)
    x[0] = 1.0
    bits = np.unpackbits(plain.compress(StochasticSign(), layout, x)[: 2 * 131072 // 8])
    assert abs((bits[:131072] == bits[131072:]).mean() - 0.5) <= 4.0 * 0.5 / np.sqrt(131072)


def test_workers_draw_independently(plain):
    d = 100_000
    layout = plain.layout_of([(d,)])
    x = np.zeros(d, dtype=np.float32)
    x[0] = 1.0
    signs = [
        plain.values("stochastic_sign", layout, plain.compress(StochasticSign(), layout, x, Draw(0, 0, worker)))[1:]
        for worker in range(4)
    ]
    for one, other in itertools.combinations(signs, 2):
        assert abs((one * other).mean()) <= 4.0 / np.sqrt(d)


def test_rms_is_unbiased_within_its_clip_and_clips_beyond(plain):
    layout, x = probing_values(plain)
    draws = 4000
    mean, M = mean_decoded(StochasticSign(scale="rms", clip=1.5), layout, x, plain, draws)
    for where in layout.slices:
        np.testing.assert_allclose(M[where], 1.5 * np.sqrt((x[where].astype(np.float64) ** 2).mean()), rtol=1e-6)
    clipped = x.astype(np.float64).clip(-M, M)
    assert (np.abs(clipped) < np.abs(x)).any()
    standard_error = np.sqrt((M**2 - clipped**2) / draws)
    assert (np.abs(mean - clipped) <= 4.0 * standard_error + 1e-6 * M).all()


@pytest.mark.parametrize("scale", ["max", "l2"])
def test_the_scale_is_that_of_each_tensor(scale, layout, plain):
    x = plain.normal(layout.size) * 3.0
    payload = plain.compress(StochasticSign(scale=scale), layout, x)
    M = np.frombuffer(payload[plain.bits_bytes(layout.size) :].tobytes(), dtype="<f4")
    order = np.inf if scale == "max" else 2
    by_hand = [np.linalg.norm(x[where].astype(np.float64), order) if x[where].size else 0.0 for where in layout.slices]
    np.testing.assert_allclose(M, by_hand, rtol=1e-5)


@pytest.mark.parametrize("size", [1e20, 1e-24])
@pytest.mark.parametrize("scale", ["l2", "rms"])
def test_a_norm_neither_overflows_nor_underflows_where_the_values_do_not(size, scale, plain):
    layout = plain.layout_of([(50,)])
    x = plain.normal(50) * np.float32(size)
    payload = plain.compress(StochasticSign(scale=scale, clip=1.0), layout, x)
    by_hand = np.linalg.norm(x.astype(np.float64)) / (1.0 if scale == "l2" else np.sqrt(50))
    np.testing.assert_allclose(np.abs(plain.values("stochastic_sign", layout, payload)), by_hand, rtol=1e-5)
