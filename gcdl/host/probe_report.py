"""What :mod:`gcdl.transport.mpi.probe` has measured of a job; it travels as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Link:
    """What was measured between rank 0 and another one.

    Attributes
    ----------
    seconds : of a round trip of one byte, the shortest.
    bytes_per_second : one way, of a message that took some time.
    skew : seconds by which its wall clock is ahead of rank 0's; known to half a round trip.
    """

    rank: int
    seconds: float
    bytes_per_second: float
    skew: float


@dataclass(frozen=True)
class Probed:
    """What every rank says of itself (rank 0 first), the links that answered, and the ranks that did not."""

    ranks: list[dict[str, Any]]
    links: list[Link]
    silent: list[int]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON carries it."""
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> Probed:
        """Return what :meth:`plain` was taken of."""
        return cls(plain["ranks"], [Link(**link) for link in plain["links"]], plain["silent"])
