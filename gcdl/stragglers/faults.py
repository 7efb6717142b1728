"""Injected faults: what happens to which worker at which step. The key ``events`` of every kind of ``[stragglers]``.

A fault strikes once: at its worker's first task of that step, or of a later one. It does not strike again when the run is
resumed beyond it. A worker that takes the place of a lost one is spared.

========  =====================================================================================
kill      the process ends as by ``kill -9``
stop      the process is stopped (SIGSTOP); after ``seconds`` it continues
raise     the worker raises
slow      the worker sleeps ``seconds`` more in this step (inf: no reply)
corrupt   bits of the reply are flipped on its way, after any checksum was taken
damage    a bit of the worker's own copy of the model flips (a simulation has one copy for all: there it does nothing)
========  =====================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gcdl.types import Buffer, Natural, Seconds

FaultName = Literal["kill", "stop", "raise", "slow", "corrupt", "damage"]


@dataclass(frozen=True, slots=True)
class Fault:
    """``fault`` strikes ``worker`` at ``step``. ``seconds``: of a stop or a slow one; inf: for ever."""

    fault: FaultName
    worker: Natural
    step: Natural
    seconds: Seconds


class InjectedError(Exception):
    """What a worker raises at the fault ``raise``."""

    def __init__(self, worker: int, step: int) -> None:
        super().__init__(f"an injected fault of worker {worker} at step {step}")


def flip_bits(payload: Buffer) -> None:
    """Flip a bit in every 64th byte of a payload: at least one, few enough to go unnoticed."""
    payload[::64] ^= 0x40
