"""K masters give the model of one, to the bit: slices decode, step and publish what the whole would."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcdl.compressors import Draw
from gcdl.compressors.kernels import BLOCK
from gcdl.compressors.parts import part_of, slices_of
from gcdl.config import Experiment, parse
from gcdl.errors import ParameterError
from gcdl.protocol.model_slices import norm_of
from gcdl.training.slices import idle_masters_notice, local_slices, masters_of

N = 4
D = 5 * BLOCK + 1001
CONFIG = f"""
workers = {N}
seed = 2
[problem]
kind = "linear_regression"
features = {D}
samples = 8
[code]
kind = "fractional_repetition"
stragglers = 1
"""
COMPRESSORS = {
    "identity": [],
    "bfloat16": ["compressor.dtype=bfloat16"],
    "sign": ["compressor.kind=sign"],
    "stochastic": ["compressor.kind=stochastic_sign", "compressor.dither=correlated+subtractive"],
    "independent": ["compressor.kind=stochastic_sign", "compressor.dither=independent", "compressor.block=96"],
    "noisy": ["compressor.kind=noisy_sign", "compressor.dither=subtractive"],
    "feedback": ["compressor.kind=scaled_sign", "compressor.error_feedback=true"],
    "eden": ["compressor.kind=eden"],
    "eden shared": ["compressor.kind=eden", "compressor.rotation=shared", "compressor.dither=subtractive"],
    "momentum": ["compressor.kind=sign", "compressor.momentum=lion"],
    "two_mean": ["compressor.kind=two_mean", "compressor.block=1000"],
}
OPTIMIZERS = {
    "sgd": ["optimizer.lr=0.1"],
    "adam": ["optimizer.kind=adam"],
    "clipped": ["optimizer.kind=adamw", "optimizer.clip_norm=0.5", 'optimizer.schedule={kind="cosine"}'],
}


def trained(overrides, masters, steps=3):
    """Some steps on made-up gradients; returns everything that could differ."""
    experiment = Experiment.of(parse(CONFIG, overrides), N).check()
    codec = experiment.compressor.codec(experiment.problem.layout())
    slices = local_slices(experiment, codec, masters)
    states = [codec.init() for _ in range(N)]
    seen = []
    for step in range(steps):
        payloads = {}
        for worker in range(N - 1 if step == 1 else N):
            x = np.random.default_rng((step, worker // 2)).standard_normal(D, dtype=np.float32) / 300.0
            payload = np.zeros(codec.payload_bytes, dtype=np.uint8)
            draw = Draw(2, step, worker, int(experiment.code.shifts[worker]), slices.agreed)
            states[worker] = codec.compress(x, states[worker], draw, payload)
            states[worker] = codec.settle(states[worker], step)
            payloads[worker] = payload
        arrived = np.isin(np.arange(N), list(payloads))
        energies = slices.energies(step, payloads)
        a = experiment.code.decoding_vector(arrived, None)
        norm = norm_of(slices.decode(step, a, payloads))
        slices.step(norm)
        seen.append((norm, {worker: energy.tobytes() for worker, energy in energies.items()}))
        seen.append(
            (slices.parameters.tobytes(), slices.model.tobytes(), None if slices.agreed is None else slices.agreed.tobytes())
        )
    seen.append({name: array.tobytes() for name, array in slices.optimizer_state().items()})
    seen.append({name: array.tobytes() for name, array in slices.downlink_state().items()})
    return seen


@pytest.mark.parametrize(
    ("compressor", "optimizer"), [*((name, "clipped") for name in COMPRESSORS), ("stochastic", "sgd"), ("feedback", "adam")]
)
def test_any_number_of_slices_gives_the_model_of_one(compressor, optimizer):
    overrides = [*COMPRESSORS[compressor], *OPTIMIZERS[optimizer]]
    one = trained(overrides, 1)
    for masters in (2, 3, 5):
        assert trained(overrides, masters) == one


@pytest.mark.parametrize("downlink", ["votes", "replies", "sign"])
def test_every_downlink_publishes_the_same_model_in_slices(downlink):
    overrides = [*COMPRESSORS["stochastic"], *OPTIMIZERS["clipped"], f"downlink.kind={downlink}"]
    assert trained(overrides, 3) == trained(overrides, 1)


def test_a_rounded_model_is_rounded_slice_by_slice():
    overrides = [*OPTIMIZERS["sgd"], "downlink.dtype=bfloat16"]
    one, three = trained(overrides, 1), trained(overrides, 3)
    assert one == three
    assert one[1][0] != one[1][1]  # the model is not the parameters


def test_a_run_goes_on_with_another_number_of_slices():
    overrides = [*COMPRESSORS["stochastic"], *OPTIMIZERS["clipped"], "downlink.kind=sign"]
    experiment = Experiment.of(parse(CONFIG, overrides), N).check()
    codec = experiment.compressor.codec(experiment.problem.layout())
    two, three = local_slices(experiment, codec, 2), local_slices(experiment, codec, 3)
    payload = np.random.default_rng(0).integers(0, 256, codec.payload_bytes).astype(np.uint8)
    payload[-4 * codec.groups :].view(np.float32)[:] = 0.01

    def step(slices, number):
        slices.step(norm_of(slices.decode(number, np.array([1.0, 0.0, 0.0, 0.0]), {0: payload})))

    for number in range(2):
        step(two, number)
    three.load(2, two.parameters, two.optimizer_state(), two.downlink_state())
    step(two, 2)
    step(three, 2)
    assert two.parameters.tobytes() == three.parameters.tobytes()
    assert {k: v.tobytes() for k, v in two.downlink_state().items()} == {
        k: v.tobytes() for k, v in three.downlink_state().items()
    }


@pytest.mark.parametrize("d", [1, BLOCK, BLOCK + 1, 7 * BLOCK, D])
def test_slices_cover_all_coordinates_and_begin_at_blocks(d):
    for masters in range(1, 10):
        found = slices_of(d, masters)
        assert len(found) == min(masters, -(-d // BLOCK))
        assert found[0].start == 0
        assert found[-1].stop == d
        assert all(before.stop == after.start for before, after in itertools.pairwise(found))
        assert all(where.start % BLOCK == 0 for where in found)
        sizes = [-(-(where.stop - where.start) // BLOCK) for where in found]
        assert max(sizes) - min(sizes) <= 1


def test_a_codec_that_can_not_be_cut_is_refused():
    with pytest.raises(ParameterError, match="masters: the payload of a object can't be cut"):
        part_of(object(), slice(0, 1))


def test_masters_without_a_block_have_nothing_to_do():
    assert masters_of(D, 3) == 3
    assert idle_masters_notice(D, 6) is None
    assert masters_of(66_826, 5) == 1
    assert (
        idle_masters_notice(66_826, 5)
        == "run.masters = 5: the model has 66,826 parameters, enough for 1 master; the others have nothing to do"
    )
