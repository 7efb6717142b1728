"""What a model must not do when its shards' gradients are added up: depend on what a sample is batched with, or keep notes."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from gcdl.errors import ParameterError


def refuse_what_mixes_samples(module: nn.Module) -> None:
    """Raise ParameterError if a layer makes a sample's gradient depend on its batch; names the layer and what to take."""
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


def draws_numbers(module: nn.Module) -> bool:
    """Say whether some layer of torch's own draws random numbers in training."""
    return any(
        (isinstance(layer, _DropoutNd) and layer.p > 0.0)
        or isinstance(layer, nn.RReLU | nn.FractionalMaxPool2d | nn.FractionalMaxPool3d)
        or (isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.dropout > 0.0)
        for layer in module.modules()
    )
