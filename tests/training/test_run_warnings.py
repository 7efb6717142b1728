"""Warnings say what is wrong, how bad it is, and what to do instead; and are silent when nothing is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from gcdl.codes import CODES, GradientCode, fractional_repetition, uncoded
from gcdl.codes.health import amplification
from gcdl.config import Experiment, parse
from gcdl.errors import ConfigError
from gcdl.training.run_warnings import AMPLIFICATION_BOUND, code_of, coverage_warning, noise_warning, votes_warning

TEXT = """
[problem]
kind = "linear_regression"
[code]
kind = "{kind}"
stragglers = {s}
[compressor]
kind = "{compressor}"
"""


def experiment(kind="fractional_repetition", s=2, compressor="scaled_sign", n=12) -> Experiment:
    return Experiment.of(parse(TEXT.format(kind=kind, s=s, compressor=compressor)), n).check()


def ill_conditioned(n: int) -> GradientCode:
    """Two nearly parallel rows: exact, at the price of weights of a thousand."""
    B = np.eye(n)
    B[0, :2] = 1.0, 2.0
    B[1, :2] = 1.0, 2.001
    return GradientCode(B)


def test_amplification_is_one_without_a_code_and_falls_with_the_replicas_averaged():
    assert amplification(uncoded(6, 6), np.ones(6)) == pytest.approx(1.0)
    code = fractional_repetition(6, 6, stragglers=2)
    assert amplification(code, code.decoding_vector(np.ones(6, dtype=bool))) == pytest.approx(3**-0.5)


def test_amplification_does_not_change_when_rows_are_scaled():
    code = fractional_repetition(6, 6, stragglers=1)
    scaled = GradientCode(code.B * np.arange(1.0, 7.0)[:, np.newaxis])
    arrived = np.array([True, False, True, False, False, True])  # one of each group: there is one way to decode
    assert amplification(scaled, scaled.decoding_vector(arrived)) == pytest.approx(
        amplification(code, code.decoding_vector(arrived))
    )


def test_a_code_that_amplifies_noise_is_warned_of_with_one_that_does_not(monkeypatch):
    found = experiment()
    monkeypatch.setitem(found.__dict__, "code", ill_conditioned(12))
    warning = noise_warning(found)
    assert warning is not None
    assert f"bound: {AMPLIFICATION_BOUND:g}" in warning
    assert "use code.kind = " in warning


def test_what_is_sent_exactly_has_no_noise_to_amplify(monkeypatch):
    found = experiment(compressor="identity")
    monkeypatch.setitem(found.__dict__, "code", ill_conditioned(12))
    assert noise_warning(found) is None


def test_a_well_conditioned_code_is_not_warned_of():
    assert noise_warning(experiment()) is None


def test_a_shard_that_is_left_out_is_named_with_its_holders():
    code = fractional_repetition(6, 6, stragglers=1)
    weights = np.ones(6)
    assert coverage_warning(weights, code) is None
    weights[[2, 3]] = 0.85, 0.2
    warning = coverage_warning(weights, code)
    assert "shard 3 entered with weight 0.20" in warning
    assert "workers 2, 3" in warning
    assert "2 of 6 shards" in warning


def test_weights_that_are_all_alike_are_no_bias():
    code = fractional_repetition(6, 6, stragglers=1)
    assert coverage_warning(np.full(6, 0.3), code) is None
    assert "shard 5" in coverage_warning(np.array([2.0, 2.0, 2.0, 2.0, 2.0, 1.0]), code)


@pytest.mark.parametrize("kind", CODES)
def test_every_kind_exists_for_some_sizes(kind):
    built = []
    for n, s in [(4, 1), (6, 1), (7, 2), (12, 2)]:
        try:
            code = code_of(kind, n, n, s, seed=0)
        except ConfigError:
            continue
        assert code.n == n
        built.append(n)
    assert built


@pytest.mark.parametrize(
    ("overrides", "warning"),
    [
        (["compressor.kind=stochastic_sign"], None),
        (["compressor.kind=sign"], None),
        (["compressor.kind=scaled_sign", "compressor.error_feedback=true"], None),
        (["compressor.kind=identity"], "replies of compressor.kind = 'identity' have no common scale"),
        (["compressor.kind=two_mean"], "replies of compressor.kind = 'two_mean' have no common scale"),
        (["compressor.kind=stochastic_sign", "compressor.agreed=false"], "have no common scale"),
        (["compressor.kind=sign", "code.kind=cyclic_repetition", "code.stragglers=2"], "no small multiples"),
        (["compressor.kind=sign", "code.decoder=mmse"], "no small multiples"),
        (["compressor.kind=sign", "code.kind=sgc", "code.replication=2"], None),
    ],
    ids=str,
)
def test_replies_that_are_to_be_votes_and_are_none_are_warned_of(overrides, warning):
    text = "workers = 6\n[problem]\nkind = 'linear_regression'\n[code]\nkind = 'fractional_repetition'\nstragglers = 1"
    found = votes_warning(Experiment.of(parse(text, ["downlink.kind=votes", *overrides]), 6))
    assert (found is None) == (warning is None)
    assert warning is None or warning in found
