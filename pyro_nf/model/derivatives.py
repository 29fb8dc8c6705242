"""First and second derivatives of a loss in some parameters, where the numerics allow them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_nf.model.failures import NUMERICS

__all__ = ["bends", "slopes"]


def slopes(loss: Callable[[], Tensor], leaves: Sequence[Tensor]) -> Tensor:
    """The gradient of a loss, of shape ``(P,)``; NaN where the numerics fail.

    Arguments:
        loss: Gives a scalar.
        leaves: What it depends on, or not, of P numbers together.
    """
    try:
        return _gradient(loss(), leaves)
    except NUMERICS:
        return torch.cat([torch.full_like(leaf, torch.nan).reshape(-1) for leaf in leaves])


def bends(loss: Callable[[], Tensor], leaves: Sequence[Tensor]) -> Tensor:
    """The diagonal of its Hessian, of shape ``(P,)``; zero where there is none."""
    try:
        slope = _gradient(loss(), leaves, create_graph=True)
        rows = [_gradient(part, leaves, retain_graph=True) for part in slope]
    except NUMERICS:  # or an operation has no second derivative
        return torch.zeros(sum(leaf.numel() for leaf in leaves))
    return torch.stack(rows).diagonal()


def _gradient(
    value: Tensor, leaves: Sequence[Tensor], create_graph: bool = False, retain_graph: bool = False
) -> Tensor:
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if value.requires_grad:
        found = torch.autograd.grad(
            value,
            list(leaves),
            create_graph=create_graph,
            retain_graph=create_graph or retain_graph,
            allow_unused=True,
        )
    return torch.cat(
        [
            (torch.zeros_like(leaf) if part is None else part).reshape(-1)
            for leaf, part in zip(leaves, found, strict=True)
        ]
    )
