"""Models made of other models: a sum of several, and a delay before sending instead of before computing."""

from __future__ import annotations

import numpy as np

from gcdl.errors import ParameterError
from gcdl.stragglers.base import AnyModel, Delays, StepKey, drawn


class SumOfModels:
    """All of ``models`` at once: delays add up, speed factors multiply. Each draws numbers of its own, keyed by its place."""

    def __init__(self, *, models: tuple[AnyModel, ...]) -> None:
        if not models:
            raise ParameterError("models: a sum needs at least one model ([[stragglers.models]])")
        self.models = models

    def delays_at(self, n: int, key: StepKey) -> Delays:
        """Return the sum of the parts."""
        compute, send, factor = np.zeros(n), np.zeros(n), np.ones(n)
        for place, model in enumerate(self.models):
            # The first draws what it would draw alone.
            part = drawn(model, n, StepKey(key.seed, key.step, (*key.place, place)) if place else key)
            compute += part.before_compute
            send += part.before_send
            factor *= part.factor
        return Delays.of(n, compute=compute, send=send, factor=factor)


class BeforeSending:
    """The delays of ``model``, after computing instead of before."""

    def __init__(self, model: AnyModel) -> None:
        self.model = model

    def delays_at(self, n: int, key: StepKey) -> Delays:
        """Return the same seconds at the other place."""
        part = drawn(self.model, n, key)
        return Delays.of(n, send=part.before_compute + part.before_send, factor=part.factor)
