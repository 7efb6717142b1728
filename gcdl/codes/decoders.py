"""Decoders: from the rows of B that have arrived, (m, k), to their weights a, (m,).

*sum*
    a = 1: unbiased for codes whose weights already expect the stragglers (SGC).
*one step*
    a = c, the constant of smallest ||c u - 1||, u the column sums of the rows: c = sum u / ||u||^2. Charles,
    Papailiopoulos and Ellenberg (2017) fix c = rho = k / (m times the load) in advance, which is this c when u is constant.
*least squares*
    the a of smallest ||a B - 1||, and among those the one of smallest ||a||: exact whenever the rows can be
    combined to all ones, and then the least amplification of independent noise, so equal replicas are averaged.
*MMSE*
    the a of smallest ||a B - 1||^2 + lambda sum_i a_i^2 v_i: least squares that knows of the compression noise.
*majority*
    a = 1, and the sign of the sum: each coordinate goes the way most workers vote, 0 in a tie (signSGD with majority
    vote, Bernstein et al., ICLR 2019). With a compressor that sends scales, a vote counts by its scale.

MMSE, the argument. Let the shards' gradients be independent with mean zero and E||G_j||^2 = sigma^2, and the noise of message
i independent of them with E||Q(C_i) - C_i||^2 = V_i. Then E||decoded - sum_j G_j||^2 = sigma^2 ||a B - 1||^2 + sum a_i^2 V_i.
The messages tell sigma^2: E||C_i||^2 = ||B_i||^2 sigma^2, so sigma^2 = sum_i S_i / ||B_A||_F^2, where S_i is what a codec
takes for ||C_i||^2 (:meth:`gcdl.compressors.base.Codec.energies`). With v_i = V_i / sum_l S_l, lambda = ||B_A||_F^2. Gradients
that have a common mean make sigma^2 seem larger and lambda smaller: nearer to least squares, which is the safe side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gcdl.types import Matrix, Vector, Weights

_WELL_POSED = 1e-6  # a penalty above this share of the rows' squares makes the normal equations safe
_MANY = 256  # rows, from which on singular values are slow
_PIVOT = 1e-3  # smallest pivot, as a share of the largest, with which the normal equations are safe


def _leave(gradient: Vector) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Decoder:
    """How the replies of a step are combined: sum_i a_i Q_i(C_i), then ``finish``.

    Parameters
    ----------
    weigh : (rows (m, k), v (m,)) -> a, (m,).
    needs_noise : whether ``weigh`` looks at v; the master then finds it out, and a is not cached.
    finish : what is done to the sum, (d,) float32, in place.
    """

    weigh: Callable[[Matrix, Weights], Weights]
    needs_noise: bool = False
    finish: Callable[[Vector], None] = _leave

    def __call__(self, rows: Matrix, noise: Weights | None = None) -> Weights:
        """Return a for rows, (m, k); ``noise``, (m,), is v of the MMSE formula, zero when left out."""
        return self.weigh(rows, np.zeros(rows.shape[0]) if noise is None else noise)


def _ones(rows: Matrix, noise: Weights) -> Weights:
    return np.ones(rows.shape[0])


def _constant(rows: Matrix, noise: Weights) -> Weights:
    u = rows.sum(axis=0)
    square = float(u @ u)
    return np.full(rows.shape[0], float(u.sum()) / square if square > 0.0 else 0.0)


def _least_squares(rows: Matrix, noise: Weights) -> Weights:
    a = _normal_equations(rows) if rows.shape[0] >= _MANY else None
    return _solve(rows, np.ones(rows.shape[1])) if a is None else a


def _normal_equations(rows: Matrix) -> Weights | None:
    """Return the a of smallest ||a rows - 1|| from rows rows^T a = rows 1, refined once; None unless that is well-posed.

    Several times faster than singular values. The smallest pivot of the Cholesky factor tells replicas and other near
    dependencies, among which only singular values find the shortest a.
    """
    gram = rows @ rows.T
    try:
        pivots = np.linalg.cholesky(gram).diagonal()
    except np.linalg.LinAlgError:
        return None
    if pivots.min() < _PIVOT * pivots.max():
        return None
    wanted = rows.sum(axis=1)
    a = np.linalg.solve(gram, wanted)
    return np.asarray(a + np.linalg.solve(gram, wanted - gram @ a), dtype=np.float64)


def _mmse(rows: Matrix, noise: Weights) -> Weights:
    if not noise.any():
        return _least_squares(rows, noise)
    gram = rows @ rows.T
    penalty = np.trace(gram) * noise  # lambda v
    if penalty.min() > _WELL_POSED * gram.diagonal().max():
        return np.asarray(np.linalg.solve(gram + np.diag(penalty), rows.sum(axis=1)), dtype=np.float64)
    # The penalty is one more column for each row, whose target is zero.
    m, k = rows.shape
    return _solve(np.hstack([rows, np.diag(np.sqrt(penalty))]), np.repeat([1.0, 0.0], [k, m]))


def _solve(rows: Matrix, target: Weights) -> Weights:
    """Return the shortest a of smallest ||a rows - target||, by singular values: B may well be rank-deficient."""
    return np.asarray(np.linalg.lstsq(rows.T, target, rcond=None)[0], dtype=np.float64)


def _vote(gradient: Vector) -> None:
    np.sign(gradient, out=gradient)


def noise_shares(energies: Mapping[int, Weights], n: int) -> Weights:
    """Return v, (n,): the noise energy of each message as a share of the signal energy of all; see the module.

    ``energies``: by worker, (blocks, 2): signal and noise of each block.
    """
    v = np.zeros(n)
    total = 0.0
    for worker, of_blocks in energies.items():
        signal, noise = (sum(column.tolist()) for column in of_blocks.T)
        total += signal
        v[worker] = noise
    return v / total if total > 0.0 else v * 0.0


add_up = Decoder(_ones)
one_step = Decoder(_constant)
least_squares = Decoder(_least_squares)
mmse = Decoder(_mmse, needs_noise=True)
majority = Decoder(_ones, finish=_vote)

DECODERS: dict[str, Decoder] = {
    "sum": add_up,
    "one_step": one_step,
    "least_squares": least_squares,
    "mmse": mmse,
    "majority": majority,
}
