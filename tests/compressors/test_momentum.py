"""Worker momentum: what is sent is Lion's interpolation, or Signum's momentum; it changes only with a reply that was used."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdl.compressors import Draw, ErrorFeedback, Identity, Message, Momentum, ScaledSign, Sign
from gcdl.errors import ParameterError

SHAPES = [(5,), (0,), (3, 4), (1,)]
D = 18
LION = Momentum.named("lion", Identity(), 0.8, 0.95)
SIGNUM = Momentum.named("signum", Identity(), 0.8)


def send(codec, x, state, step):
    """Compress; return the new state and what the master decodes."""
    out = np.empty(codec.payload_bytes, dtype=np.uint8)
    draw = Draw(0, step, 0, 4096 * 3)
    state = codec.compress(x.copy(), state, draw, out)
    sent = np.empty(D, dtype=np.float32)
    codec.decode([Message(out, 1.0, draw)], sent)
    return state, sent


FATES = st.lists(st.sampled_from(["accepted", "dropped", "superseded", "unseen"]), max_size=25)


@given(FATES, st.sampled_from([LION, SIGNUM]), st.integers(0, 1000))
@settings(deadline=None, derandomize=True)
def test_it_sends_the_interpolation_of_the_gradients_whose_replies_were_used(plain, fates, recipe, seed):
    codec = recipe.codec(plain.layout_of(SHAPES))
    state, momentum, accepted = codec.init(), np.zeros(D), -1
    for step, fate in enumerate(fates):
        if fate == "unseen":
            continue
        state = codec.settle(state, accepted)
        if fate == "superseded":
            continue
        x = plain.normal(D, seed=1000 * seed + step)
        state, sent = send(codec, x, state, step)
        np.testing.assert_allclose(sent, recipe.beta1 * momentum + (1.0 - recipe.beta1) * x, atol=1e-5)
        if fate == "accepted":
            accepted, momentum = step, recipe.beta2 * momentum + (1.0 - recipe.beta2) * x
    np.testing.assert_allclose(codec.settle(state, accepted).kept, momentum, atol=1e-5)


def test_the_names_are_those_of_the_papers():
    assert Momentum.named("lion", Sign()) == Momentum(Sign(), 0.9, 0.99)
    assert Momentum.named("signum", Sign()) == Momentum(Sign(), 0.9, 0.9)
    with pytest.raises(ParameterError, match=r"^beta2: 0\.5: signum has beta1 alone"):
        Momentum.named("signum", Sign(), 0.9, 0.5)


def test_signum_sends_what_it_keeps(plain):
    codec = SIGNUM.codec(plain.layout_of(SHAPES))
    state = codec.init()
    for step in range(5):
        state, sent = send(codec, plain.normal(D, seed=step), state, step)
        state = codec.settle(state, step)
        np.testing.assert_array_equal(sent, state.kept)


def test_without_memory_it_is_the_inner_compressor(plain):
    layout, x = plain.layout_of(SHAPES), plain.normal(D)
    alone = plain.compress(ScaledSign(), layout, x)
    assert plain.compress(Momentum(ScaledSign(), 0.0, 0.0), layout, x).tobytes() == alone.tobytes()


def test_error_feedback_inside_keeps_what_was_not_said_of_the_interpolation(plain):
    codec = Momentum.named("lion", ErrorFeedback(ScaledSign())).codec(plain.layout_of(SHAPES))
    assert codec.state_bytes == 8 * D
    state, momentum, residual = codec.init(), np.zeros(D), np.zeros(D)
    for step in range(10):
        x = plain.normal(D, seed=step)
        state, sent = send(codec, x, state, step)
        if step % 3:  # every third reply comes too late
            residual = residual + 0.9 * momentum + 0.1 * x - sent
            momentum = 0.99 * momentum + 0.01 * x
        state = codec.settle(state, step if step % 3 else step - 1)
        np.testing.assert_allclose(state.kept, momentum, atol=1e-5)
        np.testing.assert_allclose(state.inner.kept, residual, atol=1e-5)


def test_a_loaded_state_goes_on_like_the_one_that_was_dumped(plain):
    recipe = Momentum.named("lion", ErrorFeedback(Sign()))
    codec = recipe.codec(plain.layout_of(SHAPES))
    state = codec.init()
    for step in range(3):
        state = codec.settle(send(codec, plain.normal(D, seed=step), state, step)[0], step)
    saved = np.empty(codec.state_bytes, dtype=np.uint8)
    codec.dump(state, saved)
    other = recipe.codec(plain.layout_of(SHAPES))
    loaded = other.load(saved)
    saved[:] = 0  # the loaded state is a copy
    for step in range(3, 6):
        x = plain.normal(D, seed=step)
        loaded, there = send(other, x, other.settle(loaded, step - 1), step)
        state, here = send(codec, x, codec.settle(state, step - 1), step)
        np.testing.assert_array_equal(there, here)
