"""The slices of a model that lie at several masters, as rank 0 sees them: its own, and those of the slice masters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.parts import Part
from gcdl.downlinks import Content
from gcdl.protocol.model_slices import ModelSlice, cut_state, join_arrays, join_downlink
from gcdl.transport.mpi.master_channel import digest
from gcdl.transport.mpi.other_masters import OtherMasters
from gcdl.types import Buffer, Vector, Weights

PARAMETERS, OPTIMIZER, DOWNLINK = "parameters", "optimizer.", "downlink."


class RemoteSlices:
    """All slices of the model; see :class:`gcdl.protocol.model_slices.ModelSlices`.

    Parameters
    ----------
    own : rank 0's slice; its optimizer steps the first part of ``parameters``.
    parts : of all slices, in their order.
    parameters : (d,), of the whole model.
    others : the slice masters.
    """

    def __init__(self, own: ModelSlice, parts: Sequence[Part], parameters: Vector, others: OtherMasters) -> None:
        self.parameters = parameters
        self.model = own.publisher.model
        self._own = own
        self._parts = parts
        self._others = others
        self._version = 0
        self._loaded: list[dict[str, np.ndarray]] | None = None
        """What the slice masters begin with, of a run that is resumed."""
        self._begun = False
        self._collected = 0
        """The version that :attr:`parameters` has."""
        self._states: tuple[int, list[dict[str, np.ndarray]]] = (-1, [])
        """The arrays beside the parameters, of this version."""

    def begin(self) -> None:
        """Let the slice masters send their first tasks. Later ones they send by themselves, after each step."""
        if not self._begun:
            self._begun = True
            self._others.begin(self._version, self._loaded)
            self._loaded = None

    @property
    def content(self) -> Content:
        """What rank 0's tasks carry."""
        self.begin()
        return self._own.publisher.content

    @property
    def agreed(self) -> Vector | None:
        """(G,): the scales agreed on of rank 0's slice."""
        return self._own.agreed

    @property
    def lr(self) -> float | None:
        """The learning rate of the next step; None where the optimizer tells none."""
        return self._own.lr

    def energies(self, step: int, payloads: Mapping[int, Buffer]) -> dict[int, NDArray[np.float64]]:
        """See :class:`gcdl.protocol.model_slices.ModelSlices`."""
        own = self._own.energies(payloads)
        return {worker: np.concatenate([own[worker], *self._others.energies(worker)]) for worker in payloads}

    def identities(self, step: int, payloads: Mapping[int, Buffer]) -> Mapping[int, Buffer]:
        """Return the digests of all slices of each reply."""
        return {
            worker: np.concatenate([digest(payload), *self._others.digests(worker)]) for worker, payload in payloads.items()
        }

    def decode(self, step: int, a: Weights, payloads: Mapping[int, Buffer]) -> Weights:
        """See :class:`gcdl.protocol.model_slices.ModelSlices`."""
        self._others.decode(step, a, np.isin(np.arange(a.size), list(payloads)))
        own = self._own.decode(step, a, payloads)
        return np.concatenate([own, *self._others.squares()])

    def step(self, norm: float) -> None:
        """See :class:`gcdl.protocol.model_slices.ModelSlices`."""
        if self._own.clips:
            self._others.step(norm)
        self._own.step(norm)
        self._version += 1

    def collect(self, *, states: bool = False) -> None:
        """Bring :attr:`parameters` up to date with what the slice masters have."""
        if self._collected != self._version:
            for part, arrays in zip(self._parts[1:], self._others.collect(states=False), strict=True):
                self.parameters[part.where] = arrays[PARAMETERS]
            self._collected = self._version
        if states:
            self._collect_states()

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """See :class:`gcdl.protocol.model_slices.ModelSlices`."""
        own = self._own.optimizer.state(copied=False)
        sizes = [part.where.stop - part.where.start for part in self._parts]
        return join_arrays([own, *(_named(arrays, OPTIMIZER) for arrays in self._collect_states())], sizes)

    def downlink_state(self) -> dict[str, np.ndarray]:
        """See :class:`gcdl.protocol.model_slices.ModelSlices`."""
        own = self._own.downlink_state()
        return join_downlink(self._parts, [own, *(_named(arrays, DOWNLINK) for arrays in self._collect_states())])

    def load(
        self, step: int, parameters: Vector, optimizer: Mapping[str, np.ndarray], downlink: Mapping[str, np.ndarray]
    ) -> None:
        """See :class:`gcdl.protocol.model_slices.ModelSlices`."""
        pieces = [cut_state(part, parameters, optimizer, downlink) for part in self._parts]
        self.parameters[:] = parameters
        self._own.load(step, *pieces[0])
        self._loaded = [slice_arrays(*piece) for piece in pieces[1:]]
        self._version = self._collected = step
        self._states = (step, self._loaded)

    def _collect_states(self) -> list[dict[str, np.ndarray]]:
        version, arrays = self._states
        if version != self._version:
            arrays = self._others.collect(states=True)
            self._states = (self._version, arrays)
        return arrays


def slice_arrays(
    parameters: Vector, optimizer: Mapping[str, np.ndarray], downlink: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return what a slice master is sent of a checkpoint, by name."""
    return {
        PARAMETERS: parameters,
        **{f"{OPTIMIZER}{name}": array for name, array in optimizer.items()},
        **{f"{DOWNLINK}{name}": array for name, array in downlink.items()},
    }


def _named(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
