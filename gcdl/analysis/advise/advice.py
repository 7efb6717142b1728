"""The whole advice on a run: where its time went, who is slow, what other configs would do, and which one to take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gcdl.analysis.advise.candidates import ONE_BIT
from gcdl.analysis.advise.laboratory import Laboratory, Tried
from gcdl.analysis.advise.links import Links
from gcdl.analysis.advise.observed import Observed, observe
from gcdl.analysis.advise.prediction import Prediction
from gcdl.analysis.advise.recommendation import Recommendation, by_loss, recommend, worth_training
from gcdl.analysis.advise.search import Progress, other_sizes, search
from gcdl.analysis.advise.stand_in import made_by_a_script
from gcdl.analysis.advise.target_loss import Reached, seconds_to_loss
from gcdl.analysis.advise.time_shares import TimeShares, time_shares
from gcdl.analysis.advise.who_is_slow import Slowness, who_is_slow
from gcdl.config import Config

SEARCH_SECONDS = 45.0
"""Of trying candidates; what comes before and after takes a few."""
TRAINING_SECONDS = 60.0
"""Of training candidates in simulation, where a loss is asked for."""
_OFF = 0.1
"""How far the run's own config may be predicted from what was measured, relatively, without being told of."""
_WIDE = 0.1
_FEW = 100


@dataclass(frozen=True)
class Advice:
    """What ``gcdl advise`` says.

    Attributes
    ----------
    observed : the run.
    links : between its hosts, calibrated.
    shares, slowness : where the time went, and who is slow.
    run : the run's config, as predicted.
    own : the config asked about, as predicted: the run's, or the one that the run was a pilot of.
    ideal : the run's config without stragglers, as predicted.
    tried : all configs tried, those two among them.
    sizes : the recommended one with fewer and more workers.
    recommendation : which to take.
    unsure : what the advice can't know, a sentence each.
    target_loss : a training loss that was asked for; None: none was.
    to_loss : what candidates take to it, the soonest first.
    """

    observed: Observed
    links: Links
    shares: TimeShares
    slowness: Slowness
    run: Tried
    own: Tried
    ideal: Prediction
    tried: list[Tried]
    sizes: list[Tried]
    recommendation: Recommendation
    unsure: list[str]
    target_loss: float | None = None
    to_loss: Sequence[Reached] = ()

    @property
    def measured_seconds(self) -> float:
        """Of a step of the run, mean."""
        return self.shares.step_seconds

    @property
    def made_by_a_script(self) -> bool:
        """Whether only a script can make this run: no config says all of it."""
        return any(made_by_a_script(choice) for choice in self.own.candidate.base.choices.values())

    @property
    def one_bit_kind(self) -> str:
        """The compressor that stood for one bit."""
        return next((one.candidate.kind("compressor") for one in self.tried if one.one_bit), ONE_BIT)

    @property
    def without_the_slow(self) -> str | None:
        """What leaving out a worker that is always slow would do, where that is about as good as the recommended config."""
        fewer = [one for one in self.sizes if one.candidate.config.workers == self.observed.n - 1]
        best = self.recommendation.best.prediction.seconds
        if self.slowness.kind != "persistent" or len(self.slowness.workers) != 1 or not fewer:
            return None
        seconds = fewer[0].prediction.seconds
        if seconds > 1.1 * best:
            return None
        return f"without worker {self.slowness.workers[0]} at all, {self.observed.n - 1} workers take {seconds:.3g} s a step"


def advise(
    path: Path,
    progress: Progress = lambda done, total: None,
    *,
    seconds: float = SEARCH_SECONDS,
    wanted: Config | None = None,
    target_loss: float | None = None,
) -> Advice:
    """Advise on a run folder.

    Parameters
    ----------
    path : the folder.
    progress : is told how many candidates have been tried.
    seconds : how long candidates are tried.
    wanted : the config that the run was a pilot of; None: the run's own is asked about.
    target_loss : weigh noise as well: by the seconds to this training loss, in simulations that train. That takes up to
        ``TRAINING_SECONDS`` more.

    Raises
    ------
    DataError : not a run folder, a damaged one, or one with too few steps.
    ConfigError : its config is not valid any more.
    UsageError : ``target_loss``, and the problem can't be trained here.
    """
    until = time.monotonic() + seconds
    observed = observe(path)
    lab = Laboratory.of(observed, wanted)
    run = lab.attempt(lab.own)
    own = run if wanted is None else lab.attempt(lab.wanted)
    ideal = lab.simulate(lab.own, trace=lab.trace.without_stragglers())
    shares = time_shares(observed, lab, run.prediction)
    slowness = who_is_slow(observed, lab.trace)
    tried, whole = search(lab, until, progress)
    recommendation = recommend(tried, own, shares, slowness)
    to_loss: list[Reached] = []
    if target_loss is not None:
        chosen = worth_training(tried, own, recommendation.best)
        to_loss = seconds_to_loss(lab, chosen, target_loss, time.monotonic() + TRAINING_SECONDS)
        recommendation = by_loss(recommendation, to_loss, own, target_loss)
    sizes = other_sizes(lab, recommendation.best.candidate)
    unsure = _unsure(lab, run, own, recommendation, whole)
    mine = [run] if own is run else [run, own]
    tried = [*mine, *tried]
    return Advice(
        observed, lab.links, shares, slowness, run, own, ideal, tried, sizes, recommendation, unsure, target_loss, to_loss
    )


def _unsure(lab: Laboratory, run: Tried, own: Tried, recommendation: Recommendation, whole: bool) -> list[str]:
    """Return what may make the advice wrong."""
    observed, found = lab.observed, []
    measured = float(observed.seconds.mean())
    off = run.prediction.seconds / measured - 1.0
    if abs(off) > _OFF:
        found.append(
            f"the run's own step is predicted {abs(off):.0%} too {'long' if off > 0 else 'short'}: so may the others be"
        )
    if lab.links.source == "assumed":
        found.append("the links were not measured: 1 Gbit/s assumed")
    unseen = float(lab.trace.unseen.mean())
    if unseen > 0.02:
        found.append(
            f"{unseen:.0%} of the replies were never seen, so how late they were is a guess; a run that waits for all tells"
        )
    if len(observed.seconds) < _FEW:
        found.append(f"{len(observed.seconds)} steps are few: rare delays may be missing")
    best = recommendation.best.prediction
    if best.plus_minus > _WIDE * best.seconds:
        found.append(f"the delays vary much: {best.seconds:.3g} s may be {best.plus_minus:.2g} s more or less")
    if recommendation.best.one_bit and not own.one_bit:
        found.append("one bit is noise: look at the loss; an optimizer with momentum, or Adam, needs it least")
    if not observed.simulated and len(observed.experiment.code.B) > 1 and _crowded(observed):
        found.append("ranks share processors: a code's further shards may take longer than their share")
    if lab.costs.further_shard is None:
        found.append("what a second shard costs a worker could not be measured here: taken to be as much as the first")
    if not whole:
        found.append("there was no time to try all candidates")
    return found


def _crowded(observed: Observed) -> bool:
    """Whether a host has more ranks than processors, as far as the run says."""
    cores = observed.manifest.get("processors")
    busiest = int(np.max(np.unique(observed.hosts, return_counts=True)[1]))
    return isinstance(cores, int) and busiest > cores
