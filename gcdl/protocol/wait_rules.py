"""Wait rules: when the master stops waiting and decodes what has come.

Every rule has a ``timeout``: the step then ends with what is there. A new rule is a class here and a line in
:data:`WAIT_RULES`; keyword-only parameters are the keys of the config's ``[wait]`` table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from gcdl.codes import GradientCode
from gcdl.codes.decodability import Decodability
from gcdl.errors import ParameterError
from gcdl.protocol.adaptive_wait import Adaptive
from gcdl.protocol.measurements import StepTiming
from gcdl.types import Count, Mask, Nonnegative, Positive, Weights

_SETS_TRIED = 500


class WaitRule(Protocol):
    """Decides by the arrived set alone, so that runs with the same arrivals are the same."""

    @property
    def timeout(self) -> float:
        """Seconds after which a step ends with what is there, or the run if there is nothing."""
        ...

    @property
    def patience(self) -> float:
        """Seconds after which one reply is enough; inf: never."""
        ...

    def enough(self, arrived: Mask) -> bool:
        """Say whether the replies of these workers, (n,), suffice. Asked when one has come, before ``patience``."""
        ...

    def lacking(self, arrived: Mask) -> int:
        """Return how many more replies can be taken in before ``enough`` needs to be asked again: at least 1."""
        ...

    def feasible(self, alive: Mask) -> bool:
        """Say whether the rule can be met when only these workers, (n,), are left."""
        ...

    def losses_left(self, alive: Mask) -> int:
        """Return how many more of these workers, (n,), may be lost, whoever they are, before the rule can't be met."""
        ...


@runtime_checkable
class LearnsReplyTimes(Protocol):
    """A wait rule that looks at the clock, and learns from the steps that are over."""

    def passed(self, seconds: float, expected: Mask) -> None:
        """Take in, before ``enough`` is asked, how many seconds of the step have passed, and who may still reply, (n,)."""
        ...

    def learn(self, replied: Weights, waited: float, seconds: float, expected: Mask) -> None:
        """Take in a step that is over.

        Parameters
        ----------
        replied : (n,) seconds from its beginning until each reply came that was used; inf: it was not.
        waited : seconds until the master stopped waiting.
        seconds : of the whole step.
        expected : (n,) whose replies came, or might have.
        """
        ...


def learn_from(rule: LearnsReplyTimes, timing: StepTiming, expected: Mask) -> None:
    """Tell a rule what a step measured; ``expected``, (n,): who might have replied."""
    replied = np.full(len(expected), np.inf)
    replied[timing.replies["worker"]] = timing.replies["received"] - timing.began
    rule.learn(replied, timing.waited - timing.began, timing.ended - timing.began, expected | np.isfinite(replied))


class FirstReplies:
    """Wait for the first ``count`` replies; n - s when left out."""

    patience = math.inf

    def __init__(self, code: GradientCode, *, count: Count | None = None, timeout: Positive = 60.0) -> None:
        self.count = code.n - code.stragglers if count is None else count
        if self.count > code.n:
            raise ParameterError(f"count: cannot wait for {self.count} of {code.n} workers")
        self.timeout = timeout

    def enough(self, arrived: Mask) -> bool:
        """Count."""
        return int(arrived.sum()) >= self.count

    def lacking(self, arrived: Mask) -> int:
        """Count."""
        return max(1, self.count - int(arrived.sum()))

    def feasible(self, alive: Mask) -> bool:
        """Count."""
        return int(alive.sum()) >= self.count

    def losses_left(self, alive: Mask) -> int:
        """Count."""
        return max(0, int(alive.sum()) - self.count)


class Decodable:
    """Wait until the arrived set decodes: ||a B - 1|| <= tolerance * sqrt(k)."""

    patience = math.inf

    def __init__(self, code: GradientCode, *, tolerance: Nonnegative = 1e-6, timeout: Positive = 60.0) -> None:
        self.code = code
        self.tolerance = tolerance
        self.timeout = timeout
        self._most = tolerance * math.sqrt(code.k)
        self._bound = Decodability(code.B, self._most)

    def enough(self, arrived: Mask) -> bool:
        """Decode and look, unless it is sure that the arrived set does not decode."""
        return not self._bound.excluded(arrived) and self._decodes(arrived)

    def _decodes(self, arrived: Mask) -> bool:
        return self.code.decoding_error(self.code.decoding_vector(arrived)) <= self._most

    def lacking(self, arrived: Mask) -> int:
        """Return how many it takes to cover all shards; one where they are covered: any may be the last that it takes."""
        return max(1, self._bound.lacking(arrived))

    def feasible(self, alive: Mask) -> bool:
        """Ask whether all that are left would decode, if all of n would: a code that never does is not to blame."""
        everyone = np.ones_like(alive)
        return self._decodes(alive) or (bool(alive.any()) and not self._decodes(everyone))

    def losses_left(self, alive: Mask) -> int:
        """Try all sets of one more, two more, ... while they are few: then it is a lower bound."""
        workers = np.flatnonzero(alive)
        for count in range(1, workers.size + 1):
            if math.comb(workers.size, count) > _SETS_TRIED:
                return count - 1
            for gone in itertools.combinations(workers, count):
                left = alive.copy()
                left[list(gone)] = False
                if not self.feasible(left):
                    return count - 1
        return int(workers.size)


class Deadline:
    """Decode what has come ``seconds`` after the step began, and at least one reply; sooner if all have come."""

    def __init__(self, *, seconds: Positive = 0.5, timeout: Positive = 60.0) -> None:
        if seconds > timeout:
            raise ParameterError(f"seconds: the deadline, {seconds} s, must be at most the timeout, {timeout} s")
        self.patience = seconds
        self.timeout = timeout

    def enough(self, arrived: Mask) -> bool:
        """Wait for all, until the deadline."""
        return bool(arrived.all())

    def lacking(self, arrived: Mask) -> int:
        """All that are left, for the rule looks at the clock; but one at first: it may come after the deadline, and ends it."""
        return max(1, int((~arrived).sum())) if arrived.any() else 1

    def feasible(self, alive: Mask) -> bool:
        """One is enough."""
        return bool(alive.any())

    def losses_left(self, alive: Mask) -> int:
        """All but one."""
        return max(0, int(alive.sum()) - 1)


WAIT_RULES: dict[str, Callable[..., WaitRule]] = {
    "first_replies": FirstReplies,
    "decodable": Decodable,
    "deadline": Deadline,
    "adaptive": Adaptive,
}
