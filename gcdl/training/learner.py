"""The master's side of learning: what decodes the replies, owns the model, publishes it, evaluates it and saves it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gcdl.compressors import Codec
from gcdl.config import Experiment
from gcdl.problems import Evaluator
from gcdl.protocol.model_slices import ModelSlices
from gcdl.training.run_files import MODEL
from gcdl.training.slices import masters_of
from gcdl.types import Layout, Vector


@dataclass(frozen=True)
class Learner:
    """What the master needs to learn; of a timing-only simulation, stand-ins (:mod:`gcdl.training.timing_only`).

    Attributes
    ----------
    slices : the model: they decode, step the optimizer and publish.
    state_bytes : the size of a compressor's state; 0: it has none.
    evaluator : evaluates a model.
    layout : the model's tensors.
    learns : whether there is a model, to be checkpointed and fingerprinted; False: only the clock runs.
    save : writes parameters, (d,), to a file for plain torch; None: nothing can be saved.
    """

    slices: ModelSlices
    state_bytes: int
    evaluator: Evaluator
    layout: Layout
    learns: bool = True
    save: Callable[[Vector, Path], None] | None = None

    @classmethod
    def of(cls, experiment: Experiment, codec: Codec, evaluator: Evaluator, slices: ModelSlices) -> Learner:
        """Return the learner of an experiment; ``codec``: of whole payloads."""
        problem = experiment.problem
        return cls(slices, codec.state_bytes, evaluator, problem.layout(), save=problem.save)

    def masters(self, experiment: Experiment) -> int:
        """Return how many masters share the model."""
        return masters_of(self.layout.size, experiment.config.run.masters)

    def divisible(self, experiment: Experiment) -> bool:
        """Say whether more masters could share the model."""
        masters = self.masters(experiment)
        return masters_of(self.layout.size, masters + 1) > masters

    def parameters(self) -> Vector:
        """Return the parameters of the whole model, (d,), as they are now."""
        self.slices.collect()
        return self.slices.parameters

    def write_model(self, folder: Path) -> str | None:
        """Write the model for use without gcdl; return why that did not work, None: it did."""
        if self.save is None:
            return None
        draft = folder / f".{MODEL}.draft"
        try:
            self.save(self.parameters(), draft)
            draft.replace(folder / MODEL)
        except (OSError, RuntimeError) as error:  # torch has its own way to say that a disk is full
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            return getattr(error, "strerror", None) or str(error).partition("\n")[0]
        return None
