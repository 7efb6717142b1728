"""Which workers take part: who is alive, who is lost, and whose place is about to be taken by another process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gcdl.errors import TooManyLost, WorkerLost
from gcdl.protocol.wait_rules import WaitRule
from gcdl.types import Mask


class Membership:
    """The workers of a run.

    Parameters
    ----------
    n : how many there are.
    wait : says whether those that are left are enough; the rule of the code that holds.
    say : takes a line for the user.
    recodes : where they are too few, those that are left get another code.
    """

    def __init__(self, n: int, wait: WaitRule, say: Callable[[str], None], *, recodes: bool = False) -> None:
        self.alive: Mask = np.ones(n, dtype=bool)
        self.coming: Mask = np.zeros(n, dtype=bool)
        """Lost, and about to be replaced."""
        self.replaced: list[int] = []
        """Whose place another process took, in the order of it."""
        self.wait = wait
        self._say = say
        self._recodes = recodes

    @property
    def lost(self) -> list[int]:
        """The ids of the workers that are gone."""
        return [int(worker) for worker in np.flatnonzero(~self.alive)]

    @property
    def losses_left(self) -> int:
        """How many more workers may be lost, whoever they are."""
        return self.wait.losses_left(self.alive)

    def expected(self) -> Mask:
        """Return which workers may still reply, (n,)."""
        return self.alive | self.coming

    def leave(self, lost: WorkerLost, step: int) -> None:
        """Go on without a worker.

        Raises
        ------
        TooManyLost : nobody is left; or those that are left are too few for the wait rule, and are not re-coded.
        """
        self.alive[lost.worker] = False
        self.coming[lost.worker] = bool(lost.replaced)
        if lost.replaced:
            self._say(f"step {step}: {lost}; {lost.replaced} takes its place")
            return
        feasible = self.wait.feasible(self.expected())
        if not feasible and self._recodes and self.expected().any():
            self._say(f"step {step}: {lost}; the workers left are too few for the wait rule: they share its shards")
            return
        if not feasible:
            raise TooManyLost(
                f"step {step}: {lost}; the {int(self.alive.sum())} workers left are too few for the wait rule "
                f"(lost: {', '.join(map(str, self.lost))})"
            ) from lost
        self._say(f"step {step}: {lost}; the run goes on, {self.losses_left} more may go")

    def join(self, worker: int, name: str, step: int) -> None:
        """Go on with another process in a lost worker's place."""
        self.alive[worker] = True
        self.coming[worker] = False
        self.replaced.append(worker)
        self._say(f"step {step}: {name} has taken the lost one's place")
