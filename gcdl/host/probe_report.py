"""What :mod:`gcdl.transport.mpi.probe` measured of a job. It is sent from process to process as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Link:
    """What was measured between rank 0 and another rank.

    Attributes
    ----------
    rank : the other rank.
    seconds : the shortest round trip of one byte.
    bytes_per_second : one way, by a message large enough to time.
    skew : seconds by which its wall clock is ahead of rank 0's, to within half a round trip.
    """

    rank: int
    seconds: float
    bytes_per_second: float
    skew: float


@dataclass(frozen=True)
class Probed:
    """The measurements of a job.

    Attributes
    ----------
    ranks : what each rank says of itself, rank 0 first.
    links : those between rank 0 and the ranks that answered.
    silent : the ranks that did not answer.
    """

    ranks: list[dict[str, Any]]
    links: list[Link]
    silent: list[int]

    def plain(self) -> dict[str, Any]:
        """Return it in types that JSON knows."""
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> Probed:
        """Return the report that :meth:`plain` was called on."""
        return cls(plain["ranks"], [Link(**link) for link in plain["links"]], plain["silent"])
