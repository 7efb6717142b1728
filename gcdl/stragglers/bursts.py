"""Bursts: a worker that straggles goes on straggling for a while. The Gilbert-Elliott model.

Each worker is a Markov chain of two states, independent of the others: good (no delay) and bad. With ``enter`` =
P(good -> bad) and ``leave`` = P(bad -> good), a burst lasts 1 / leave steps on average and a worker is bad in a share p =
enter / (enter + leave) of the steps (Gilbert, Bell Syst. Tech. J. 1960; Elliott 1963). The chain begins in that distribution.

*Without a memory.* A draw must depend on (seed, step) alone, and a chain depends on its past. Step t moves each chain by a
uniform number u_t. A good worker turns bad if u_t < enter; a bad one stays bad if u_t < 1 - leave. Below both bounds u_t makes
a worker bad, whatever it was; above both it makes it good. Only between the bounds the past matters: the worker stays what it
is if enter <= 1 - leave, and changes if not. So the state at t is found by looking back to the last u that decided it, a few
burst lengths at most. The last state is kept for the step that follows.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt

from gcdl.errors import ParameterError
from gcdl.stragglers.base import Delays, StepKey
from gcdl.types import Fraction, Mask, Seconds

Length = Annotated[float, Ge(1.0), Lt(np.inf)]


class BurstDelays:
    """A worker in a burst sleeps ``seconds`` (inf: sends no reply).

    Parameters
    ----------
    p : the share of steps that a worker spends in bursts.
    length : mean length of a burst, in steps. At 1 / (1 - p) steps are independent: ``bernoulli``.
    seconds : the delay.

    Raises
    ------
    ParameterError : ``length`` is too short for ``p``: bursts would have to begin with a probability above one.
    """

    def __init__(self, *, p: Fraction, length: Length = 10.0, seconds: Seconds = 1.0) -> None:
        self.leave = 1.0 / length
        self.enter = self.leave * p / (1.0 - p)
        if self.enter > 1.0:
            raise ParameterError(
                f"length: bursts of {length:g} steps cannot fill a share p = {p:g}; at least {p / (1.0 - p):.4g} steps"
            )
        self.p = p
        self.seconds = seconds
        self._last: tuple[int, StepKey, Mask] | None = None

    def delays_at(self, n: int, key: StepKey) -> Delays:
        """Return the delays of a step."""
        return Delays.of(n, compute=np.where(self.bad(n, key), self.seconds, 0.0))

    def bad(self, n: int, key: StepKey) -> Mask:
        """Return which of n workers are in a burst, (n,)."""
        low, high = sorted((self.enter, 1.0 - self.leave))
        flips = self.enter > 1.0 - self.leave
        bad = np.zeros(n, dtype=np.bool_)
        odd = np.zeros(n, dtype=np.bool_)  # an odd number of changes lies between the state looked for and the step looked at
        left = np.ones(n, dtype=np.bool_)
        for step in range(key.step, -1, -1):
            if step < key.step and self._last is not None and self._last[:2] == (n, key.at(step)):
                bad[left] = self._last[2][left] ^ odd[left]
                break
            u = key.at(step).rng().random(n)
            if step == 0:  # the first step: the stationary distribution
                bad[left] = (u < self.p)[left] ^ odd[left]
                break
            decided = left & ((u < low) | (u >= high))
            bad[decided] = (u < low)[decided] ^ odd[decided]
            left &= ~decided
            if not left.any():
                break
            if flips:
                odd ^= left
        self._last = (n, key, bad)
        return bad
