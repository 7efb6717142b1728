"""Nothing on a step's path allocates as much as the model after the first step."""

import tracemalloc

import pytest

from gcdl.compressors.kernels.native import best_level
from gcdl.config import Experiment, parse
from gcdl.protocol.master import Master
from gcdl.protocol.model_slices import one_slice
from gcdl.training.build import make_pace, make_workers
from gcdl.transport.simulated.virtual_clock import SimulatedTransport

D = 3_000_000
CONFIG = f"""
workers = 3
[problem]
kind = "linear_regression"
features = {D}
samples = 1
[code]
kind = "fractional_repetition"
stragglers = 2
"""


NATIVE = pytest.mark.skipif(best_level() is None, reason="the native kernels are not built")


@pytest.mark.parametrize("kernels", ["numpy", pytest.param("native", marks=NATIVE)])
@pytest.mark.parametrize(
    "overrides",
    [
        ["compressor.kind=identity"],
        ["compressor.kind=identity", "compressor.dtype=bfloat16", "compressor.error_feedback=true"],
        ["compressor.kind=scaled_sign", "compressor.error_feedback=true"],
        ["compressor.kind=two_mean", "compressor.block=4096"],
        ["compressor.kind=stochastic_sign", "compressor.dither=independent"],
        ["compressor.kind=stochastic_sign", "compressor.dither=subtractive", "code.decoder=mmse"],
        ["compressor.kind=stochastic_sign", "compressor.dither=correlated+subtractive", "compressor.error_feedback=true"],
        ["compressor.kind=noisy_sign", "compressor.dither=subtractive"],
        ["optimizer.kind=adam"],
    ],
    ids=lambda overrides: " ".join(overrides).replace("compressor.", ""),
)
def test_a_step_allocates_far_less_than_the_model(overrides, kernels, monkeypatch):
    monkeypatch.setenv("GCDL_KERNELS", kernels)
    experiment = Experiment.of(parse(CONFIG, overrides), 3).check()
    layout = experiment.problem.layout()
    optimizer = experiment.optimizer.build(experiment.problem.initial_parameters())
    master = Master(
        SimulatedTransport(make_pace(experiment, layout), make_workers(experiment)),
        code=experiment.code,
        slices=one_slice(code=experiment.code, codec=experiment.compressor.codec(layout), optimizer=optimizer, seed=0),
        wait=experiment.wait,
    )
    steps = master.run(4)
    next(steps)
    tracemalloc.start()
    try:
        for _ in steps:
            pass
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * D / 3, f"{peak} bytes at once; the model has {4 * D}"
    assert held < 4 * D / 8
