"""Gradient codes. A new one is a file that builds a :class:`GradientCode`, and a line in :data:`CODES`.

Builders take ``n`` (workers), ``k`` (shards) and, if they draw, ``rng``; their keyword-only arguments are the keys of
the config's ``[code]`` table.
"""

from collections.abc import Callable

from gcdl.codes.base import GradientCode, noise_gain
from gcdl.codes.bernoulli import bernoulli
from gcdl.codes.bibd import bibd
from gcdl.codes.cyclic_mds import cyclic_mds
from gcdl.codes.cyclic_repetition import cyclic_repetition
from gcdl.codes.decoders import DECODERS, Decoder, add_up, least_squares, majority, mmse, noise_shares, one_step
from gcdl.codes.fractional_repetition import fractional_repetition
from gcdl.codes.graph import graph
from gcdl.codes.sgc import sgc
from gcdl.codes.uncoded import uncoded

CODES: dict[str, Callable[..., GradientCode]] = {
    "uncoded": uncoded,
    "fractional_repetition": fractional_repetition,
    "cyclic_repetition": cyclic_repetition,
    "cyclic_mds": cyclic_mds,
    "sgc": sgc,
    "bernoulli": bernoulli,
    "graph": graph,
    "bibd": bibd,
}

__all__ = [
    "CODES",
    "DECODERS",
    "Decoder",
    "GradientCode",
    "add_up",
    "bernoulli",
    "bibd",
    "cyclic_mds",
    "cyclic_repetition",
    "fractional_repetition",
    "graph",
    "least_squares",
    "majority",
    "mmse",
    "noise_gain",
    "noise_shares",
    "one_step",
    "sgc",
    "uncoded",
]
