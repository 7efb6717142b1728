"""What :meth:`gcdl.Trainer.fit` returns: the records of a run, and how the loop over them was left."""

from __future__ import annotations

import dis
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from types import FrameType

from gcdl.errors import GcdlError
from gcdl.protocol.step_record import StepRecord
from gcdl.training.loop import CallerFailed

_LEAVING = {dis.opmap[name] for name in ("POP_TOP", "POP_ITER", "END_FOR") if name in dis.opmap}
"""Instructions that drop a loop's iterator at a ``break`` or ``return``. None of them can raise."""
_SUSPENDED = {dis.opmap[name] for name in ("YIELD_VALUE", "RESUME") if name in dis.opmap}


class StepIterator(Iterator[StepRecord]):
    """Iterates over a run's records.

    Left by ``break``, ``return`` or :meth:`close`, the run is complete. Left by an exception, it ends early. A generator does
    not see the difference: Python closes it in both cases.
    """

    def __init__(self, steps: Generator[StepRecord, None, None]) -> None:
        self._steps = steps

    def __next__(self) -> StepRecord:
        return next(self._steps)

    def close(self) -> None:
        """End the run here, as ``break`` does."""
        self._steps.close()

    def fail(self) -> None:
        """End the run early, as an exception in the loop's body does."""
        with suppress(CallerFailed, StopIteration):
            self._steps.throw(CallerFailed())

    def __del__(self) -> None:
        try:
            if _was_left(sys._getframe(1)):
                self.close()
            else:
                self.fail()
        except GcdlError as error:  # Python would print a traceback, and go on too
            print(f"gcdl: {error}", file=sys.stderr)


def _was_left(frame: FrameType | None) -> bool:
    """Return whether the loop in this frame was left on purpose: what drops the iterator is no instruction that raised.

    A generator around the iterator (``tqdm``) is closed from the frame that iterates over the generator.
    """
    while frame is not None:
        instruction = frame.f_code.co_code[frame.f_lasti] if frame.f_lasti >= 0 else None
        if instruction not in _SUSPENDED:
            return instruction in _LEAVING
        frame = frame.f_back
    return False
