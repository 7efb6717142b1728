"""The model at its masters: one slice, or several. A slice decodes, steps its optimizer and publishes what tasks carry.

With K masters the coordinates are cut into K slices at multiples of the kernels' BLOCK. Optimizers and codecs work coordinate
by coordinate, so slices give the model that one master gives. What needs all coordinates is summed over BLOCKs in their order:
the norm of the gradient, and the energies that an MMSE decoder goes by. So any K gives the same numbers, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcdl.codes import GradientCode
from gcdl.compressors import Draw, Message
from gcdl.compressors.kernels import blocks
from gcdl.compressors.parts import Part
from gcdl.downlinks import Content, Publisher, Steps, WholePublisher
from gcdl.types import Buffer, IntVector, Vector, Weights, aligned_buffer, aligned_vector

AGREED = "agreed"


class Decodes(Protocol):
    """What a slice needs of a codec."""

    payload_bytes: int
    agreed_count: int

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """See :class:`gcdl.compressors.Codec`."""
        ...

    def agree(self, payloads: Sequence[Buffer]) -> Vector | None:
        """See :class:`gcdl.compressors.Codec`."""
        ...

    def energies(self, payload: Buffer, agreed: Vector | None = None) -> NDArray[np.float64]:
        """See :class:`gcdl.compressors.Codec`."""
        ...


class ModelSlice:
    """One slice at its master.

    Parameters
    ----------
    codec : decodes payloads of the slice.
    optimizer : owns the slice's parameters, (d,).
    publisher : steps the optimizer, and has what a task carries.
    seed : the run's.
    shifts : (n,) places of the workers under correlated dither.
    finish : what the code's decoder does to the sum of the messages.
    """

    def __init__(
        self,
        *,
        codec: Decodes,
        optimizer: Steps,
        publisher: Publisher,
        seed: int,
        shifts: IntVector,
        finish: Callable[[Vector], None],
    ) -> None:
        self.codec = codec
        self.optimizer = optimizer
        self.publisher = publisher
        self.agreed: Vector | None = None
        """(G,): the scales that the workers use in the next step, where they agree on some."""
        self._seed = seed
        self._shifts = shifts
        self._finish = finish
        self._gradient = aligned_vector(optimizer.parameters.size)
        self._payloads: Mapping[int, Buffer] = {}
        self._messages: list[Message] = []
        self._a: Weights = np.zeros(0)

    @property
    def lr(self) -> float | None:
        """The learning rate of the next step; None where the optimizer tells none."""
        return getattr(self.optimizer, "lr", None)

    @property
    def clips(self) -> bool:
        """Whether the optimizer's step needs the norm of the whole gradient."""
        return getattr(self.optimizer, "clip_norm", 0.0) > 0.0

    def energies(self, payloads: Mapping[int, Buffer]) -> dict[int, NDArray[np.float64]]:
        """Return the energies behind each worker's payload, (blocks, 2); see :class:`gcdl.compressors.Codec`."""
        return {worker: self.codec.energies(payload, self.agreed) for worker, payload in payloads.items()}

    def decode(self, step: int, a: Weights, payloads: Mapping[int, Buffer]) -> Weights:
        """Decode the payloads, by worker in ascending order, with weights a, (n,).

        Returns the squared norm of each BLOCK of the gradient, (blocks,).
        """
        self._payloads, self._a = payloads, a
        self._messages = [
            Message(payload, float(a[i]), Draw(self._seed, step, i, int(self._shifts[i]), self.agreed))
            for i, payload in payloads.items()
            if a[i] != 0.0
        ]
        self.codec.decode(self._messages, self._gradient)
        self._finish(self._gradient)
        return squares_by_block(self._gradient)

    def step(self, norm: float) -> None:
        """Take the optimizer's step with the decoded gradient; ``norm``: of the gradient of the whole model."""
        self.publisher.step(self._gradient, self._messages, self._a, norm)
        if self._payloads and self.codec.agreed_count:
            self.agreed = self.codec.agree(list(self._payloads.values()))

    def downlink_state(self) -> dict[str, np.ndarray]:
        """Return copies of what the next tasks depend on, beside the parameters, by name."""
        agreed = {} if self.agreed is None else {AGREED: self.agreed.copy()}
        return {**self.publisher.state(), **agreed}

    def load(
        self, step: int, parameters: Vector, optimizer: Mapping[str, np.ndarray], downlink: Mapping[str, np.ndarray]
    ) -> None:
        """Go on after ``step`` steps with what :class:`ModelSlices` returned of this slice."""
        self.optimizer.parameters[:] = parameters
        self.optimizer.load(optimizer)
        arrays = dict(downlink)
        self.agreed = arrays.pop(AGREED, None)
        self.publisher.load(arrays)
        self.publisher.restart(step)


