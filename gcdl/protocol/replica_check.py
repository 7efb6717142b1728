"""Workers with equal rows of B send the same bits: whoever does not has a fault that nothing else would show.

Such replicas hold the same shards with the same weights and draw the same minibatches. So their replies agree to the bit,
on machines of one kind, if the compressor is deterministic: dithers, the correlated one too, are each worker's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gcdl.compressors import Compressor, Draw
from gcdl.errors import ParameterError
from gcdl.types import Buffer, Layout, Matrix


@dataclass(frozen=True)
class Verdict:
    """``outvoted``: workers against whom most of their replicas agree. ``disputed``: one of them is wrong, but which?"""

    outvoted: list[int]
    disputed: list[int]


class Replicas:
    """Compares the replies of replicas.

    Parameters
    ----------
    B : the code's, (n, k).
    compressor : what all workers compress with.

    Raises
    ------
    ParameterError : no two workers send the same bits.
    """

    def __init__(self, B: Matrix, compressor: Compressor) -> None:
        rows: dict[bytes, list[int]] = {}
        for worker, row in enumerate(B):
            if not row.any():
                continue  # it has no part in the code
            rows.setdefault(row.tobytes(), []).append(worker)
        self.groups = [group for group in rows.values() if len(group) > 1]
        if not self.groups:
            raise ParameterError(
                "verify: no two workers of this code send the same; fractional_repetition has groups of stragglers + 1 that do"
            )
        if not sends_equal_bits(compressor):
            raise ParameterError(
                "verify: with this compressor replicas send different bits: their random numbers, or residuals, are their own; "
                "use a deterministic one (identity, sign, scaled_sign) without error_feedback"
            )

    def compare(self, payloads: Mapping[int, Buffer]) -> Verdict:
        """Say which of these replies' payloads, by worker, are not what their replicas sent."""
        outvoted: list[int] = []
        disputed: list[int] = []
        for group in self.groups:
            arrived = [worker for worker in group if worker in payloads]
            parties: list[list[int]] = []
            for worker in arrived:
                payload = payloads[worker]
                for party in parties:
                    if np.array_equal(payloads[party[0]], payload):
                        party.append(worker)
                        break
                else:
                    parties.append([worker])
            if len(parties) < 2:
                continue
            parties.sort(key=len, reverse=True)
            if len(parties[0]) > len(parties[1]):
                outvoted += [worker for party in parties[1:] for worker in party]
            else:
                disputed += arrived
        return Verdict(sorted(outvoted), sorted(disputed))


def sends_equal_bits(compressor: Compressor) -> bool:
    """Say whether two workers make equal payloads of equal vectors, in each of a few steps."""
    codec = compressor.codec(Layout(("x",), ((256,),)))
    if codec.state_bytes:
        return False
    payloads = np.empty((2, codec.payload_bytes), dtype=np.uint8)
    for step in range(4):
        for worker, payload in enumerate(payloads):
            draw = Draw(0, step, worker, worker << 15)
            codec.compress(np.linspace(-1.0, 1.0, 256, dtype=np.float32), codec.init(), draw, payload)
        if not np.array_equal(payloads[0], payloads[1]):
            return False
    return True
