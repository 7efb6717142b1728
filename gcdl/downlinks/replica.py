"""A worker's own copy of the model, and of the optimizer's state: it takes the steps that the master takes, in their order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gcdl.downlinks.array_bytes import most_state_bytes, read_archive
from gcdl.downlinks.base import UNKNOWN, Ends, fingerprint, flip_a_bit
from gcdl.downlinks.update_log import HEAD_BYTES, Head
from gcdl.downlinks.updates import Form, Update, decode_update, read_update
from gcdl.errors import MessageError
from gcdl.types import Buffer, Vector, aligned_vector, padded


def snapshot_bytes(ends: Ends, *, stepping: bool) -> int:
    """Return the most bytes that a snapshot takes; ``stepping``: with the optimizer's state."""
    d = ends.layout.size
    return padded(4 * d) + (most_state_bytes(ends.recipe, d) if stepping else 64)


class Replica:
    """A follower with parameters of its own.

    Parameters
    ----------
    ends : what it shares with the master.
    fresh : it starts from the initial parameters; else from a snapshot that is to come.
    steps : decodes an update that is a step to (d,); None: updates are gradients, for an optimizer of the replica's own.
    """

    in_place = False

    def __init__(self, ends: Ends, *, fresh: bool, steps: Callable[[Update, Vector], None] | None = None) -> None:
        d = ends.layout.size
        self.version = 0 if fresh else UNKNOWN
        self.wrong = False
        self.body_bytes = HEAD_BYTES + snapshot_bytes(ends, stepping=steps is None)
        self._ends = ends
        self._steps = steps
        self._parameters = aligned_vector(d) if ends.memory is None else ends.memory
        if fresh:
            self._parameters[:] = ends.initial()
        self._optimizer = ends.recipe.build(self._parameters) if steps is None else None
        self._change = aligned_vector(d)
        """A decoded gradient, or step."""

    def follow(self, content: Buffer) -> Vector | None:
        """Apply the updates that a task brings; see :class:`gcdl.downlinks.base.Follower`.

        Raises
        ------
        MessageError : the bytes are no content.
        """
        self.wrong = False
        head = Head.read(content)
        if head.base == UNKNOWN:
            self._restore(content[HEAD_BYTES:])
        elif head.base != self.version:
            return None  # an update that overtook the snapshot asked for
        else:
            rest = content[HEAD_BYTES:]
            for _ in range(head.updates):
                update, rest = read_update(rest, self._ends.codec.agreed_count)
                self._apply(update)
        self.version = head.version
        if head.hashed and fingerprint(self._parameters) != head.hash:
            self.version = UNKNOWN
            self.wrong = True
            return None
        return self._parameters

    def damage(self) -> None:
        """Flip a bit of the parameters."""
        flip_a_bit(self._parameters)

    def _restore(self, stored: Buffer) -> None:
        nbytes = self._parameters.nbytes
        if stored.size < nbytes:
            raise MessageError(f"a snapshot of {stored.size} bytes for a model of {nbytes}")
        self._parameters[:] = stored[:nbytes].view(np.float32)
        if self._optimizer is not None:
            self._optimizer = self._ends.recipe.build(self._parameters)
            self._optimizer.load(read_archive(stored[padded(nbytes) :]))

    def _apply(self, update: Update) -> None:
        if update.form is Form.STEP:
            assert self._steps is not None
            self._steps(update, self._change)
            self._parameters += self._change
            return
        assert self._optimizer is not None
        decode_update(update, self._ends.codec, self._ends.draw, self._change)
        if update.form not in (Form.GRADIENT, Form.SIGNS):
            self._ends.finish(self._change)
        self._optimizer.step(self._change, update.norm)
