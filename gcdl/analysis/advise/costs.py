"""What compressing and decoding take with another compressor than the run's: its own measured seconds, times a ratio.

The ratio is that of the two compressors on this machine, measured on random numbers, because a run measures its own compressor
only. A simulated run states what things cost; there the ratio is one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from gcdl.analysis.advise.observed import Observed
from gcdl.analysis.advise.second_shard import second_shard
from gcdl.compressors import Codec, Compressor, Draw, Message
from gcdl.types import IntVector, Layout, Weights, aligned_buffer, aligned_vector

_MOST_COORDINATES = 1 << 22
"""Of the vectors that are timed: seconds grow with d from there on."""
_REPLIES = 4
_REPEATS = 3


@dataclass(frozen=True)
class _Timed:
    """Seconds to encode a reply, and to decode one."""

    encode: float
    decode: float


@dataclass
class Costs:
    """Of a run's workers and master, in seconds.

    Attributes
    ----------
    encode : of a reply, with the run's own compressor.
    decode : of a reply, at the master.
    update : of the optimizer's step.
    compressor, layout : the run's.
    stated : whether the run was simulated.
    further_shard : what each shard beyond the first adds to a worker's computing, as a share of the first; None: unknown.
    """

    encode: float
    decode: float
    update: float
    compressor: Compressor
    layout: Layout
    stated: bool
    further_shard: float | None
    _timed: dict[str, _Timed] = field(default_factory=dict)

    @classmethod
    def of(cls, observed: Observed) -> Costs:
        """Return what a run measured."""
        replies = np.isfinite(observed.reply).sum(axis=1)
        encode = float(np.nanmedian(observed.encode))
        decode, update = float(np.median(observed.decoding / replies)), float(np.median(observed.updating))
        further = 1.0 if observed.simulated else second_shard(observed.config)
        compressor, layout = observed.experiment.compressor, observed.sizes.layout
        return cls(encode, decode, update, compressor, layout, observed.simulated, further)

    def computing(self, shards: IntVector) -> Weights:
        """Return how many times as long as one shard takes these numbers of shards take, (n,)."""
        further = 1.0 if self.further_shard is None else self.further_shard
        return np.asarray(1.0 + further * (shards - 1.0))

    def of_compressor(self, compressor: Compressor) -> tuple[float, float]:
        """Return the seconds of encoding and of decoding a reply with another compressor."""
        if self.stated or repr(compressor) == repr(self.compressor):
            return self.encode, self.decode
        own, other = self._measured(self.compressor), self._measured(compressor)
        return self.encode * other.encode / own.encode, self.decode * other.decode / own.decode

    def _measured(self, compressor: Compressor) -> _Timed:
        key = repr(compressor)
        if key not in self._timed:
            self._timed[key] = _time(compressor, _at_most(self.layout))
        return self._timed[key]


def _at_most(layout: Layout) -> Layout:
    """Return a layout that is quickly timed."""
    return layout if layout.size <= _MOST_COORDINATES else Layout(("parameters",), ((_MOST_COORDINATES,),))


def _time(compressor: Compressor, layout: Layout) -> _Timed:
    codec = compressor.codec(layout)
    x = aligned_vector(layout.size)
    x[:] = np.random.default_rng(0).standard_normal(layout.size, dtype=np.float32)
    payload, into = aligned_buffer(codec.payload_bytes), aligned_vector(layout.size)
    agreed = np.ones(codec.agreed_count, dtype=np.float32) if codec.agreed_count else None
    draws = [Draw(0, 0, worker, 0, agreed) for worker in range(_REPLIES)]
    encode = min(_encoding(codec, x.copy(), payload, draws[0]) for _ in range(_REPEATS))
    messages = [Message(payload, 1.0, draw) for draw in draws]
    decode = min(_decoding(codec, messages, into) for _ in range(_REPEATS))
    return _Timed(encode, decode / _REPLIES)


def _encoding(codec: Codec, x: np.ndarray, payload: np.ndarray, draw: Draw) -> float:
    state = codec.init()
    began = time.perf_counter()
    codec.compress(x, state, draw, payload)
    return max(time.perf_counter() - began, 1e-7)


def _decoding(codec: Codec, messages: list[Message], into: np.ndarray) -> float:
    began = time.perf_counter()
    codec.decode(messages, into)
    return max(time.perf_counter() - began, 1e-7)
