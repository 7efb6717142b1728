"""A worker's codec by PyTorch, as on a GPU, gives numpy's bits and residuals; on PyTorch's CPU device, and a GPU if any."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gcdl.compressors import Draw, Momentum
from gcdl.compressors.error_feedback import ErrorFeedback, ErrorFeedbackCodec
from gcdl.compressors.identity import Identity
from gcdl.compressors.kernels import BLOCK
from gcdl.compressors.noisy_sign import NoisySign
from gcdl.compressors.scaled_sign import ScaledSign
from gcdl.compressors.sign import Sign
from gcdl.compressors.stochastic_sign import StochasticSign
from gcdl.compressors.to_device import to_device
from gcdl.compressors.two_mean import TwoMean
from gcdl.types import Layout, aligned_buffer

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: not run on one"))
RECIPES = [
    Sign(),
    ScaledSign(),
    ScaledSign(block=100),  # more scales in a block than are worth a loop
    TwoMean(),
    StochasticSign("max", "independent"),
    StochasticSign("l2", "correlated"),
    StochasticSign("rms", "correlated+subtractive", clip=2.0),
    StochasticSign("rms", "subtractive", clip=2.0, block=100),
    StochasticSign("rms", "independent", clip=2.0, agreed=True),
    NoisySign(),
    NoisySign(dither="subtractive"),
    Identity(),
    Identity("bfloat16"),
    Identity("float16"),
]
SHAPES = [((3,),), ((7, 11), (1,), (0,), (4097,)), ((BLOCK - 5,), (30_000,))]


WRAPPERS = [
    pytest.param(ErrorFeedback, id="feedback"),
    pytest.param(Momentum, id="momentum"),
    pytest.param(lambda recipe: Momentum(ErrorFeedback(recipe)), id="both"),
]


def layout_of(shapes) -> Layout:
    return Layout(tuple(f"t{i}" for i in range(len(shapes))), shapes)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES)
def test_a_tensor_on_a_device_is_encoded_to_the_bits_of_the_same_numbers_in_numpy(recipe, shapes, device):
    layout = layout_of(shapes)
    rng = np.random.default_rng(5)
    codec = recipe.codec(layout)
    there = to_device(codec, torch.device(device))
    agreed = np.full(codec.agreed_count, 0.7, dtype=np.float32) if codec.agreed_count else None
    for step, magnitude in enumerate((1.0, 1e-20, 0.0)):  # squares that underflow; zeros
        x = (magnitude * rng.standard_normal(layout.size)).astype(np.float32)
        x[::7] = 0.0
        x[1] = 1e5 * magnitude  # beyond a float16
        draw = Draw(seed=1, step=step, worker=2, shift=40_000, agreed=agreed)
        ours, theirs = aligned_buffer(codec.payload_bytes), aligned_buffer(codec.payload_bytes)
        tensor = torch.from_numpy(x.copy()).to(device)
        codec.compress(x, codec.init(), draw, ours)
        there.compress(tensor, there.init(), draw, theirs)
        np.testing.assert_array_equal(theirs, ours)
        assert there.clipped == codec.clipped
        assert codec.agreed_count == 0 or magnitude < 1.0 or codec.clipped > 0
        left, residual = np.empty_like(x), torch.empty_like(tensor)
        codec.remainder(x, ours, draw, left)
        there.remainder(tensor, theirs, draw, residual)
        np.testing.assert_array_equal(residual.cpu().numpy(), left)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_residuals_and_momenta_on_a_device_are_kept_dropped_saved_and_loaded_as_on_the_host(recipe, wrap, device):
    layout = layout_of(SHAPES[1])
    rng = np.random.default_rng(6)
    codec = wrap(recipe).codec(layout)
    there = to_device(codec, torch.device(device))
    ours, theirs = codec.init(), there.init()
    for step, accepted in enumerate((-1, 0, 0, 2)):  # the reply of step 1 is not used
        ours, theirs = codec.settle(ours, accepted), there.settle(theirs, accepted)
        x = rng.standard_normal(layout.size).astype(np.float32)
        tensor = torch.from_numpy(x.copy()).to(device)
        draw = Draw(seed=1, step=step, worker=2, shift=100)
        sent, packed = aligned_buffer(codec.payload_bytes), aligned_buffer(codec.payload_bytes)
        ours = codec.compress(x, ours, draw, sent)
        theirs = there.compress(tensor, theirs, draw, packed)
        np.testing.assert_array_equal(packed, sent)
    ours, theirs = codec.settle(ours, 3), there.settle(theirs, 3)
    saved, stored = np.zeros(codec.state_bytes, np.uint8), np.zeros(codec.state_bytes, np.uint8)
    codec.dump(ours, saved)
    there.dump(theirs, stored)
    assert saved.any() or recipe == Identity()  # whose rounding leaves nothing
    np.testing.assert_array_equal(stored, saved)
    np.testing.assert_array_equal(there.load(saved).kept.cpu().numpy(), codec.load(saved).kept)


def test_a_compressor_of_the_users_own_stays_on_the_host():
    class Own:
        pass

    assert to_device(Own(), torch.device("cpu")) is None
    assert to_device(ErrorFeedbackCodec(SimpleNamespace(payload_bytes=1, state_bytes=0, agreed_count=0), layout_of(SHAPES[0])),
                     torch.device("cpu")) is None  # fmt: skip
