"""Additive and affine couplings."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_nf.flows.coupling import Coupling, Mix
from pyro_nf.flows.formula import register

__all__ = ["AdditiveCoupling", "AffineCoupling"]


@register("additive_coupling", "nice")
class AdditiveCoupling(Coupling):
    r"""An additive coupling: one half is shifted by a network of the other half.

    .. math::
        (y_1, y_2) = (x_1, x_2 + t(x_1)), \qquad \log \det = 0

    See :class:`Coupling` for the mixings. In one dimension the flow is a shift.

    References:
        NICE: Non-linear Independent Components Estimation (Dinh et al., 2014)
        https://arxiv.org/abs/1410.8516

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context which the network sees too.
        hidden: The sizes of the network's hidden layers.
        flip: Whether the first half moves, not the second.
        mix: The mixing, ``"riffle"``, ``"permutation"`` or ``"orthogonal"``; None for the plain
            halves.
        after: The coupling before this one in a stack, see :class:`Coupling`.
        kinks: The spread of the network's first biases, see :class:`~pyro_nf.flows.MLP`.

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
        mix: Mix | None = "riffle",
        after: Coupling | None = None,
        kinks: float = 0.0,
    ) -> None:
        super().__init__(dim, context_dim, 1, hidden, flip, mix, after, kinks)

    def move(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        return x + theta, None

    def back(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        return y - theta, None

    def pull(self, x: Tensor, theta: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        return score, score


@register("affine_coupling")
class AffineCoupling(Coupling):
    r"""An affine coupling: one half is scaled and shifted by a network of the other half.

    .. math::
        (y_1, y_2) = (x_1, e^{s(x_1)} x_2 + t(x_1)), \qquad \log \det = \sum_i s_i,
        \qquad s = c \tanh(r / c)

    The logarithm of the scale is bounded by c, softly, so that no step of an optimizer can make
    it overflow. See :class:`Coupling` for the mixings.

    References:
        Density estimation using Real NVP (Dinh, Sohl-Dickstein and Bengio, 2017)
        https://arxiv.org/abs/1605.08803

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context which the network sees too.
        hidden: The sizes of the network's hidden layers.
        clamp: The bound c.
        flip: Whether the first half moves, not the second.
        mix: The mixing, ``"riffle"``, ``"permutation"`` or ``"orthogonal"``; None for the plain
            halves.
        after: The coupling before this one in a stack, see :class:`Coupling`.
        kinks: The spread of the network's first biases, see :class:`~pyro_nf.flows.MLP`.

    Example:
        >>> flow = AffineCoupling(4)
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
        clamp: float = 3.0,
        flip: bool = False,
        mix: Mix | None = "riffle",
        after: Coupling | None = None,
        kinks: float = 0.0,
    ) -> None:
        super().__init__(dim, context_dim, 2, hidden, flip, mix, after, kinks)
        if not (isinstance(clamp, int | float) and 0 < clamp < math.inf):
            raise ValueError(f"clamp must be a positive number, got {clamp!r}")
        self.clamp = float(clamp)

    def move(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, log_scale = self._affine(theta)
        return torch.addcmul(shift, log_scale.exp(), x), log_scale

    def back(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        shift, log_scale = self._affine(theta)
        return (y - shift) * torch.exp(-log_scale), -log_scale

    def pull(self, x: Tensor, theta: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        _, log_scale = self._affine(theta)
        of_y = score / log_scale.exp()
        # d(s + of_y e^s x) / ds = 1 + score x, and ds / dr = 1 - (s / c)^2
        clamped = (1 + score * x) * (1 - (log_scale / self.clamp).square())
        return of_y, torch.cat([of_y, clamped], -1)

    def _affine(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = theta.chunk(2, -1)
        return shift, self.clamp * torch.tanh(raw / self.clamp)
