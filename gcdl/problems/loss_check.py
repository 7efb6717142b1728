"""Finds a loss that is a sum over the samples, where training needs the mean."""

from __future__ import annotations

from gcdl.problems.nested import is_batch, join
from gcdl.problems.pass_context import PassContext
from gcdl.problems.samples import Batch
from gcdl.types import Vector


def sum_warning(context: PassContext, parameters: Vector, batch: Batch, size: int) -> str | None:
    """Return a warning if the loss of a batch that is given twice is twice that of the batch; else None.

    Parameters
    ----------
    context : the model and the loss.
    parameters : (d,), of the model.
    batch : ``size`` samples.
    """
    import torch

    context.module.bind(parameters)
    context.module.module.eval()
    inputs, target = context.prepared(batch)
    with torch.no_grad(), context.seeded():
        output = context.call(inputs, target)
        if not (is_batch(output, size) and is_batch(target, size)):
            return None
        once = float(context.score_loss(output, target))
        twice = float(context.score_loss(join([output, output]), join([target, target])))
    if once == 0.0 or not abs(twice / once - 2.0) < 1e-3:
        return None
    return (
        "loss: it is a sum over the samples (the same samples given twice have twice the loss), so gradients grow with the "
        "batch; take the mean (reduction='mean')"
    )
