"""Encoding by PyTorch, as on a GPU, gives numpy's bits. On PyTorch's CPU device everywhere, on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gcdl.compressors import Draw
from gcdl.compressors.kernels import BLOCK
from gcdl.compressors.noisy_sign import NoisySign
from gcdl.compressors.scaled_sign import ScaledSign
from gcdl.compressors.sign import Sign
from gcdl.compressors.stochastic_sign import StochasticSign
from gcdl.compressors.two_mean import TwoMean
from gcdl.types import Layout, aligned_buffer

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: not run on one"))
RECIPES = [
    Sign(),
    ScaledSign(),
    ScaledSign(block=100),  # more scales in a block than are worth a loop
    TwoMean(),
    StochasticSign(),
    StochasticSign(scale="l2", dither="correlated"),
    StochasticSign(scale="rms", dither="correlated+subtractive"),
    NoisySign(),
]


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("shapes", [((3,),), ((7, 11), (1,), (0,), (4097,)), ((BLOCK - 5,), (30_000,))])
def test_a_tensor_on_a_device_is_encoded_to_the_bits_of_the_same_numbers_in_numpy(recipe, shapes, device):
    layout = Layout(tuple(f"t{i}" for i in range(len(shapes))), shapes)
    rng = np.random.default_rng(5)
    codec = recipe.codec(layout)
    there = codec.on_device(torch.device(device))
    for step, magnitude in enumerate((1.0, 1e-20, 0.0)):  # squares that underflow; zeros
        x = (magnitude * rng.standard_normal(layout.size)).astype(np.float32)
        x[::7] = 0.0
        draw = Draw(seed=1, step=step, worker=2, shift=40_000)
        ours, theirs = aligned_buffer(codec.payload_bytes), aligned_buffer(codec.payload_bytes)
        tensor = torch.from_numpy(x.copy()).to(device)
        codec.compress(x, codec.init(), draw, ours)
        there.compress(tensor, there.init(), draw, theirs)
        np.testing.assert_array_equal(theirs, ours)
