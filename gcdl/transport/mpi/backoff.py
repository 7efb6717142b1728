"""Sleeping between polls. A blocking MPI call would spin on a core that somebody else computes on."""

from __future__ import annotations

import time


class Backoff:
    """Sleeps between polls: 20 microseconds, doubling to 1 ms. In a long wait it sleeps up to a twentieth of it, at most 5 ms.

    The sleep is what a poll costs (25 microseconds of a core on the machine measured; the test itself 0.2).

    ``lacking``: how many messages it takes until the wait may be over. Where they are many the first sleeps are longer.
    """

    def __init__(self, lacking: int = 1) -> None:
        self._first = 20e-6 * min(max(1, lacking // 8), 8)
        self.reset()

    def reset(self) -> None:
        """There was traffic: poll fast again."""
        self._seconds = self._first
        self._waited = 0.0

    def sleep(self, at_most: float = 1.0) -> None:
        """Sleep a little, longer each time, never longer than ``at_most`` seconds."""
        time.sleep(max(0.0, min(self._seconds, at_most)))
        self._waited += self._seconds
        self._seconds = min(2.0 * self._seconds, max(1e-3, min(self._waited / 20.0, 5e-3)))
