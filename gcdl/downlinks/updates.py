"""An update, to the byte: it turns version t of the model into version t + 1. It has one of a few forms.

::

    offset  size
    0       4     form
    4       4     m, the messages
    8       8     step
    16      8     bytes in all, a multiple of 64
    24      8     W, the sum of what the messages count (votes)
    32      8     u, the unit (votes)
    40      8     1: scales were agreed on
    48      8     norm of the whole gradient (clip_norm goes by it)
    64            m times 8 + 8: worker, weight (votes, replies); padded to 64
                  4 G: the scales agreed on, if they were; padded to 64
                  the form's own bytes

*gradient*: the decoded gradient, (d,) float32. *replies*: the payload of each message, one after the other. *votes*: their
sum, ceil(log2(W+1)) bit planes (:mod:`gcdl.compressors.votes`). Those three are decoded to the gradient that the master
decoded, to the bit. *signs*: of that gradient, ceil(d/8) bytes (:mod:`gcdl.downlinks.signs`). *step*: a compressed step, to be
added to the parameters.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from gcdl.compressors import Codec, Draw, Message, Votes
from gcdl.downlinks.signs import unpack_signs
from gcdl.types import Buffer, Vector, padded

_HEAD = struct.Struct("<IIqqqdqd")
_HEAD_BYTES = 64


class Form(IntEnum):
    """What an update holds."""

    GRADIENT = 1
    REPLIES = 2
    VOTES = 3
    STEP = 4
    SIGNS = 5


class Update(NamedTuple):
    """An update that has been read; its arrays are views of the buffer it was read from."""

    form: Form
    step: int
    senders: list[tuple[int, float]]
    """The workers, ascending, and their weights."""
    agreed: Vector | None
    total: int
    unit: float
    norm: float
    body: Buffer


def update_bytes(senders: int, scales: int, body: int) -> int:
    """Return the bytes of an update: ``senders`` messages, ``scales`` agreed on, ``body`` of the form's own."""
    return _HEAD_BYTES + padded(16 * senders) + padded(4 * scales) + padded(body)


def write_update(
    form: Form,
    step: int,
    messages: Sequence[Message],
    body: Sequence[Buffer],
    take: Callable[[int], Buffer],
    *,
    total: int = 0,
    unit: float = 0.0,
    norm: float = math.nan,
) -> Buffer:
    """Write an update whose own bytes are ``body``, one piece after the other, to a buffer that ``take`` gives."""
    agreed = messages[0].draw.agreed if messages else None
    scales = 0 if agreed is None else agreed.size
    own = sum(piece.size for piece in body)
    out = take(update_bytes(len(messages), scales, own))
    head = _HEAD.pack(form, len(messages), step, out.size, total, unit, agreed is not None, norm)
    out[: _HEAD.size] = np.frombuffer(head, dtype=np.uint8)
    out[_HEAD.size : _HEAD_BYTES] = 0
    table, scale_table, start = _places(len(messages), scales)
    out[table].view(np.int64)[: len(messages)] = [message.draw.worker for message in messages]
    out[table].view(np.float64)[len(messages) : 2 * len(messages)] = [message.weight for message in messages]
    if agreed is not None:
        out[scale_table].view(np.float32)[:scales] = agreed
    for piece in body:
        out[start : start + piece.size] = piece
        start += piece.size
    return out


def read_update(stored: Buffer, scales: int) -> tuple[Update, Buffer]:
    """Return the update at the start of ``stored``, and what follows it; ``scales``: G, if scales are agreed on."""
    form, m, step, nbytes, total, unit, has_scales, norm = _HEAD.unpack(stored[: _HEAD.size].tobytes())
    table, scale_table, start = _places(m, scales if has_scales else 0)
    workers = stored[table].view(np.int64)[:m].tolist()
    weights = stored[table].view(np.float64)[m : 2 * m].tolist()
    agreed = stored[scale_table].view(np.float32)[:scales] if has_scales else None
    senders = list(zip(workers, weights, strict=True))
    return Update(Form(form), step, senders, agreed, total, unit, norm, stored[start:nbytes]), stored[nbytes:]


def decode_update(update: Update, codec: Codec, draw: Callable[[int, int, Vector | None], Draw], into: Vector) -> None:
    """Overwrite ``into``, (d,), with the gradient, or its signs; ``draw`` (step, worker, agreed) tells what no message says."""
    if update.form is Form.GRADIENT:
        into[:] = update.body[: 4 * into.size].view(np.float32)
        return
    if update.form is Form.SIGNS:
        unpack_signs(update.body, into)
        return
    draws = [draw(update.step, worker, update.agreed) for worker, _ in update.senders]
    weights = [weight for _, weight in update.senders]
    if update.form is Form.VOTES:
        count = update.total.bit_length()
        bits = -(-into.size // 8)
        votes = Votes(update.body[: count * bits].reshape(count, bits), update.total, update.unit)
        codec.decode_votes(votes, list(zip(weights, draws, strict=True)), into)
        return
    size = codec.payload_bytes
    payloads = [update.body[i * size : (i + 1) * size] for i in range(len(draws))]
    codec.decode([Message(*parts) for parts in zip(payloads, weights, draws, strict=True)], into)


def _places(m: int, scales: int) -> tuple[slice, slice, int]:
    first = _HEAD_BYTES + padded(16 * m)
    return slice(_HEAD_BYTES, first), slice(first, first + padded(4 * scales)), first + padded(4 * scales)
