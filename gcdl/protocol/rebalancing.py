"""A machine that stays slow gets fewer shards, and gets them back when it has recovered (``run.rebalance``).

Redundancy is the price for stragglers that come and go. Waiting each step for a machine that is three times slower, or never
using its replies, is not. So its shards are re-assigned, when it has been slow for 30 steps
(:mod:`gcdl.protocol.worker_speeds`). Machines that are not slow count as equal: their small differences would re-code for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gcdl.codes.unequal import seconds_of
from gcdl.errors import ParameterError
from gcdl.protocol.coding import Coding
from gcdl.protocol.measurements import StepTiming
from gcdl.protocol.membership import Membership
from gcdl.protocol.recoding import NeverRecode, Recoder
from gcdl.protocol.worker_speeds import STEPS, WorkerSpeeds
from gcdl.types import IntVector, Mask, Weights

_PAYS = 0.98  # a step that is so many times as long


class Rebalance(NeverRecode):
    """Gives slow workers fewer shards.

    Parameters
    ----------
    n : workers.
    threshold : times as slow as the typical worker, from which on a worker is slow.
    balanced : (workers, seconds a shard of each, number) -> the code ``number``, in which these have loads to match; raises
        ParameterError if there is none.
    on_loss : decides first.
    say : takes a line for the user.
    names : of the workers, for these lines.
    """

    def __init__(
        self,
        n: int,
        threshold: float,
        balanced: Callable[[Sequence[int], Weights, int], Coding],
        *,
        on_loss: Recoder,
        say: Callable[[str], None],
        names: Sequence[str],
    ) -> None:
        self.replaces_lost = on_loss.replaces_lost
        self._speeds = WorkerSpeeds(n, threshold)
        self._balanced = balanced
        self._on_loss = on_loss
        self._say = say
        self._names = names
        self._slow: dict[int, float] = {}
        """Who is taken to be slow, and how many times slower than the others."""
        self._settled = 0
        """The number of the newest code that was made, or kept, with that in mind."""
        self._holds = 0
        """The number of the code that holds."""
        self._expected: Mask = np.ones(n, dtype=np.bool_)
        self._news: list[str] = []
        """What is to be said when the next code holds."""

    def wanted(self, step: int, coding: Coding, members: Membership) -> Coding | None:
        """Return a code with other loads if a worker has become slow, or has recovered."""
        self._expected = members.alive & coding.members
        found = self._on_loss.wanted(step, coding, members)
        if found is not None or coding.number != self._holds:
            return found
        changed = self._look(np.flatnonzero(self._expected))
        if changed or (self._slow and self._settled != coding.number):
            return self._rebalanced(coding, changed)
        return None

    def saw(self, step: int, coding: Coding, timing: StepTiming) -> None:
        """Learn from a step how fast the workers are."""
        self._on_loss.saw(step, coding, timing)
        if coding.number != self._holds:
            self._holds = coding.number
            if coding.number == self._settled:
                for line in self._news:
                    self._say(f"step {step}: {line}")
            self._news = []
        self._speeds.observe(timing, np.count_nonzero(coding.code.B, axis=1), self._expected)

    def _look(self, workers: IntVector) -> dict[int, str]:
        """Find out who is slow now; return what to say of each worker for whom that has changed."""
        speeds, changed = self._speeds, {}
        for worker in map(int, workers):
            known = self._slow.get(worker)
            if speeds.slow_for[worker] >= STEPS:
                factor = speeds.factor(worker)
                if known is None or max(factor / known, known / factor) > speeds.threshold:
                    self._slow[worker] = factor
                    steps = int(speeds.slow_for[worker])
                    changed[worker] = f"{self._names[worker]} has been {factor:.1f} times slower for {steps} steps"
            elif known is not None and speeds.fast_for[worker] >= STEPS:
                del self._slow[worker]
                changed[worker] = f"{self._names[worker]} is as fast as the others again"
        return changed

    def _rebalanced(self, coding: Coding, changed: dict[int, str]) -> Coding | None:
        """Return a code with loads to match, if it pays."""
        self._settled = coding.number
        workers = np.flatnonzero(self._expected)
        seconds = np.array([self._slow.get(int(worker), 1.0) for worker in workers])
        try:
            following = self._balanced(workers.tolist(), seconds, coding.number + 1)
        except ParameterError as error:
            for line in changed.values():
                self._say(f"{line}; its load stays: {error}")
            return None
        before, after = (np.count_nonzero(one.code.B, axis=1) for one in (coding, following))
        # Before a recovered worker got shards back, it had been waited for no longer than the others.
        back = any(after[worker] > before[worker] for worker in changed if worker not in self._slow)
        shorter = seconds_of(following.code.B[workers], seconds) < _PAYS * seconds_of(coding.code.B[workers], seconds)
        if not (back or shorter):
            for worker, line in changed.items():
                self._say(f"{line}; it holds {_shards(before[worker])} still: finer shards (problem.shards) would help")
            return None
        self._settled = following.number
        self._news = [
            f"{line}: it now holds {_shards(after[worker])} instead of {before[worker]}" for worker, line in changed.items()
        ]
        return following


def _shards(count: int) -> str:
    return "1 shard" if count == 1 else f"{count} shards"
