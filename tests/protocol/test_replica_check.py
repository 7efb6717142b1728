"""Replicas that do not send the same bits are found, and outvoted where that is possible."""

from __future__ import annotations

import pytest

from gcdl.compressors import ErrorFeedback, Identity, ScaledSign, Sign, StochasticSign
from gcdl.config import Experiment, parse
from gcdl.errors import ConfigError
from gcdl.protocol.replica_check import sends_equal_bits
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from tests.conftest import Heard

CONFIG = """
workers = 6
steps = 8
[problem]
kind = "linear_regression"
features = 40
samples = 5
[code]
kind = "fractional_repetition"
stragglers = 2
verify = true
[compressor]
kind = "sign"
[wait]
count = 6
[optimizer]
lr = 0.05
"""
CORRUPT = 'stragglers.events=[{fault = "corrupt", worker = 4, step = 3}, {fault = "corrupt", worker = 4, step = 6}]'


CORRELATED = StochasticSign("max", "correlated")


def run(folder, *overrides):
    watcher = Heard()
    return simulate(StartingPoint(parse(CONFIG, overrides), folder), watcher), watcher


@pytest.mark.parametrize("compressor", ["identity", "sign", "scaled_sign"])
def test_two_agreeing_replicas_outvote_the_third_and_nothing_is_lost(tmp_path, compressor):
    whole, quiet = run(tmp_path / "whole", f"compressor.kind={compressor}")
    assert whole.disagreeing_workers == {}
    assert not any(record.disagreed for record in quiet.records)
    mended, watcher = run(tmp_path / "mended", f"compressor.kind={compressor}", CORRUPT)
    assert mended.disagreeing_workers == {"4": 2}
    assert [record.step for record in watcher.records if record.disagreed == [4]] == [3, 6]
    assert watcher.records[3].replies == [0, 1, 2, 3, 5]
    # Averages of three and of two may round differently.
    assert mended.final_train_loss == pytest.approx(whole.final_train_loss, rel=1e-5)


def test_two_that_disagree_are_both_named_and_both_used(tmp_path):
    summary, watcher = run(tmp_path, "code.stragglers=1", CORRUPT)
    assert summary.disagreeing_workers == {"4": 2, "5": 2}
    assert watcher.records[3].replies == [0, 1, 2, 3, 4, 5]


def test_without_verify_nobody_is_accused(tmp_path):
    summary, _ = run(tmp_path, "code.verify=false", CORRUPT)
    assert summary.disagreeing_workers == {}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("compressor.kind=stochastic_sign",), "code.verify: with this compressor replicas send different bits"),
        (
            ("compressor.kind=stochastic_sign", "compressor.dither=correlated"),
            "code.verify: with this compressor replicas send different bits",
        ),
        (("compressor.error_feedback=true",), "code.verify: with this compressor replicas send different bits"),
        (("code.kind=cyclic_repetition",), "code.verify: no two workers of this code send the same"),
        (("code.kind=uncoded",), "code.verify: no two workers of this code send the same"),
    ],
)
def test_where_replicas_can_not_be_compared_the_config_is_refused(overrides, says):
    with pytest.raises(ConfigError, match=says):
        Experiment.of(parse(CONFIG, overrides), 6).check()


def test_deterministic_compressors_send_equal_bits():
    assert all(sends_equal_bits(compressor) for compressor in (Identity(), Sign(), ScaledSign()))
    assert not any(
        sends_equal_bits(compressor) for compressor in (StochasticSign("max", "independent"), CORRELATED, ErrorFeedback(Sign()))
    )
