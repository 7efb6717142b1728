"""Chooses the number of local steps where a run leaves it open (``problem.local_steps = "auto"``).

Before the run, its ranks rehearse: they take a few steps of a run like it, whose model is thrown away. A simulation does so on
its virtual clock. A step with H local steps takes about

    H c + e

where c is how long a local step takes the slowest worker that is waited for, and e is everything else: tasks, replies, decoding
and the optimizer's step. H is the smallest number for which e is a tenth of that at most, of 1 to 64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from gcdl.config import SECTIONS, Config
from gcdl.protocol.step_record import StepRecord

MOST = 64
SHARE = 0.1
"""Of a step's seconds, for exchanging."""
_STEPS = 8
_WARM_UP = 2
"""Steps that are not counted: libraries load, and the first model is sent whole."""
_SECONDS = 20.0
"""The rehearsal ends after so many, if some steps have been counted by then."""
_LOCAL_STEPS = 2
"""In the rehearsal: more than one, so that the local optimizer's own work is measured too."""


@dataclass(frozen=True)
class LocalStepsChoice:
    """How many local steps, and why.

    Attributes
    ----------
    compute_seconds : c.
    exchange_seconds : e.
    """

    compute_seconds: float
    exchange_seconds: float

    @property
    def steps(self) -> int:
        """H.

        >>> [LocalStepsChoice(1.0, e).steps for e in (0.0, 0.1, 1.0, 99.0)]
        [1, 1, 9, 64]
        """
        least = self.exchange_seconds * (1.0 - SHARE) / SHARE
        if least > MOST * self.compute_seconds:
            return MOST
        return max(1, math.ceil(round(least / self.compute_seconds, 9))) if least else 1

    @property
    def share(self) -> float:
        """What share of a step exchanging takes with so many local steps."""
        whole = self.steps * self.compute_seconds + self.exchange_seconds
        return self.exchange_seconds / whole if whole > 0.0 else 0.0

    def line(self) -> str:
        """Return a line for the user."""
        took = f"a local step takes {self.compute_seconds:.3g} s, exchanging {self.exchange_seconds:.3g} s"
        most = f", more than a tenth: {MOST} is the most" if self.share > SHARE + 1e-9 else ""
        return f'problem.local_steps = "auto": {self.steps} ({took}, {self.share:.0%} of a step{most})'

    def fields(self) -> dict[str, Any]:
        """Return it for the manifest."""
        return {
            "local_steps": {
                "chosen": self.steps,
                "compute_seconds": self.compute_seconds,
                "exchange_seconds": self.exchange_seconds,
            }
        }


def rehearsal(config: Config) -> Config:
    """Return the config of the rehearsal: without injected delays and faults, and without processes that are started later."""
    run = config.run.model_copy(update={"replace": 0, "eval_every": 0})
    choices = {**config.choices, "stragglers": SECTIONS["stragglers"].check({})}
    return replace(config, steps=_STEPS, run=run, choices=choices).with_local_steps(_LOCAL_STEPS)


def choose_local_steps(records: Iterable[StepRecord]) -> LocalStepsChoice:
    """Return the choice that the rehearsal's steps lead to; medians over them. Takes no more of them than it needs."""
    computed, exchanged, passed = [], [], 0.0
    for record in records:
        passed += record.seconds
        if record.step < _WARM_UP:
            continue
        replies = record.timing.replies
        computed.append(float(replies["computed"].max()))
        exchanged.append(max(0.0, record.seconds - computed[-1]))
        if passed > _SECONDS:
            break
    return LocalStepsChoice(median(computed) / _LOCAL_STEPS, median(exchanged))
