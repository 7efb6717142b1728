"""Where PyTorch computes: ``problem.device`` = auto, cpu or cuda."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gcdl.errors import ParameterError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]


def choose(name: DeviceName, local_rank: int = 0) -> torch.device:
    """Return the device of a rank: several ranks of a host take its GPUs in turn.

    Parameters
    ----------
    name : auto: a GPU where there is one.
    local_rank : the rank's number among those of its host.

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
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def describe() -> str:
    """Say which GPUs PyTorch sees."""
    import torch

    if torch.version.cuda is None:
        return "built without CUDA: it computes on processors"
    if not torch.cuda.is_available():
        return f"built for CUDA {torch.version.cuda}, but there is no GPU, or no driver"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"CUDA {torch.version.cuda}, GPUs: {', '.join(names)}"
