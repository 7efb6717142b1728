"""Which layers cannot be trained shard by shard, and which draw random numbers. Found by their types, before any pass."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from gcdl.errors import ParameterError


def refuse_unsuitable_layers(module: nn.Module) -> None:
    """Look for layers whose shard gradients cannot be added up, or that write their parameters.

    Raises
    ------
    ParameterError : there is one; names it, and what to take instead.
    """
    for name, layer in module.named_modules():
        where = f"layer {name!r} ({type(layer).__name__})" if name else f"the model ({type(layer).__name__})"
        if isinstance(layer, _InstanceNorm):
            if layer.track_running_stats:
                raise ParameterError(f"{where} keeps running statistics, which stay on the workers; track_running_stats=False")
        elif isinstance(layer, _BatchNorm):
            raise ParameterError(
                f"{where} makes a sample's gradient depend on what it is batched with, so holders of a shard would disagree; "
                "take GroupNorm or LayerNorm"
            )
        elif isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None:
            raise ParameterError(
                f"{where} writes its rows in the forward pass (max_norm = {layer.max_norm:g}); only the optimizer may change "
                "parameters: leave max_norm out, and scale the rows that it returns"
            )


def draws_numbers(module: nn.Module) -> bool:
    """Return whether some layer of torch's own draws random numbers in training."""
    return any(
        (isinstance(layer, _DropoutNd) and layer.p > 0.0)
        or isinstance(layer, nn.RReLU | nn.FractionalMaxPool2d | nn.FractionalMaxPool3d)
        or (isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.dropout > 0.0)
        for layer in module.modules()
    )