class ModelSlices(Protocol):
    """All slices, as the master sees them that decides."""

    parameters: Vector
    """(d,): of the whole model, as of the last :meth:`collect`."""
    model: Vector
    """(d,): what a task of a simulation carries. Over MPI the workers have their own."""

    @property
    def content(self) -> Content:
        """What a task carries."""
        ...

    @property
    def lr(self) -> float | None:
        """The learning rate of the next step; None where the optimizer tells none."""
        ...

    @property
    def agreed(self) -> Vector | None:
        """(G,): the scales agreed on of the slices here."""
        ...

    def energies(self, step: int, payloads: Mapping[int, Buffer]) -> dict[int, NDArray[np.float64]]:
        """Return the energies behind each reply, (blocks, 2), the blocks of all slices in their order."""
        ...

    def identities(self, step: int, payloads: Mapping[int, Buffer]) -> Mapping[int, Buffer]:
        """Return bytes for each reply that are equal where all slices of two replies are."""
        ...

    def decode(self, step: int, a: Weights, payloads: Mapping[int, Buffer]) -> Weights:
        """Let every slice decode its part of these replies, by worker in ascending order, with weights a, (n,).

        Returns the squared norm of each BLOCK of the gradient, (blocks,).
        """
        ...

    def step(self, norm: float) -> None:
        """Let every slice take its optimizer's step, and publish the next version of the model."""
        ...

    def collect(self, *, states: bool = False) -> None:
        """Bring :attr:`parameters` up to date; with ``states`` also fetch what the two methods below return.

        After the transport is closed nothing can be fetched any more.
        """
        ...

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """Return the optimizer's arrays, of all coordinates, by name. They may change in the next :meth:`step`."""
        ...

    def downlink_state(self) -> dict[str, np.ndarray]:
        """Return copies of what the next step's tasks depend on, beside the parameters, by name."""
        ...

    def load(
        self, step: int, parameters: Vector, optimizer: Mapping[str, np.ndarray], downlink: Mapping[str, np.ndarray]
    ) -> None:
        """Go on after ``step`` steps, with the parameters, (d,), and the arrays that a checkpoint has of all coordinates."""
        ...


class LocalSlices:
    """All slices in this process: the one of a run with one master; or several, in a simulation.

    Parameters
    ----------
    slices : in their order.
    parts : how to cut payloads, one for each slice; None for a single slice, which takes them whole.
    parameters : (d,), of which the slices' optimizers step their parts.
    model : (d,), what the workers compute at; its parts are the publishers' models.
    """

    def __init__(self, slices: Sequence[ModelSlice], parts: Sequence[Part] | None, parameters: Vector, model: Vector) -> None:
        self.parameters = parameters
        self.model = model
        self._slices = slices
        self._parts = parts
        self._together: Content = _Together(slices)
        self._cut: list[dict[int, Buffer]] = [{} for _ in slices]

    @property
    def content(self) -> Content:
        """What a task carries: of all slices."""
        return self._slices[0].publisher.content if self._parts is None else self._together

    @property
    def lr(self) -> float | None:
        """The learning rate of the next step: of all slices."""
        return self._slices[0].lr

    @property
    def agreed(self) -> Vector | None:
        """(G,): the scales that the workers use in the next step, where they agree on some."""
        if self._parts is None:
            return self._slices[0].agreed
        return join_groups(self._parts, [piece.agreed for piece in self._slices])

    def energies(self, step: int, payloads: Mapping[int, Buffer]) -> dict[int, NDArray[np.float64]]:
        """See :class:`ModelSlices`."""
        found = [piece.energies(part) for piece, part in zip(self._slices, self._divided(payloads), strict=True)]
        return {worker: np.concatenate([energies[worker] for energies in found]) for worker in payloads}

    def identities(self, step: int, payloads: Mapping[int, Buffer]) -> Mapping[int, Buffer]:
        """Return the payloads themselves."""
        return payloads

    def decode(self, step: int, a: Weights, payloads: Mapping[int, Buffer]) -> Weights:
        """See :class:`ModelSlices`."""
        divided = self._divided(payloads)
        return np.concatenate([piece.decode(step, a, part) for piece, part in zip(self._slices, divided, strict=True)])

    def step(self, norm: float) -> None:
        """See :class:`ModelSlices`."""
        for piece in self._slices:
            piece.step(norm)

    def collect(self, *, states: bool = False) -> None:
        """Do nothing: the slices lie in :attr:`parameters`."""

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """See :class:`ModelSlices`."""
        return join_arrays([piece.optimizer.state(copied=False) for piece in self._slices], self._sizes())

    def downlink_state(self) -> dict[str, np.ndarray]:
        """See :class:`ModelSlices`."""
        states = [piece.downlink_state() for piece in self._slices]
        return states[0] if self._parts is None else join_downlink(self._parts, states)

    def load(
        self, step: int, parameters: Vector, optimizer: Mapping[str, np.ndarray], downlink: Mapping[str, np.ndarray]
    ) -> None:
        """See :class:`ModelSlices`."""
        if self._parts is None:
            self._slices[0].load(step, parameters, optimizer, downlink)
            return
        for piece, part in zip(self._slices, self._parts, strict=True):
            piece.load(step, *cut_state(part, parameters, optimizer, downlink))

    def _sizes(self) -> list[int]:
        return [piece.optimizer.parameters.size for piece in self._slices]

    def _divided(self, payloads: Mapping[int, Buffer]) -> list[Mapping[int, Buffer]]:
        """Cut payloads at the slices; the pieces lie in buffers that are used again in the next step."""
        if self._parts is None:
            return [payloads]
        divided: list[Mapping[int, Buffer]] = []
        for part, kept in zip(self._parts, self._cut, strict=True):
            for worker, payload in payloads.items():
                part.cut(payload, kept.setdefault(worker, aligned_buffer(part.codec.payload_bytes)))
            divided.append({worker: kept[worker] for worker in payloads})
        return divided


