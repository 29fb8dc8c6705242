"""Of a step's data, the tensors, and what a graph of the step takes for constant."""

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["constants_of", "tensors_of"]


def tensors_of(data: Any) -> list[Tensor]:
    """The tensors among the data."""
    return [item for item in pytree.tree_leaves(data) if isinstance(item, Tensor)]


def constants_of(data: Any, pinned: bool) -> tuple[Any, ...]:
    """What must be the same in other data: shapes, numbers and objects.

    Arguments:
        data: The data.
        pinned: Whether the tensors themselves must be.
    """
    leaves, structure = pytree.tree_flatten(data)
    return structure, [
        (x.shape, x.dtype, x.device, id(x) if pinned else None)
        if isinstance(x, Tensor)
        else x
        if isinstance(x, bool | int | float | str | None)
        else id(x)
        for x in leaves
    ]
