"""What all couplings share: one half of the coordinates moves by what the other half says."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor

from pyro_nf.flows.flow import Flow
from pyro_nf.flows.nets import MLP

__all__ = ["Coupling", "Mix"]

Mix = Literal["riffle", "permutation", "orthogonal"]


class Coupling(Flow):
    r"""Half of the coordinates move, each by a map whose numbers a network of the others gives.

    .. math::
        (y_1, y_2) = (x_1, g(x_2; \theta(x_1))), \qquad
        \log \det = \sum_i \log g'(x_{2, i}; \theta_i)

    With a mixing Q the halves are taken of :math:`Q x`, and the result is turned back:
    :math:`y = Q^\top f(Q x)`. It is a fixed random permutation or orthogonal matrix, or a riffle,
    for which every pair of a stack has as its first half each second coordinate of the pair
    before: after log2 D pairs any two coordinates have been in different halves. In one dimension
    all coordinates move, and the numbers are constants. A kind of coupling says what g is.

    References:
        NICE: Non-linear Independent Components Estimation (Dinh et al., 2014)
        https://arxiv.org/abs/1410.8516

        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015), the mixings
        https://arxiv.org/abs/1505.05770

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context which the network sees too.
        numbers: How many numbers the map g takes for each coordinate.
        hidden: The sizes of the network's hidden layers.
        flip: Whether the first half moves, not the second.
        mix: The mixing, ``"riffle"``, ``"permutation"`` or ``"orthogonal"``; None for the plain
            halves.
        after: The coupling before this one in a stack, if any, and if `flip` is not given: the
            other half moves then, of the same mixing, so that two layers move everything.
        kinks: The spread of the network's first biases, see :class:`~pyro_nf.flows.MLP`.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        numbers: int,
        hidden: Sequence[int],
        flip: bool,
        mix: Mix | None,
        after: "Coupling | None",
        kinks: float,
    ) -> None:
        super().__init__(dim, context_dim)
        if after is not None and not isinstance(after, Coupling):
            raise ValueError(f"after must be the coupling before this one, got {after!r}")
        self.flip: bool = dim > 1 and (flip if after is None else not after.flip)
        first = dim // 2
        seen, moved = (dim - first, first) if self.flip else (first, dim - first)
        self.sizes = [first, dim - first]
        self.net = MLP(seen, moved * numbers, hidden, context_dim, kinks)
        self.mixing: Tensor | None  # an order of the coordinates, or a matrix
        self.register_buffer("mixing", None if mix is None else self._mixing(mix, after))

    def _mixing(self, mix: str, after: "Coupling | None") -> Tensor | None:
        """An order, with shape ``(D,)``, or a matrix, ``(D, D)``; None for the plain halves."""
        before = None if after is None else after.mixing
        if mix == "riffle":
            plain = torch.arange(self.dim)
            order = plain if before is None else before
            if after is not None and not self.flip:
                odd = self.dim % 2  # the first half is the smaller one
                order = torch.cat([order[odd::2], order[1 - odd :: 2].flip(0)])
            return None if torch.equal(order, plain) else order
        if mix not in ("permutation", "orthogonal"):
            raise ValueError(
                f'mix must be "riffle", "permutation", "orthogonal" or None, got {mix!r}'
            )
        if self.flip and before is not None:
            return before.clone()
        if mix == "permutation":
            return torch.randperm(self.dim)
        return torch.linalg.qr(torch.randn(self.dim, self.dim))[0]

    @abstractmethod
    def move(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        """The value of g, and the logarithm of its slope; None for a slope of one.

        Arguments:
            x: With shape ``(*, n)``.
            theta: What the network gives, with shape ``(*, n * numbers)``.
        """

    @abstractmethod
    def back(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        """The inverse of g, and the logarithm of its slope; None for a slope of one."""

    @abstractmethod
    def pull(self, x: Tensor, theta: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        r"""The score s of g's value, and the gradient in theta of :math:`\log g' + s g`."""

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        still, moving = self._split(x, context)
        return self._join(still, *self.move(moving, self.net(still, context)))

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        still, moving = self._split(y, context)
        return self._join(still, *self.back(moving, self.net(still, context)))

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        still, moving = self._split(x, context)
        theta, units = self.net.forward_and_units(still, context)
        y, log_det = self._join(still, *self.move(moving, theta))
        with torch.no_grad():
            of_still, of_moving = self._split(score, context)
            of_moving, gradient = self.pull(moving, theta, of_moving)
            of_still = of_still - self.net.pull(gradient, units)
            score = self._join(of_still, of_moving, None)[0]
        return y, log_det, score

    def _split(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The half that stays and the half that moves."""
        if context is not None:  # one point may meet many contexts
            x = x.expand(*broadcast_shape(x.shape[:-1], context.shape[:-1]), -1)
        mixed = x
        if self.mixing is not None:
            order = self.mixing.dim() == 1
            mixed = x.gather(-1, self.mixing.expand_as(x)) if order else x @ self.mixing.mT
        first, second = mixed.split(self.sizes, -1)
        return (second, first) if self.flip else (first, second)

    def _join(
        self, still: Tensor, moved: Tensor, log_slope: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The halves as one vector, and the log-determinant."""
        y = torch.cat([moved, still] if self.flip else [still, moved], -1)
        if self.mixing is not None:
            if self.mixing.dim() == 1:
                y = torch.zeros_like(y).scatter(-1, self.mixing.expand_as(y), y)
            else:
                y = y @ self.mixing
        return y, y.new_zeros(y.shape[:-1]) if log_slope is None else log_slope.sum(-1)

    def _apply(self, *args: Any, **kwargs: Any) -> "Coupling":
        super()._apply(*args, **kwargs)
        if (
            self.mixing is not None and self.mixing.dim() == 2
        ):  # float32 cast to float64 is orthogonal to 1e-7 only
            for _ in range(2):
                self.mixing = 1.5 * self.mixing - 0.5 * self.mixing @ (self.mixing.mT @ self.mixing)
        return self

    def extra_repr(self) -> str:
        return super().extra_repr() + (", flip=True" if self.flip else "")
