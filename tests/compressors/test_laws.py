"""Every compressor in the table, with and without error feedback, obeys the same laws."""

import itertools

import numpy as np
import pytest

from gcdl.compressors import COMPRESSORS, Draw, Identity, Message, ScaledSign, Sign, StochasticSign, TwoMean
from gcdl.compressors.kernels.native import best_level
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
        codec.compress(x.copy(), codec.init(), Draw(1, 2, 3, 4096 * 3), arena[64 : 64 + codec.payload_bytes])
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
        draw = Draw(0, 5, worker, 4096 * 3)
        payload = plain.compress(compressor, layout, x, draw)
        messages.append(Message(payload, weight, draw))
        value = plain.values(name, layout, payload, draw)
        by_hand += weight * value
        size += abs(weight) * plain.extent(name, layout, payload)
    into = np.full(layout.size, np.nan, dtype=np.float32)
    codec.decode(messages, into)
    assert (np.abs(into - by_hand) <= 2e-6 * size).all()


def test_decode_depends_on_the_messages_alone(compressor, layout, plain):
    payloads = [
        plain.compress(compressor, layout, plain.normal(layout.size, seed), Draw(0, 0, seed, 4096 * 3)) for seed in range(4)
    ]
    messages = [Message(payload, 0.3, Draw(0, 0, worker, 4096 * 3)) for worker, payload in enumerate(payloads)]
    fresh, used = np.empty((2, layout.size), dtype=np.float32)
    compressor.codec(layout).decode(messages[:2], fresh)
    codec = compressor.codec(layout)
    codec.decode(messages, used)  # leaves more rows in its scratch than the next call fills
    codec.decode(messages[:2], used)
    assert fresh.tobytes() == used.tobytes()


def test_decode_leaves_the_payloads_alone(compressor, layout, plain):
    payload = plain.compress(compressor, layout, plain.normal(layout.size))
    before = payload.tobytes()
    compressor.codec(layout).decode([Message(payload, -2.0, Draw(0, 0, 0, 0))], np.empty(layout.size, dtype=np.float32))
    assert payload.tobytes() == before


def test_the_payload_may_lie_at_any_address_behind_a_header(name, compressor, layout, plain):
    codec = compressor.codec(layout)
    message = aligned_buffer(64 + codec.payload_bytes)
    payload = message[64:]
    codec.compress(plain.normal(layout.size), codec.init(), Draw(0, 0, 0, 0), payload)
    into = np.empty(layout.size, dtype=np.float32)
    codec.decode([Message(payload, 1.0, Draw(0, 0, 0, 0))], into)
    assert (np.abs(into - plain.values(name, layout, payload)) <= 1e-6 * plain.extent(name, layout, payload)).all()


def test_value_plus_remainder_is_the_input(name, compressor, layout, plain):
    x = plain.normal(layout.size, seed=3)
    draw = Draw(5, 6, 7, 4096 * 3)
    payload = plain.compress(compressor, layout, x, draw)
    left = np.full(layout.size, np.nan, dtype=np.float32)
    compressor.codec(layout).remainder(x, payload, draw, left)
    value = plain.values(name, layout, payload, draw)
    assert (np.abs(value + left - x) <= 1e-6 * (plain.extent(name, layout, payload) + np.abs(x))).all()


def test_what_is_added_first_is_compressed_too_and_stays_in_x(name, compressor, layout, plain):
    x, plus = plain.normal(layout.size, seed=1), plain.normal(layout.size, seed=2)
    codec = compressor.codec(layout)
    out, added = np.empty(codec.payload_bytes, dtype=np.uint8), x.copy()
    codec.compress(added, codec.init(), Draw(0, 0, 0, 0), out, plus)
    np.testing.assert_array_equal(added, x + plus)
    assert out.tobytes() == plain.compress(compressor, layout, x + plus).tobytes()


@pytest.mark.skipif(best_level() is None, reason="the native kernels are not built")
def test_native_kernels_change_nothing(name, compressor, plain, monkeypatch):
    layout = plain.layout_of([(131072 + 50,), (7,), (3000,), (70_000,)])
    x = plain.normal(layout.size)
    results = []
    for kernels in ("numpy", "native"):
        monkeypatch.setenv("GCDL_KERNELS", kernels)
        codec = compressor.codec(layout)
        payloads = [plain.compress(compressor, layout, x, Draw(2, 3, worker, 3)) for worker in range(3)]
        into, left = np.empty((2, layout.size), dtype=np.float32)
        codec.decode([Message(payload, 0.7, Draw(2, 3, i, 3)) for i, payload in enumerate(payloads)], into)
        codec.remainder(x, payloads[0], Draw(2, 3, 0, 3), left)
        results.append((*(payload.tobytes() for payload in payloads), into.tobytes(), left.tobytes()))
    assert results[0] == results[1]


# --- determinism ----------------------------------------------------------------------------------------------------


