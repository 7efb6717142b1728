"""Finds a forward pass that writes the model's parameters or buffers.

A worker's parameters are views of what the master sent. It would go on with values that nobody else has, and the master
would never hear of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from gcdl.errors import ParameterError

if TYPE_CHECKING:
    from torch import nn


class WriteCheck:
    """Compares tensors' versions before and after a pass; torch counts each write in place.

    Parameters
    ----------
    module : the model. Its frozen parameters are watched too.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._parameters = list(module.named_parameters())
        self._buffers = [layer._buffers for layer in module.modules() if layer._buffers]

    def versions(self) -> list[tuple[int, int]]:
        """Return the identity and the version of every parameter and buffer. Walks no modules: it is called twice a pass."""
        found = [(id(tensor), tensor._version) for _, tensor in self._parameters]
        return found + [(id(one), one._version) for own in self._buffers for one in own.values() if one is not None]

    def refuse_writes(self, before: list[tuple[int, int]]) -> None:
        """Compare with the :meth:`versions` before a pass.

        Raises
        ------
        ParameterError : the pass wrote a parameter or a buffer; names it and its layer.
        """
        if before == self.versions():
            return
        known = set(before)
        tensors = [*self._parameters, *self._module.named_buffers()]
        self.refuse(next((name for name, tensor in tensors if (id(tensor), tensor._version) not in known), "that was removed"))

    def refuse(self, name: str) -> NoReturn:
        """Raise a ParameterError that names a parameter or buffer that a pass wrote, its layer, and what to do."""
        if all(name != other for other, _ in self._parameters):
            raise ParameterError(
                f"buffer {name!r} of the model changes in the forward pass; only parameters travel: "
                "make it a parameter, or compute it anew in each pass"
            )
        layer, _, own = name.rpartition(".")
        kind = type(self._module.get_submodule(layer)).__name__
        where = f"layer {layer!r} ({kind})" if layer else f"the model ({kind})"
        raise ParameterError(
            f"{where} writes its parameter {own!r} in the forward pass; only the optimizer may change parameters: "
            "compute a new tensor from it instead"
        )
