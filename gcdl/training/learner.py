"""The master's side of learning: what decodes the replies, owns the model, publishes it, evaluates it and saves it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gcdl.config import Experiment
from gcdl.downlinks import Publisher, Steps
from gcdl.problems import Evaluator
from gcdl.protocol.master import Decodes
from gcdl.training.build import make_publisher
from gcdl.training.run_files import MODEL
from gcdl.types import Layout, Vector


@dataclass(frozen=True)
class Learner:
    """What the master needs to learn; of a timing-only simulation, stand-ins (:mod:`gcdl.training.timing_only`).

    Attributes
    ----------
    codec : decodes replies.
    optimizer : owns the (d,) parameters.
    evaluator : evaluates a model.
    downlink : steps the optimizer and publishes the model.
    layout : the model's tensors.
    learns : whether there is a model, to be checkpointed and fingerprinted; False: only the clock runs.
    save : writes parameters, (d,), to a file for plain torch; None: nothing can be saved.
    """

    codec: Decodes
    optimizer: Steps
    evaluator: Evaluator
    downlink: Publisher
    layout: Layout
    learns: bool = True
    save: Callable[[Vector, Path], None] | None = None

    @classmethod
    def of(cls, experiment: Experiment, evaluator: Evaluator) -> Learner:
        """Return the learner that an experiment describes."""
        layout = experiment.problem.layout()
        codec = experiment.compressor.codec(layout)
        optimizer = experiment.optimizer.build(experiment.problem.initial_parameters())
        publisher = make_publisher(experiment, codec, optimizer)
        return cls(codec, optimizer, evaluator, publisher, layout, save=experiment.problem.save)

    def write_model(self, folder: Path, say: Callable[[str], None]) -> None:
        """Write the model for use without gcdl. A full disk does not end a run: the model is in the checkpoint too."""
        if self.save is None:
            return
        draft = folder / f".{MODEL}.draft"
        try:
            self.save(self.optimizer.parameters, draft)
            draft.replace(folder / MODEL)
        except (OSError, RuntimeError) as error:  # torch has its own way to say that a disk is full
            why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            say(f"{folder / MODEL}: not written: {why}; the checkpoint has the model")
            with suppress(OSError):
                draft.unlink(missing_ok=True)
