"""The kernels: packing, drawing and decoding, block by block. ``reference`` defines them; ``select`` chooses the fastest."""

from gcdl.compressors.kernels.blocks import BLOCK, blocks, packed_bytes
from gcdl.compressors.kernels.random import Stream16, Streams, mix
from gcdl.compressors.kernels.reference import Kernels
from gcdl.compressors.kernels.rotation import pieces
from gcdl.compressors.kernels.rows import Rows, Values
from gcdl.compressors.kernels.select import kernels_for
from gcdl.compressors.kernels.sums import Wide
from gcdl.compressors.kernels.wraps import Wraps, wraps_of

__all__ = [
    "BLOCK",
    "Kernels",
    "Rows",
    "Stream16",
    "Streams",
    "Values",
    "Wide",
    "Wraps",
    "blocks",
    "kernels_for",
    "mix",
    "packed_bytes",
    "pieces",
    "wraps_of",
]
