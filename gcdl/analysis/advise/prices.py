"""What each thing costs that a config has beyond the plainest one, in times that a step must be shorter for it.

The plainest config is uncoded, waits for all, sends float32 and whole models, and has one master. The predicted seconds of a
step don't tell that one bit is noise, or that a code loads more data: so whatever is not plain must bring a gain.
"""

from __future__ import annotations

from gcdl.analysis.advise.laboratory import Tried
from gcdl.training.run_warnings import AMPLIFICATION_BOUND

PRICES = {"coding": 1.05, "waiting": 1.03, "one bit": 1.1, "replicas": 1.03, "sign downlink": 1.1, "masters": 1.1}
"""Times as short that a step must be with each of these, for it to be recommended."""


def price(one: Tried) -> float:
    """Return how many times as short a step must be for what this config has beyond the plainest one."""
    config, downlink = one.candidate.config, one.experiment.downlink
    wait = config.choices["wait"]
    times = 1.0
    if one.candidate.kind("code") != "uncoded":
        times *= PRICES["coding"]
    if wait.kind != "first_replies":
        times *= PRICES["waiting"]
    if one.one_bit:
        times *= PRICES["one bit"] * max(1.0, one.prediction.amplification) ** 0.5
    if downlink.replicas:
        times *= PRICES["sign downlink"] if one.lossy_downlink else PRICES["replicas"]
    if one.masters > 1:
        times *= PRICES["masters"]
    return times


def priced(one: Tried) -> float:
    """Return the predicted seconds of a step, times the price."""
    return one.prediction.seconds * price(one)


def quiet(one: Tried) -> bool:
    """Whether the code does not multiply the noise of one bit too much."""
    return not one.one_bit or one.prediction.amplification <= AMPLIFICATION_BOUND