def test_the_payload_is_a_function_of_x_and_the_key(compressor, layout, plain):
    x = plain.normal(layout.size)
    first = plain.compress(compressor, layout, x, Draw(3, 4, 5, 4096 * 3))
    codec = compressor.codec(layout)
    again = np.empty_like(first)
    codec.compress(plain.normal(layout.size, seed=9), codec.init(), Draw(3, 3, 5, 4096 * 3), again)
    codec.compress(x.copy(), codec.init(), Draw(3, 4, 5, 4096 * 3), again)
    assert first.tobytes() == again.tobytes()


def test_compressing_leaves_numpys_global_generator_alone(compressor, layout, plain):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    plain.compress(compressor, layout, plain.normal(layout.size))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_other_seeds_steps_and_workers_draw_other_bits(plain):
    layout = plain.layout_of([(1000,)])
    x = plain.normal(1000)
    keys = list(itertools.product(range(3), repeat=3))
    payloads = {plain.compress(StochasticSign("max", "independent"), layout, x, Draw(*key, 4096 * 3)).tobytes() for key in keys}
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
    plain.TABLE[scaled].codec(layout).decode([Message(payload, 3.0, Draw(0, 0, 0, 0))] * 3, into)
    assert not into.any()


def test_a_tensor_of_zeros_decodes_to_zeros_beside_one_that_is_not(scaled, plain):
    if scaled.startswith("eden"):
        pytest.skip("a piece that is rotated lies across tensors")
    layout = plain.layout_of([(9,), (11,), (3,)])
    x = np.ones(23, dtype=np.float32)
    x[9:20] = 0.0
    payload = plain.compress(plain.TABLE[scaled], layout, x)
    into = np.full(23, np.nan, dtype=np.float32)
    plain.TABLE[scaled].codec(layout).decode([Message(payload, 3.0, Draw(0, 0, 0, 0))], into)
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
    assert np.abs(decoded).max() <= 2.001 * np.linalg.norm(x.astype(np.float64))


# --- other compressors ----------------------------------------------------------------------------------------------


def test_bfloat16_rounds_to_nearest_even(plain):
    layout = plain.layout_of([(6,)])
    x = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x80000000, 0x7F7FFFFF, 0x3F80FFFF], dtype=np.uint32).view(np.float32)
    stored = plain.compress(Identity("bfloat16"), layout, x).view(np.uint16)
    assert [hex(value) for value in stored] == ["0x3f80", "0x3f82", "0x3f81", "0x8000", "0x7f80", "0x3f81"]


def test_bfloat16_is_that_of_torch(plain):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    stored = plain.compress(Identity("bfloat16"), plain.layout_of([x.shape]), x).view(np.int16)
    np.testing.assert_array_equal(stored, torch.from_numpy(x.copy()).bfloat16().view(torch.int16).numpy())


def test_float16_saturates_and_vanishes(plain):
    layout = plain.layout_of([(5,)])
    x = np.array([1e6, -np.finfo(np.float32).max, 1e-9, -0.0, 1 / 3], dtype=np.float32)
    value = plain.values("identity-float16", layout, plain.compress(Identity("float16"), layout, x))
    assert value.tolist() == [65504.0, -65504.0, 0.0, 0.0, float(np.float16(1 / 3))]


@pytest.mark.parametrize("kind", ["two_mean", "two_mean-block"])
def test_two_mean_sends_the_mean_of_each_side_and_leaves_the_least_squares(kind, layout, plain):
    x = plain.normal(layout.size) + 0.3
    value = plain.values(kind, layout, plain.compress(plain.PLAIN[kind], layout, x))
    start = 0
    for size in plain.group_sizes(kind, layout):
        part, sent = x[start : start + size].astype(np.float64), value[start : start + size]
        for side in (part >= 0, part < 0):
            if side.any():
                np.testing.assert_allclose(sent[side], part[side].mean(), rtol=1e-5, atol=1e-6)
        start += size


def test_two_mean_of_one_kind_of_sign_is_the_mean(plain):
    layout = plain.layout_of([(4,), (3,)])
    x = np.array([1, 2, 3, 6, -1, -2, -6], dtype=np.float32)
    into = np.empty(7, dtype=np.float32)
    codec = TwoMean().codec(layout)
    codec.decode([Message(plain.compress(TwoMean(), layout, x), 1.0, Draw(0, 0, 0, 0))], into)
    assert into.tolist() == [3.0] * 4 + [-3.0] * 3


@pytest.mark.parametrize("m", [1, 7, 8, 9, 15, 16, 33, 64])
def test_equal_messages_without_a_scale_are_counted(m, plain):
    layout = plain.layout_of([(1003,), (20,)])
    payloads = [plain.compress(Sign(), layout, plain.normal(1023, seed)) for seed in range(m)]
    into = np.full(1023, np.nan, dtype=np.float32)
    Sign().codec(layout).decode([Message(payload, 0.25, Draw(0, 0, i, m)) for i, payload in enumerate(payloads)], into)
    np.testing.assert_array_equal(into, 0.25 * sum(plain.values("sign", layout, payload) for payload in payloads))
