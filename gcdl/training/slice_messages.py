"""The bytes of the messages between a worker and the masters of several slices, and of those between the masters.

They are what :mod:`gcdl.transport.mpi` sends: a reply, and a task, is a message for each slice. Only the task of slice 0 says
which replies were decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gcdl.compressors.kernels import BLOCK
from gcdl.compressors.parts import Part
from gcdl.downlinks import Publisher
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Task
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.transport.simulated.network import Masters, Sizes


class MasterSlice(NamedTuple):
    """A slice at its master: which coordinates it has, and what publishes them."""

    part: Part
    publisher: Publisher


def reply_sizes(slices: Sequence[MasterSlice]) -> Sizes:
    """Return the bytes of a reply. The largest are those of a slice, or those of slice 0 and the other masters' notes."""
    sizes = [HEADER_BYTES + part.codec.payload_bytes for part, _ in slices]
    return Sizes(sum(sizes), max(*sizes, sizes[0] + (len(slices) - 1) * HEADER_BYTES))


def task_overheads(n: int, slices: Sequence[MasterSlice]) -> list[int]:
    """Return the bytes of each slice's task that are not its content, of a run with n workers."""
    return [TaskFormat(0 if i else n, part.codec.agreed_count).overhead_bytes for i, (part, _) in enumerate(slices)]


def task_sizes(n: int, slices: Sequence[MasterSlice]) -> Callable[[Task, int], Sizes]:
    """Return a function of a task, and of the version that a worker has: the bytes that bring it the newest."""
    # Slices whose publishers are one and the same are alike: a timing-only simulation has many of those.
    overheads = task_overheads(n, slices)
    publishers = {id(publisher): publisher for _, publisher in slices}
    alike = Counter((overhead, id(publisher)) for overhead, (_, publisher) in zip(overheads, slices, strict=True))

    def sizes(task: Task, base: int) -> Sizes:
        contents = {key: publisher.content.nbytes(base) for key, publisher in publishers.items()}
        found = {key: key[0] + contents[key[1]] for key in alike}
        return Sizes(sum(count * found[key] for key, count in alike.items()), max(found.values()))

    return sizes


def decision_bytes(n: int) -> int:
    """Return the bytes by which rank 0 tells a slice master what to decode: the decoding vector, and who has arrived."""
    return HEADER_BYTES + 9 * n


def answer_bytes(n: int, blocks: int) -> int:
    """Return the bytes by which a slice master answers: the squared norms of its BLOCKs, and its part of the ledger."""
    return HEADER_BYTES + 8 * blocks + 8 * (5 * n + 3)


def shared_by(n: int, slices: Sequence[MasterSlice], *, clips: bool) -> Masters:
    """Return how the masters of these slices share the work for n workers; ``clips``: the optimizer needs the whole norm."""
    coordinates = [part.where.stop - part.where.start for part, _ in slices]
    largest = max(coordinates)
    return Masters(
        count=len(slices),
        share=largest / sum(coordinates),
        decision_bytes=decision_bytes(n),
        answer_bytes=answer_bytes(n, -(-largest // BLOCK)),
        norm_bytes=HEADER_BYTES if clips else 0,
    )
