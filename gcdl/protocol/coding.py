"""A gradient code at work: which worker has which row of it, and when the master stops waiting.

A job has n places for workers, from its beginning to its end. The code that a run starts with has a row for each. Later codes
may have rows for some of the places only: the matrix has n rows all the same, and those of the others are zero. So masks,
decoding vectors and records keep their shape, whichever code holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gcdl.codes import Decoder, GradientCode
from gcdl.codes.construction.dither_places import dither_places
from gcdl.errors import MessageError
from gcdl.protocol.replica_check import Replicas
from gcdl.protocol.wait_rules import LearnsReplyTimes, WaitRule
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind, with_body
from gcdl.types import Buffer, IntVector, Mask, Matrix, Weights


class CodeRow(NamedTuple):
    """What a worker knows of the code: its shards, their entries in B, and its place under correlated dither.

    The place stays as long as the job lasts: a row of a later code says nothing of it.
    """

    shards: IntVector
    weights: Weights
    shift: int = 0

    def plain(self) -> tuple[list[int], list[float], int]:
        """Return it as plain numbers, for JSON."""
        return self.shards.tolist(), self.weights.tolist(), self.shift

    @classmethod
    def of_plain(cls, plain: tuple[list[int], list[float], int]) -> CodeRow:
        """Return the row that :meth:`plain` described."""
        shards, weights, shift = plain
        return cls(np.array(shards), np.array(weights), shift)


@dataclass(frozen=True, eq=False)
class Coding:
    """A code for some of n places, and the wait rule that goes with it.

    Attributes
    ----------
    number : codes are counted; 0 is the one that the job started with.
    code : its B has a row for each place, zero for those that have no part in it.
    wait : takes masks of all places.
    replicas : compares replies that should be the same, if it is given.
    name : what the code is, in words.
    """

    number: int
    code: GradientCode
    wait: WaitRule
    replicas: Replicas | None = None
    name: str = "as in the config"

    @cached_property
    def members(self) -> Mask:
        """(n,): which places have a row."""
        return np.asarray(self.code.B.any(axis=1))

    @property
    def workers(self) -> list[int]:
        """The places that have a row, ascending."""
        return [int(worker) for worker in np.flatnonzero(self.members)]

    def row(self, worker: int) -> CodeRow:
        """Return a worker's row."""
        shards = self.code.shards(worker)
        return CodeRow(shards, self.code.B[worker, shards])

    def same_row(self, worker: int, other: Coding) -> bool:
        """Say whether a worker has the same row in another code."""
        return bool(np.array_equal(self.code.B[worker], other.code.B[worker]))

    def covers(self, workers: Mask) -> bool:
        """Say whether these workers, (n,), hold every shard."""
        return bool(self.code.B[workers].any(axis=0).all())

    def recorded(self) -> dict[str, Any]:
        """Return what a line of ``steps.jsonl`` says of it: all that it takes to make it again, JSON-ready."""
        rows = [self.row(worker) for worker in self.workers]
        return {
            "code": self.name,
            "number": self.number,
            "workers": self.workers,
            "stragglers": self.code.stragglers,
            "assignment": [row.shards.tolist() for row in rows],
            "weights": [row.weights.tolist() for row in rows],
        }


def matrix_of(recorded: Mapping[str, Any], n: int, k: int) -> Matrix:
    """Return B, (n, k), of a code that a line of ``steps.jsonl`` describes.

    Raises
    ------
    ValueError : it describes none for so many workers and shards.
    """
    B = np.zeros((n, k))
    try:
        for worker, shards, weights in zip(recorded["workers"], recorded["assignment"], recorded["weights"], strict=True):
            B[worker, shards] = weights
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"recoded: not a code for {n} workers and {k} shards ({error})") from None
    return B


