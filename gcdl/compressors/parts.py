"""Cutting a codec at the slices of several masters: each decodes the coordinates of its own slice.

A worker compresses the whole vector, so scales are measured over whole tensors. Then it cuts the payload: each master is sent
the bits of its slice, and the scales of the groups that its slice meets. Slices begin at multiples of the kernels' BLOCK, so
every block keeps its number, and with it its random numbers: the slices decode to what one master decodes, to the bit.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import singledispatch

from gcdl.compressors.base import Codec
from gcdl.compressors.identity import IdentityCodec
from gcdl.compressors.kernels import BLOCK, blocks, packed_bytes
from gcdl.compressors.sign_codec import SignCodec
from gcdl.compressors.wrapper import WrapperCodec
from gcdl.errors import ParameterError
from gcdl.types import Buffer, Layout


@dataclass(frozen=True, eq=False)
class Part:
    """The coordinates ``where`` of a codec's vectors.

    Attributes
    ----------
    where : start .. stop of the flat vector; both are multiples of BLOCK, or the vector's end.
    codec : decodes payloads of this part; it does not compress.
    groups : which of the whole vector's agreed scales are this part's.
    pieces : where its payload lies in the whole one, piece after piece.
    """

    where: slice
    codec: Codec
    groups: slice
    pieces: tuple[slice, ...]

    @classmethod
    def whole(cls, codec: Codec, d: int) -> Part:
        """Return all of a codec, for vectors of d coordinates."""
        return cls(slice(0, d), codec, slice(0, codec.agreed_count), (slice(0, codec.payload_bytes),))

    @property
    def blocks(self) -> int:
        """How many BLOCKs it has."""
        return int(-(-(self.where.stop - self.where.start) // BLOCK))

    def cut(self, payload: Buffer, into: Buffer) -> None:
        """Copy this part of a whole payload, (payload_bytes,) of the whole codec, to ``into``, (payload_bytes,) of this one."""
        start = 0
        for piece in self.pieces:
            stop = start + piece.stop - piece.start
            into[start:stop] = payload[piece]
            start = stop


def slices_of(d: int, masters: int) -> list[slice]:
    """Return the slices of d coordinates that so many masters share: as equal as multiples of BLOCK allow.

    Fewer than ``masters`` where there are fewer blocks.
    """
    blocks = max(1, -(-d // BLOCK))
    masters = min(masters, blocks)
    edges = [min(d, BLOCK * (blocks * i // masters)) for i in range(masters)] + [d]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def cut_layout(layout: Layout, where: slice) -> Layout:
    """Return the layout of the coordinates ``where``: tensors are cut at its ends, what is left of each is flat."""
    if where == slice(0, layout.size):
        return layout
    names, shapes = [], []
    for name, tensor in zip(layout.names, layout.slices, strict=True):
        length = min(tensor.stop, where.stop) - max(tensor.start, where.start)
        if length > 0:
            names.append(name)
            shapes.append((length,))
    return Layout(tuple(names), tuple(shapes))


def cut_at_blocks(layout: Layout) -> Layout:
    """Return the layout with each tensor cut wherever a BLOCK ends."""
    parts = [cut_layout(layout, where) for where, _ in blocks(layout.size)]
    return Layout(tuple(name for part in parts for name in part.names), tuple(shape for part in parts for shape in part.shapes))


@singledispatch
def part_of(codec: Codec, where: slice) -> Part:
    """Return the part of a codec that decodes the coordinates ``where``.

    Raises
    ------
    ParameterError : this codec can't be cut.
    """
    raise ParameterError(f"masters: the payload of a {type(codec).__name__} can't be cut; use one master")


@part_of.register
def _(codec: SignCodec, where: slice) -> Part:
    there, groups = codec.part(where, cut_layout(codec.layout, where))
    bits = slice(where.start // 8, packed_bytes(where.stop))
    first = packed_bytes(codec.layout.size)
    starts = [first + 4 * row * codec.groups for row in range(codec.rows)]
    levels = [slice(start + 4 * groups.start, start + 4 * groups.stop) for start in starts]
    return Part(where, there, groups if codec.agreed_count else slice(0, 0), (bits, *levels))


@part_of.register
def _(codec: IdentityCodec, where: slice) -> Part:
    there = IdentityCodec(Layout(("slice",), ((where.stop - where.start,),)), codec.dtype)
    size = 4 if codec.dtype == "float32" else 2
    return Part(where, there, slice(0, 0), (slice(size * where.start, size * where.stop),))


@part_of.register
def _(codec: WrapperCodec, where: slice) -> Part:
    # What a master decodes has the inner compressor's bytes; residual and momentum are the worker's.
    return part_of(codec.inner, where)
