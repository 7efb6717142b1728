"""What the master measures in a step: a table of replies, and when the parts of the step ended."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.void]
"""(m,) replies as a table; see :func:`rows_of`."""
_ROW = np.dtype(
    [("worker", np.int64), ("step", np.int64), ("received", np.float64), ("loss", np.float64)]
    + [(name, np.float64) for name in ("slept", "computed", "held", "encoded")]
    + [("clipped", np.int64)]
)


def rows_of(m: int) -> Rows:
    """Return an empty table of m replies.

    ``worker``, ``step``; ``received``: when it reached the master, on the transport's clock; ``loss``: coded; and the seconds
    its worker ``slept`` (injected, before computing), ``computed``, ``held`` it (injected, after that) and ``encoded``;
    ``clipped``: coordinates beyond the scale agreed on.
    """
    return np.zeros(m, dtype=_ROW)


@dataclass(frozen=True, slots=True)
class StepTiming:
    """When the parts of a step ended, on the transport's clock, in seconds."""

    began: float
    sent: float
    waited: float
    decoded: float
    ended: float
    replies: Rows
    """Of the replies that were used, in worker order."""
    late: Rows = field(default_factory=lambda: rows_of(0))
    """Of the replies that came during the step, and were dropped."""
