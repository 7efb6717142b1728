"""The kernels: packing, drawing and decoding, block by block. ``reference`` defines them; ``select`` chooses the fastest."""

from gcdl.compressors.kernels.blocks import BLOCK, blocks, packed_bytes
from gcdl.compressors.kernels.random import Stream16, mix
from gcdl.compressors.kernels.reference import Kernels, Wraps
from gcdl.compressors.kernels.select import kernels_for
from gcdl.compressors.kernels.sums import Wide

__all__ = ["BLOCK", "Kernels", "Stream16", "Wide", "Wraps", "blocks", "kernels_for", "mix", "packed_bytes"]
