"""Coupling flows: one half of the coordinates moves by what the other half says."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_nf.flow import Flow
from pyro_nf.nets import MLP
from pyro_nf.registry import register

__all__ = ["AdditiveCoupling"]


@register("additive_coupling", "nice")
class AdditiveCoupling(Flow):
    r"""An additive coupling: one half is shifted by a network of the other half.

    .. math::
        (y_1, y_2) = (x_1, x_2 + m(x_1)), \qquad \log \det = 0

    With a mixing Q, a fixed random permutation or orthogonal matrix, the halves are taken of
    :math:`Q x`, and the result is turned back: :math:`y = Q^\top f(Q x)`. In one dimension the
    flow is a shift.

    References:
        NICE: Non-linear Independent Components Estimation (Dinh et al., 2014)
        https://arxiv.org/abs/1410.8516

        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015), the mixings
        https://arxiv.org/abs/1505.05770

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context which the network sees too.
        hidden: The sizes of the network's hidden layers.
        flip: Whether the first half moves, not the second.
        mix: The mixing, ``"permutation"`` or ``"orthogonal"``; None for the plain halves.
        after: The coupling before this one in a stack, if any, and if `flip` is not given: the
            other half moves then, of the same mixing, so that two layers move everything.

    Example:
        >>> flow = AdditiveCoupling(4, mix="orthogonal")
        >>> x = torch.randn(5, 4)
        >>> y, log_det = flow.forward_and_log_det(x)
        >>> torch.allclose(flow.inverse_and_log_det(y)[0], x, atol=1e-5)
        True
    """

    def __init__(
        self,
        dim: int,
        context_dim: int = 0,
        hidden: Sequence[int] = (32, 32),
        flip: bool = False,
        mix: Literal["permutation", "orthogonal"] | None = None,
        after: "AdditiveCoupling | None" = None,
    ) -> None:
        super().__init__(dim, context_dim)
        if after is not None and not isinstance(after, AdditiveCoupling):
            raise ValueError(f"after must be the coupling before this one, got {after!r}")
        self.flip: bool = dim > 1 and (flip if after is None else not after.flip)
        first = dim // 2
        seen, moved = (dim - first, first) if self.flip else (first, dim - first)
        self.sizes = [first, dim - first]
        self.net = MLP(seen, moved, hidden, context_dim)
        self.mixing: Tensor | None
        mixing = None if mix is None else mixing_matrix(mix, dim)
        if mixing is not None and self.flip and after is not None and after.mixing is not None:
            mixing = after.mixing.clone()
        self.register_buffer("mixing", mixing)

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._shift(x, context, 1)

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._shift(y, context, -1)

    def _shift(self, x: Tensor, context: Tensor | None, sign: int) -> tuple[Tensor, Tensor]:
        if context is not None:  # one point may meet many contexts
            x = x.expand(*torch.broadcast_shapes(x.shape[:-1], context.shape[:-1]), -1)
        mixed = x if self.mixing is None else x @ self.mixing.mT
        first, second = mixed.split(self.sizes, -1)
        if self.flip:
            first = first + sign * self.net(second, context)
        else:
            second = second + sign * self.net(first, context)
        y = torch.cat([first, second], -1)
        y = y if self.mixing is None else y @ self.mixing
        return y, y.new_zeros(y.shape[:-1])

    def _apply(self, *args: Any, **kwargs: Any) -> "AdditiveCoupling":
        super()._apply(*args, **kwargs)
        if self.mixing is not None:  # float32 cast to float64 is orthogonal to 1e-7 only
            for _ in range(2):
                self.mixing = 1.5 * self.mixing - 0.5 * self.mixing @ (self.mixing.mT @ self.mixing)
        return self

    def extra_repr(self) -> str:
        return super().extra_repr() + (", flip=True" if self.flip else "")


def mixing_matrix(mix: str, dim: int) -> Tensor:
    """A random permutation matrix, or a random orthogonal matrix, of shape (D, D)."""
    if mix == "permutation":
        return torch.eye(dim)[torch.randperm(dim)]
    if mix == "orthogonal":
        return torch.linalg.qr(torch.randn(dim, dim))[0]
    raise ValueError(f'mix must be "permutation", "orthogonal" or None, got {mix!r}')
