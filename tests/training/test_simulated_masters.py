"""Several masters in a simulation: the model of one, the bytes of the messages, and the seconds of K links and K processors."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from gcdl.compressors.kernels import BLOCK
from gcdl.compressors.parts import slices_of
from gcdl.config import parse
from gcdl.errors import ParameterError
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint, resume
from tests.conftest import Heard
from tests.training.conftest import LARGE

N = 4
D = 5 * BLOCK + 1001
RUN = f"""
workers = {N}
steps = 4
seed = 3
[problem]
kind = "linear_regression"
features = {D}
samples = 2
test_samples = 1
[code]
kind = "fractional_repetition"
[optimizer]
lr = 1e-3
[run]
eval_every = 0
checkpoint_every = 2
[stragglers]
kind = "exponential"
seconds = 0.1
"""
METHODS = {
    "sign, clipped": ["compressor.kind=sign", "optimizer.clip_norm=0.5"],
    "independent, replies": ["compressor.kind=stochastic_sign", "compressor.dither=independent", "downlink.kind=replies"],
    "correlated, votes, clipped adam": [
        "compressor.kind=stochastic_sign",
        "downlink.kind=votes",
        "optimizer.kind=adam",
        "optimizer.clip_norm=0.5",
    ],
    "scaled sign with feedback, sign": [
        "compressor.kind=scaled_sign",
        "compressor.error_feedback=true",
        "downlink.kind=sign",
        "optimizer.momentum=0.9",
        "optimizer.lr=1e-6",
    ],
    "lion, votes, sign steps": [
        "compressor.kind=sign",
        "compressor.momentum=lion",
        "downlink.kind=votes",
        "optimizer.kind=sign",
        "optimizer.weight_decay=0.1",
    ],
}


def simulated(folder, text, *overrides, timing_only=False, heard=None):
    return simulate(StartingPoint(parse(text, overrides), folder, timing_only=timing_only), heard or Heard())


def lines(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


# --- the model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_masters_gives_the_model_of_one(tmp_path, method):
    one = simulated(tmp_path / "1", RUN, *METHODS[method])
    assert {len(line["replies"]) for line in lines(tmp_path / "1")} == {N - 1}  # somebody is not waited for
    for masters in (2, 3, 5):
        summary = simulated(tmp_path / str(masters), RUN, *METHODS[method], f"run.masters={masters}")
        assert summary.model_sha256 == one.model_sha256
        assert [line["gradient_norm"] for line in lines(tmp_path / str(masters))] == [
            line["gradient_norm"] for line in lines(tmp_path / "1")
        ]


def test_a_run_is_resumed_with_other_masters(tmp_path):
    method = METHODS["correlated, votes, clipped adam"]
    whole = simulated(tmp_path / "whole", RUN, *method, "run.masters=3")
    simulated(tmp_path / "parts", RUN, *method, "run.masters=3", "steps=2")
    start = resume(tmp_path / "parts", ["steps=4", "run.masters=2"])
    assert simulate(start, Heard()).model_sha256 == whole.model_sha256


def test_masters_that_have_nothing_to_do_are_said(tmp_path):
    heard = Heard()
    simulated(tmp_path / "a", RUN, "problem.features=200", "run.masters=5", heard=heard)
    assert heard.lines[0].startswith("run.masters = 5: the model has 200 parameters, enough for 1 master;")


def test_a_payload_that_can_not_be_cut_is_refused(tmp_path, monkeypatch):
    module = tmp_path / "own_compressor.py"
    module.write_text("from gcdl.compressors import Sign\nclass Own:\n    def codec(self, layout):\n"
                      "        return Codec(Sign().codec(layout))\nclass Codec:\n    def __init__(self, inner):\n"
                      "        self.__dict__.update(inner=inner)\n    def __getattr__(self, name):\n"
                      "        return getattr(self.inner, name)\n")  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    own = ("compressor.kind=custom", "compressor.factory=own_compressor:Own")
    with pytest.raises(ParameterError, match="masters: the payload of a Codec can't be cut; use one master"):
        simulated(tmp_path / "a", RUN, *own, "run.masters=2")


# --- bytes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masters", [1, 3])
@pytest.mark.parametrize("compressor", ["sign", "scaled_sign"])
def test_bytes_are_those_of_the_messages_of_all_slices(tmp_path, masters, compressor):
    everybody = ("stragglers.kind=none", f"compressor.kind={compressor}", f"run.masters={masters}")
    simulated(tmp_path / "a", RUN, *everybody)
    slices = slices_of(D, masters)
    scales = 4 if compressor == "scaled_sign" else 0  # one tensor: each slice has its scale
    reply = sum(HEADER_BYTES + -(-(where.stop - where.start) // 8) + scales for where in slices)
    # Slice 0's task says who was decoded; the others are a header and the slice.
    task = TaskFormat(N).overhead_bytes + (masters - 1) * HEADER_BYTES + 4 * D
    for line in lines(tmp_path / "a"):
        assert line["downlink_bytes"] == N * task
        assert line["uplink_bytes"] == len(line["replies"]) * reply or line["late"]
        assert line["uplink_header_bytes"] == masters * HEADER_BYTES * (len(line["replies"]) + line["late"])
    assert lines(tmp_path / "a")[0]["downlink_header_bytes"] == N * (task - 4 * D)


@pytest.mark.parametrize("downlink", ["model", "sign", "votes"])
def test_timing_only_is_the_same_run_without_its_numbers(tmp_path, downlink):
    method = ("compressor.kind=scaled_sign", f"downlink.kind={downlink}", "run.masters=3", "optimizer.momentum=0.9")
    network = ("simulate.master_bandwidth=1e7", "simulate.bandwidth=5e6", "simulate.latency=1e-3")
    real = simulated(tmp_path / "real", RUN, *method, *network)
    clock = simulated(tmp_path / "clock", RUN, *method, *network, timing_only=True)
    same = ("seconds", "uplink_bytes", "downlink_bytes", "late_replies", "link_share", "master_share")
    assert {key: getattr(real, key) for key in same} == {key: getattr(clock, key) for key in same}


# --- seconds ------------------------------------------------------------------------------------------------------------


def seconds_a_step(folder, n, masters, gigabits=1.0, *more):
    rate = 1.25e8 * gigabits
    links = (f"simulate.bandwidth={rate}", f"simulate.master_bandwidth={rate}")
    summary = simulated(folder, LARGE, f"workers={n}", f"run.masters={masters}", *links, *more, timing_only=True)
    return summary.seconds / summary.steps


@pytest.mark.parametrize(
    ("n", "masters", "most"), [(8, 1, 0.345), (32, 1, 1.135), (128, 1, 4.315), (512, 1, 17.05), (128, 16, 0.45), (512, 64, 0.5)]
)
def test_a_step_no_longer_grows_with_the_workers(tmp_path, n, masters, most):
    assert 0.8 * most < seconds_a_step(tmp_path / "a", n, masters) <= most


def test_words_between_masters_take_a_latency_each(tmp_path):
    free = ("simulate.decode_seconds=0", "simulate.decode_seconds_per_coordinate=0", "simulate.parameters=1000000")

    def steady(name, *more):
        simulated(tmp_path / name, LARGE, "workers=3", "run.masters=2", *free, *more, timing_only=True)
        return lines(tmp_path / name)[-1]["seconds"]

    # A task, a reply; a note, what is decided, the answer; where gradients are clipped, the norm.
    assert steady("a", "simulate.latency=1") == pytest.approx(0.05 + 5)
    assert steady("b", "simulate.latency=1", "optimizer.clip_norm=1.0") == pytest.approx(0.05 + 6)
    assert steady("c", "simulate.latency=1", "run.masters=1") == pytest.approx(0.05 + 2)


def test_a_master_steps_its_slice_only(tmp_path):
    free = ("simulate.decode_seconds=0", "simulate.latency=0", "simulate.step_seconds=8", f"simulate.parameters={8 * BLOCK}")
    simulated(tmp_path / "a", LARGE, "workers=3", "run.masters=4", *free, timing_only=True)
    assert lines(tmp_path / "a")[-1]["seconds"] == pytest.approx(0.05 + 2 + 3 * 2 * BLOCK * 2e-10)


def test_more_masters_are_advised_where_they_can_share_the_model(tmp_path):
    busy = ("workers=64", "simulate.master_bandwidth=1e7")
    for d, advised in ((25_000_000, True), (BLOCK, False)):
        summary = simulated(tmp_path / str(d), LARGE, *busy, f"simulate.parameters={d}", timing_only=True)
        (warning,) = [warning for warning in summary.warnings if "is the limit" in warning]
        assert ("run.masters = 0 takes as many masters as pay" in warning) == advised


def test_ten_thousand_workers_and_64_masters_are_simulated_within_a_minute(tmp_path):
    cluster = (
        "workers=10000",
        "problem.shards=1000",
        "code.kind=fractional_repetition",
        "code.stragglers=9",
        "wait.count=9000",
    )
    delays = ("stragglers.kind=shifted_exponential", "stragglers.shift=0.05", "stragglers.seconds=0.5")
    began = time.monotonic()
    simulated(
        tmp_path / "a", LARGE, *cluster, *delays, "simulate.parameters=300000000", "simulate.bandwidth=1.25e9",
        "simulate.master_bandwidth=1.25e9", "run.masters=64", timing_only=True,
    )  # fmt: skip
    assert time.monotonic() - began < 12.0  # 20 steps; 100 of them are within a minute
    assert np.isfinite(lines(tmp_path / "a")[-1]["seconds"])
