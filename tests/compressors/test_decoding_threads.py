"""Any number of threads decodes to the same bits, and an error in one of them is the caller's."""

import threading

import numpy as np
import pytest

from gcdl.compressors import Draw, ErrorFeedback, Identity, Message, NoisySign, ScaledSign, Sign, StochasticSign, TwoMean
from gcdl.compressors.decoding_threads import DecodingThreads
from gcdl.compressors.kernels import BLOCK
from gcdl.types import Layout

RECIPES = [
    Identity(),
    Identity("bfloat16"),
    Sign(),
    ScaledSign(block=256),
    TwoMean(block=1000),
    ErrorFeedback(ScaledSign()),
    StochasticSign("rms", "correlated+subtractive"),
    StochasticSign("rms", "subtractive", block=64),
    NoisySign(dither="subtractive"),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("equal", [True, False], ids=["votes", "any weights"])
def test_the_number_of_threads_changes_no_bit(recipe, equal):
    layout = Layout(("a", "b"), ((3 * BLOCK + 77,), (BLOCK // 2,)))
    codec, rng = recipe.codec(layout), np.random.default_rng(0)
    messages = []
    for i in range(10):
        payload = np.empty(codec.payload_bytes, np.uint8)
        draw = Draw(0, 1, i, 6000 * i)
        codec.compress(rng.standard_normal(layout.size).astype(np.float32), codec.init(), draw, payload)
        messages.append(Message(payload, 1.0 if equal else 0.3 + 0.1 * i, draw))
    wanted = np.full(layout.size, np.nan, np.float32)
    codec.decode(messages, wanted)
    for threads in (2, 3, 9, 1):
        codec.threads = threads
        assert codec.threads == threads
        into = np.full(layout.size, np.nan, np.float32)
        codec.decode(messages, into)
        assert into.tobytes() == wanted.tobytes()
        codec.decode([], into)
        assert not into.any()


def test_each_thread_has_scratch_of_its_own_and_every_block_is_worked_on_once():
    threads = DecodingThreads[int, list](list)
    threads.count = 4
    barrier, seen = threading.Barrier(4, timeout=30), []

    def work(block, scratch):
        if not scratch:
            barrier.wait()  # all four are at work at once
        scratch.append(block)
        seen.append((block, id(scratch)))

    threads.run(work, list(range(10)))
    assert sorted(block for block, _ in seen) == list(range(10))
    assert len({scratch for _, scratch in seen}) == 4
    threads.run(work, [])


def test_an_error_in_a_thread_is_raised_when_all_have_ended():
    threads = DecodingThreads[int, None](lambda: None)
    threads.count = 2
    done = []

    def work(block, scratch):
        if block == 3:
            raise ArithmeticError("block 3")
        done.append(block)

    with pytest.raises(ArithmeticError, match="block 3"):
        threads.run(work, [0, 1, 2, 3])
    assert sorted(done) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 1"):
        threads.count = 0