def spread(code: GradientCode, workers: Sequence[int], shifts: IntVector) -> tuple[GradientCode, list[int]]:
    """Give the rows of a code for m workers to these of n places; return it, and the place of each row.

    Places under correlated dither, ``shifts`` (n,), stay what they are as long as a job lasts. Who gets which row follows from
    them: rows that are alike go to workers that lie far apart (:mod:`gcdl.codes.construction.dither_places`).
    """
    by_shift = sorted(workers, key=lambda worker: (int(shifts[worker]), worker))
    places = [by_shift[place] for place in dither_places(code.B)]
    B = np.zeros((len(shifts), code.k))
    B[places] = code.B
    return code_of(B, code.decoder, code.stragglers), places


def code_of(B: Matrix, decoder: Decoder, stragglers: int) -> GradientCode:
    """Return a code from what a record has of it. No formula of a family decodes it, so that a replay decodes alike."""
    return GradientCode(B, decoder, stragglers)


def among(rule: WaitRule, places: Sequence[int]) -> Among:
    """Return a wait rule for m workers, as one that is asked of all places; ``places``, (m,): of each worker."""
    return AmongAndLearns(rule, places) if isinstance(rule, LearnsReplyTimes) else Among(rule, places)


class Among:
    """A wait rule for m workers, asked with masks of all n places.

    Parameters
    ----------
    rule : for m workers.
    places : (m,) the place of each.
    """

    def __init__(self, rule: WaitRule, places: Sequence[int]) -> None:
        self.rule = rule
        self._places = np.array(places, dtype=np.int64)

    @property
    def timeout(self) -> float:
        """As the rule's."""
        return self.rule.timeout

    @property
    def patience(self) -> float:
        """As the rule's."""
        return self.rule.patience

    def enough(self, arrived: Mask) -> bool:
        """Ask the rule."""
        return self.rule.enough(arrived[self._places])

    def lacking(self, arrived: Mask) -> int:
        """Ask the rule."""
        return self.rule.lacking(arrived[self._places])

    def feasible(self, alive: Mask) -> bool:
        """Ask the rule."""
        return self.rule.feasible(alive[self._places])

    def losses_left(self, alive: Mask) -> int:
        """Ask the rule."""
        return self.rule.losses_left(alive[self._places])


class AmongAndLearns(Among):
    """The same, of a rule that learns from the steps that are over: see :class:`gcdl.protocol.wait_rules.LearnsReplyTimes`."""

    def passed(self, seconds: float, expected: Mask) -> None:
        """Tell the rule."""
        assert isinstance(self.rule, LearnsReplyTimes)
        self.rule.passed(seconds, expected[self._places])

    def learn(self, replied: Weights, waited: float, seconds: float, expected: Mask) -> None:
        """Tell the rule."""
        assert isinstance(self.rule, LearnsReplyTimes)
        self.rule.learn(replied[self._places], waited, seconds, expected[self._places])


def with_row(run: int, worker: int, number: int, row: CodeRow, *, fresh: bool) -> Buffer:
    """Return the RECODE message that hands a worker its row of code ``number``.

    The body: 1 or 0, whether its compressor begins afresh then, int64; its shards, int64; their entries, float64.
    """
    integers, weights = np.array([fresh, *row.shards], dtype=np.int64), np.asarray(row.weights, dtype=np.float64)
    return with_body(Kind.RECODE, run, worker, number, np.concatenate([integers.view(np.uint8), weights.view(np.uint8)]))


def row_bytes(load: int) -> int:
    """Return the bytes of the message that hands over a row of so many shards."""
    return HEADER_BYTES + 8 + 16 * load


def read_row(header: Header, buffer: Buffer) -> tuple[CodeRow, bool]:
    """Return the row in a RECODE message, and whether the compressor begins afresh.

    Raises
    ------
    MessageError : its body is not of a row's size.
    """
    load, rest = divmod(header.body_bytes - 8, 16)
    if load < 1 or rest:
        raise MessageError(f"a row of the code of {header.body_bytes} bytes")
    body = buffer[HEADER_BYTES : HEADER_BYTES + header.body_bytes]
    shards = body[8 : 8 + 8 * load].view(np.int64).copy()
    return CodeRow(shards, body[8 + 8 * load :].view(np.float64).copy()), bool(body[:8].view(np.int64)[0])
