"""Where PyTorch computes, ``problem.device``, and in which precision, ``problem.autocast``.

On a GPU the parameters are copied there once a step. Gradients and residuals stay there, and the compressor packs there: d/8
bytes come back. A compressor of the user's own may not be able to: then the gradient is copied to the host.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from gcdl.errors import ParameterError
from gcdl.host.launcher_environment import Launch

if TYPE_CHECKING:
    import torch

    from gcdl.problems.flat import FlatModule

DeviceName = Literal["auto", "cpu", "cuda"]
AutocastName = Literal["bfloat16"]


def choose(name: DeviceName) -> torch.device:
    """Return this rank's device: the ranks of a host take its GPUs in turn, and share them if there are fewer.

    Parameters
    ----------
    name : auto: a GPU where there is one.

    Raises
    ------
    ParameterError : cuda where PyTorch sees no GPU.
    """
    import torch

    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ParameterError(
            f"problem.device: cuda, but PyTorch sees no GPU here ({describe()}); auto takes one where there is one"
        )
    return torch.device("cuda", Launch.read().local_rank % torch.cuda.device_count())


def autocast_block(device: torch.device, name: AutocastName | None) -> AbstractContextManager[object]:
    """Return a block in which torch computes in bfloat16 what it can safely (``torch.autocast``); None: in which it doesn't.

    Parameters and gradients stay what they are; a backward pass belongs outside the block.
    """
    import torch

    return nullcontext() if name is None else torch.autocast(device.type, dtype=torch.bfloat16)


def describe() -> str:
    """Say which GPUs PyTorch sees."""
    import torch

    if torch.version.cuda is None:
        return "built without CUDA: it computes on processors"
    if not torch.cuda.is_available():
        return f"built for CUDA {torch.version.cuda}, but there is no GPU, or no driver"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"CUDA {torch.version.cuda}, GPUs: {', '.join(names)}"


def placed(flat: FlatModule, device: torch.device) -> FlatModule:
    """Return the module where it is to compute."""
    if device.type == "cpu":
        return flat
    from gcdl.problems.device_module import DeviceModule

    return DeviceModule(flat, device)
