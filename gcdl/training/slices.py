"""Building the slices of a model: for one master or several, here or one a rank."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gcdl.compressors import Codec
from gcdl.compressors.parts import Part, cut_layout, part_of, slices_of
from gcdl.config import Experiment
from gcdl.downlinks import Ends
from gcdl.protocol.model_slices import LocalSlices, ModelSlice
from gcdl.training.build import make_ends
from gcdl.training.slice_messages import MasterSlice
from gcdl.types import Vector, aligned_vector


def masters_of(d: int, masters: int) -> int:
    """Return how many masters share d coordinates where so many are asked for: fewer where d has fewer BLOCKs; one at least."""
    return len(slices_of(d, max(1, masters)))


def idle_masters_notice(d: int, masters: int) -> str | None:
    """Return what to say where more masters are asked for than the model has BLOCKs; None: all have something to do."""
    used = masters_of(d, masters)
    if used == masters:
        return None
    enough = f"{used} master" if used == 1 else f"{used} masters"
    return f"run.masters = {masters}: the model has {d:,} parameters, enough for {enough}; the others have nothing to do"


def parts_for(codec: Codec, d: int, masters: int) -> list[Part] | None:
    """Return the parts of a codec for vectors of d coordinates that so many masters decode; None: one decodes them whole.

    There are fewer parts than ``masters`` where d has fewer BLOCKs.

    Raises
    ------
    ParameterError : the codec can't be cut.
    """
    found = slices_of(d, masters)
    return None if len(found) == 1 else [part_of(codec, where) for where in found]


def whole_model_bytes(experiment: Experiment, part: Part) -> int:
    """Return the bytes of a slice's model, where tasks carry the whole of it; 0: workers hold replicas."""
    size = part.where.stop - part.where.start
    return 0 if experiment.downlink.replicas else experiment.downlink.size(size, 0, 0, [])


def slice_ends(ends: Ends, part: Part, memory: Vector | None = None) -> Ends:
    """Return what both ends of a slice's downlink know; ``memory``: where the model of the slice is to lie, if anywhere."""
    return replace(
        ends,
        layout=cut_layout(ends.layout, part.where),
        initial=lambda: ends.initial()[part.where],
        codec=part.codec,
        memory=memory,
    )


def one_of_the_slices(experiment: Experiment, ends: Ends, parameters: Vector) -> ModelSlice:
    """Return a slice at its master; ``ends``: the slice's, ``parameters``: the slice's, which its optimizer steps."""
    optimizer = ends.recipe.build(parameters)
    return ModelSlice(
        codec=ends.codec,
        optimizer=optimizer,
        publisher=experiment.downlink.publisher(ends, optimizer),
        seed=experiment.config.seed,
        shifts=ends.shifts,
        finish=ends.finish,
    )


def local_slices(experiment: Experiment, codec: Codec, masters: int = 1) -> LocalSlices:
    """Return all slices of the model in this process; ``codec`` decodes what the master decodes."""
    return slices_of_masters(experiment, codec, masters)[0]


def slices_of_masters(experiment: Experiment, codec: Codec, masters: int) -> tuple[LocalSlices, list[MasterSlice]]:
    """As :func:`local_slices`; also returns what a simulation of several masters asks of each: nothing, where there is one."""
    code = experiment.code
    ends = make_ends(experiment, codec, code.shifts, code.decoder)
    parameters = ends.initial()
    parts = parts_for(codec, parameters.size, masters)
    if parts is None:
        whole = one_of_the_slices(experiment, ends, parameters)
        return LocalSlices([whole], None, parameters, whole.publisher.model), []
    model = aligned_vector(parameters.size)
    slices = [
        one_of_the_slices(experiment, slice_ends(ends, part, model[part.where]), parameters[part.where]) for part in parts
    ]
    if all(np.shares_memory(piece.publisher.model, parameters) for piece in slices):
        model = parameters  # nothing is rounded: workers compute at the parameters themselves
    shown = [MasterSlice(part, piece.publisher) for part, piece in zip(parts, slices, strict=True)]
    return LocalSlices(slices, parts, parameters, model), shown
