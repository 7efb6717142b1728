"""Decoding by several threads: each takes a stretch of blocks, and no two write to the same coordinates.

What a block decodes to does not depend on the others. So the number of threads changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

B = TypeVar("B")
S = TypeVar("S")


class DecodingThreads(Generic[B, S]):
    """The threads of one codec, one at first: the caller's.

    Parameters
    ----------
    make_scratch : allocates what a thread needs for itself.
    """

    def __init__(self, make_scratch: Callable[[], S]) -> None:
        self._make_scratch = make_scratch
        self._scratch = [make_scratch()]
        self._pool: ThreadPoolExecutor | None = None

    @property
    def count(self) -> int:
        """How many threads there are, the caller's included."""
        return len(self._scratch)

    @count.setter
    def count(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"threads: must be at least 1, not {count}")
        if self._pool is not None:
            self._pool.shutdown()
        self._scratch = [*self._scratch, *(self._make_scratch() for _ in range(count - self.count))][:count]
        self._pool = ThreadPoolExecutor(count - 1, "decode") if count > 1 else None

    def run(self, work: Callable[[B, S], None], blocks: Sequence[B]) -> None:
        """Call ``work`` with each block and its thread's scratch; return when all is done. The first error is raised."""
        share = -(-len(blocks) // self.count)
        parts = [blocks[first : first + share] for first in range(0, len(blocks), share or 1)]
        others = [
            self._pool.submit(_work_on, work, part, scratch)
            for part, scratch in zip(parts[1:], self._scratch[1:], strict=False)
            if self._pool is not None
        ]
        try:
            _work_on(work, parts[0] if parts else [], self._scratch[0])
        finally:
            for other in others:
                other.exception()  # nobody may still write to the vector when this returns
        for other in others:
            other.result()


class DecodesOnThreads(Generic[B, S]):
    """A codec with threads of its own.

    Parameters
    ----------
    make_scratch : allocates what a thread needs for itself.
    """

    def __init__(self, make_scratch: Callable[[], S]) -> None:
        self._threads = DecodingThreads[B, S](make_scratch)

    @property
    def threads(self) -> int:
        """How many threads decode; the bits are the same."""
        return self._threads.count

    @threads.setter
    def threads(self, count: int) -> None:
        self._threads.count = count


def _work_on(work: Callable[[B, S], None], blocks: Sequence[B], scratch: S) -> None:
    for block in blocks:
        work(block, scratch)
