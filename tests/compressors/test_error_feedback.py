"""Error feedback keeps what was not sent, and only what belongs to a reply that was used."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdl.compressors import Draw, ErrorFeedback, Message, ScaledSign, StochasticSign

SHAPES = [(5,), (0,), (3, 4), (1,)]
D = 18


@pytest.fixture
def inner(wrapped, plain):
    return plain.PLAIN[wrapped]


@pytest.fixture
def codec(inner, plain):
    return ErrorFeedback(inner).codec(plain.layout_of(SHAPES))


def send(codec, x, state, step, worker=0):
    """Compress; return the new state and what the master decodes."""
    out = np.empty(codec.payload_bytes, dtype=np.uint8)
    draw = Draw(0, step, worker, 4096 * 3)
    state = codec.compress(x.copy(), state, draw, out)
    sent = np.empty(D, dtype=np.float32)
    codec.decode([Message(out, 1.0, draw)], sent)
    return state, sent


def test_error_feedback_sends_as_many_bytes_as_what_it_wraps(inner, layout):
    assert ErrorFeedback(inner).codec(layout).payload_bytes == inner.codec(layout).payload_bytes


def test_the_first_message_is_that_of_the_inner_compressor(inner, layout, plain):
    x = plain.normal(layout.size)
    assert plain.compress(ErrorFeedback(inner), layout, x).tobytes() == plain.compress(inner, layout, x).tobytes()


def test_sent_plus_residual_is_the_input(codec, plain):
    x = plain.normal(D)
    state, sent = send(codec, x, codec.init(), 0)
    kept = codec.settle(state, 0).kept
    np.testing.assert_allclose(sent + kept, x, atol=1e-6 * (np.abs(x) + np.abs(sent)).max())


def test_sent_plus_new_residual_is_input_plus_old_residual(codec, plain):
    state = codec.init()
    for step in range(20):
        state = codec.settle(state, step - 1)
        before = state.kept.astype(np.float64)
        x = plain.normal(D, seed=step)
        state, sent = send(codec, x, state, step)
        after = codec.settle(state, step).kept
        size = (np.abs(x) + np.abs(before) + np.abs(sent)).max()
        np.testing.assert_allclose(sent + after, x + before, atol=1e-6 * size)


def test_nothing_is_kept_before_the_first_reply(codec):
    assert not codec.init().kept.any()
    assert not codec.settle(codec.init(), -1).kept.any()


def test_a_dropped_reply_leaves_the_residual_as_it_was(codec, plain):
    state, _ = send(codec, plain.normal(D), codec.init(), 0)
    state = codec.settle(state, 0)
    before = state.kept.copy()
    for step in range(1, 5):
        state, _ = send(codec, plain.normal(D, seed=step), state, step)
        state = codec.settle(state, 0)  # the master still says that step 0 was the last it used
        np.testing.assert_array_equal(state.kept, before)


def test_settling_twice_is_settling_once(codec, plain):
    state, _ = send(codec, plain.normal(D), codec.init(), 0)
    once = codec.settle(state, 0)
    kept = once.kept.copy()
    np.testing.assert_array_equal(codec.settle(once, 0).kept, kept)


def test_a_reply_forgotten_as_dropped_is_not_adopted_later(codec, plain):
    state, _ = send(codec, plain.normal(D), codec.init(), 3)
    state = codec.settle(state, -1)
    assert not codec.settle(state, 3).kept.any()


def test_the_kept_residual_and_the_candidate_never_share_memory(codec, plain):
    state = codec.init()
    for step in range(6):
        state = codec.settle(state, step - 1 if step % 3 else -1)
        state, _ = send(codec, plain.normal(D, seed=step), state, step)
        assert not np.shares_memory(state.kept, state.candidate)


# What becomes of a step's task at one worker: its reply is used; its reply comes too late; the task is superseded after
# the worker looked at it; the worker never sees it.
FATES = st.lists(st.sampled_from(["accepted", "dropped", "superseded", "unseen"]), max_size=25)


@given(
    FATES,
    st.sampled_from(["scaled_sign", "stochastic_sign-correlated+subtractive", "sign", "identity", "two_mean"]),
    st.integers(0, 1000),
)
@settings(deadline=None, derandomize=True)
def test_the_residual_is_what_accepted_replies_left_out_whatever_else_happened(plain, fates, kind, seed):
    codec = ErrorFeedback(plain.PLAIN[kind]).codec(plain.layout_of(SHAPES))
    state = codec.init()
    residual = np.zeros(D)  # the law: it changes when, and only when, the master uses a reply
    size, accepted = 1.0, -1
    for step, fate in enumerate(fates):
        if fate == "unseen":
            continue
        state = codec.settle(state, accepted)
        np.testing.assert_allclose(state.kept, residual, atol=1e-5 * size)
        if fate == "superseded":
            continue
        x = plain.normal(D, seed=1000 * seed + step)
        state, sent = send(codec, x, state, step)
        size = max(size, float((np.abs(x) + np.abs(sent) + np.abs(residual)).max()))
        if fate == "accepted":
            accepted = step
            residual = residual + x - sent
    np.testing.assert_allclose(codec.settle(state, accepted).kept, residual, atol=1e-5 * size)


def test_what_was_sent_adds_up_to_what_was_meant(plain):
    # The point of error feedback: the biased compressor's mistakes do not pile up.
    layout = plain.layout_of([(50,)])
    codec = ErrorFeedback(ScaledSign()).codec(layout)
    gradient = plain.normal(50)
    state, total, steps = codec.init(), np.zeros(50), 1500
    sent, out = np.empty(50, dtype=np.float32), np.empty(codec.payload_bytes, dtype=np.uint8)
    for step in range(steps):
        state = codec.settle(state, step - 1)
        state = codec.compress(gradient.copy(), state, Draw(0, step, 0, 4096 * 3), out)
        codec.decode([Message(out, 1.0, Draw(0, step, 0, 4096 * 3))], sent)
        total += sent
    assert np.abs(total / steps - gradient).max() < 0.1
    alone = plain.values("scaled_sign", layout, plain.compress(ScaledSign(), layout, gradient))
    assert np.abs(alone - gradient).max() > 0.5


def test_the_residual_is_in_gradient_units(plain):
    # Twice the gradients: twice the residual. No learning rate hides in it.
    layout = plain.layout_of(SHAPES)
    kept = []
    for factor in (1.0, 2.0):
        codec = ErrorFeedback(StochasticSign("max", "independent")).codec(layout)
        out = np.empty(codec.payload_bytes, dtype=np.uint8)
        state = codec.compress(plain.normal(D) * np.float32(factor), codec.init(), Draw(0, 0, 0, 4096 * 3), out)
        kept.append(codec.settle(state, 0).kept)
    np.testing.assert_allclose(kept[1], 2.0 * kept[0], rtol=1e-6)


def test_a_loaded_state_goes_on_like_the_one_that_was_dumped(codec, inner, plain):
    state = codec.init()
    for step in range(3):
        state = codec.settle(send(codec, plain.normal(D, seed=step), state, step)[0], step)
    saved = np.empty(codec.state_bytes, dtype=np.uint8)
    assert codec.state_bytes == 4 * D
    codec.dump(state, saved)
    other = ErrorFeedback(inner).codec(plain.layout_of(SHAPES))
    loaded = other.load(saved)
    np.testing.assert_array_equal(loaded.kept, state.kept)
    saved[:] = 0  # the loaded state is a copy
    x = plain.normal(D, seed=9)
    np.testing.assert_array_equal(send(other, x, loaded, 3)[1], send(codec, x, state, 3)[1])


def test_a_stateless_codec_has_nothing_to_dump(inner, plain):
    codec = inner.codec(plain.layout_of(SHAPES))
    assert codec.state_bytes == 0
    codec.dump(codec.init(), np.empty(0, dtype=np.uint8))
    assert codec.load(np.empty(0, dtype=np.uint8)) is None


def test_a_decaying_residual_is_that_share_of_what_was_left_out(plain):
    layout, x = plain.layout_of([(40,), (7,)]), plain.normal(47)
    states = []
    for decay in (1.0, 0.25):
        codec = ErrorFeedback(ScaledSign(), decay).codec(layout)
        out = np.empty(codec.payload_bytes, np.uint8)
        states.append(codec.settle(codec.compress(x.copy(), codec.init(), Draw(0, 3, 0, 0), out), 3))
    whole, quarter = (state.kept for state in states)
    assert whole.any()
    np.testing.assert_array_equal(quarter, np.float32(0.25) * whole)