class _Together:
    """The contents of all slices: what a worker is sent in a step, by all masters."""

    def __init__(self, slices: Sequence[ModelSlice]) -> None:
        self.whole: Buffer | None = None
        self.version = 0  # nobody keeps one here
        self._slices = slices

    def nbytes(self, base: int) -> int:
        """Return the bytes for a worker that has version ``base``."""
        return sum(piece.publisher.content.nbytes(base) for piece in self._slices)

    def write(self, base: int, into: Buffer) -> None:
        """Never called: in a simulation nothing is written."""
        raise NotImplementedError


def one_slice(
    *, code: GradientCode, codec: Decodes, optimizer: Steps, seed: int, publisher: Publisher | None = None
) -> LocalSlices:
    """Return the model as the only slice of a run with one master.

    Parameters
    ----------
    code : of the run.
    codec : decodes whole payloads.
    optimizer : owns the (d,) parameters.
    seed : the run's.
    publisher : the master's end of the downlink; when left out, tasks carry the whole model.
    """
    whole = ModelSlice(
        codec=codec,
        optimizer=optimizer,
        publisher=WholePublisher(optimizer) if publisher is None else publisher,
        seed=seed,
        shifts=code.shifts,
        finish=code.decoder.finish,
    )
    return LocalSlices([whole], None, optimizer.parameters, whole.publisher.model)


def squares_by_block(gradient: Vector) -> Weights:
    """Return the squared norm of each BLOCK of a gradient, (blocks,): summed in float32 within a block."""
    with np.errstate(over="ignore", invalid="ignore"):  # a run may diverge
        return np.array([float(np.dot(gradient[where], gradient[where])) for where, _ in blocks(gradient.size)])


def norm_of(squares: Weights) -> float:
    """Return the norm of a gradient whose BLOCKs have these squared norms; NaN where there is no gradient (timing only)."""
    if not squares.size:
        return float("nan")
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.float32(sum(squares.tolist()))))


def join_arrays(states: Sequence[Mapping[str, np.ndarray]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Join the arrays of slices that have these sizes: arrays by coordinate end to end, others as the first slice has them."""
    if len(states) == 1:
        return dict(states[0])
    by_coordinate = {name for name, array in states[0].items() if array.shape == (sizes[0],)}
    return {
        name: np.concatenate([state[name] for state in states]) if name in by_coordinate else array
        for name, array in states[0].items()
    }


def join_downlink(parts: Sequence[Part], states: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join what :meth:`ModelSlice.downlink_state` returned of each slice."""
    sizes = [part.where.stop - part.where.start for part in parts]
    joined = join_arrays([{name: array for name, array in state.items() if name != AGREED} for state in states], sizes)
    agreed = join_groups(parts, [state.get(AGREED) for state in states])
    return joined if agreed is None else {**joined, AGREED: agreed}


def join_groups(parts: Sequence[Part], agreed: Sequence[Vector | None]) -> Vector | None:
    """Return the scales of all groups, (G,), from those of each slice; slices that share a group have the same scale of it."""
    if any(scales is None for scales in agreed):
        return None
    joined = np.zeros(max(part.groups.stop for part in parts), dtype=np.float32)
    for part, scales in zip(parts, agreed, strict=True):
        joined[part.groups] = scales
    return joined


def cut_state(
    part: Part, parameters: Vector, optimizer: Mapping[str, np.ndarray], downlink: Mapping[str, np.ndarray]
) -> tuple[Vector, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a slice's part of the parameters, (d,), and of the arrays that go with them."""

    def cut(name: str, array: np.ndarray) -> np.ndarray:
        if name == AGREED:
            return array[part.groups]
        return array[part.where] if array.shape == parameters.shape else array

    return (
        parameters[part.where],
        {name: cut(name, array) for name, array in optimizer.items()},
        {name: cut(name, array) for name, array in downlink.items()},
    )
