"""Inverse autoregressive flows."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_nf.flows.flow import Flow
from pyro_nf.flows.formula import register
from pyro_nf.flows.nets import MaskedMLP

__all__ = ["IAF"]

MANY = 64  # dimensions up to which the Jacobians of all draws are small beside the network


@register("iaf")
class IAF(Flow):
    r"""An inverse autoregressive flow: each coordinate moves by what those before it say.

    .. math::
        y_i = e^{s_i} x_i + m_i, \qquad \log \det = \sum_i s_i, \qquad s_i = c \tanh(r_i / c)

    where a masked network gives :math:`m_i` and :math:`r_i` of :math:`x_1, \dots, x_{i-1}`. In a
    stack the order is reversed from layer to layer. The inverse finds one coordinate after the
    other, in D runs of the network. The paper's gates, :math:`g_i x_i + (1 - g_i) m_i`, are not
    for a posterior that starts narrow: while it widens, they open, which shuts m off for good.

    The Jacobian is triangular and dense; up to 64 dimensions it is formed, for each draw, in
    order to carry the score. Above, that would cost more than the flow itself.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
        https://arxiv.org/abs/1606.04934

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context which the network sees too.
        hidden: The sizes of the network's hidden layers.
        clamp: The bound c, a soft one, of the logarithm of the scale.
        flip: Whether the order is reversed.
        after: The layer before this one in a stack, if any, and if `flip` is not given: the order
            is the reverse of its.

    Example:
        >>> flow = IAF(4)
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
        after: "IAF | None" = None,
    ) -> None:
        super().__init__(dim, context_dim)
        if after is not None and not isinstance(after, IAF):
            raise ValueError(f"after must be the layer before this one, got {after!r}")
        if not (isinstance(clamp, int | float) and 0 < clamp < math.inf):
            raise ValueError(f"clamp must be a positive number, got {clamp!r}")
        self.clamp = float(clamp)
        self.flip: bool = flip if after is None else not after.flip
        order = torch.arange(1, dim + 1)
        self.net = MaskedMLP(order.flip(0) if self.flip else order, 2, hidden, context_dim)

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        m, s, _ = self._affine(x, context)
        return m + s.exp() * x, s.sum(-1)

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        m, s, units = self._affine(x, context)
        y = m + s.exp() * x
        with torch.no_grad():
            of_m, of_r = self.net.jacobian(units).chunk(2, -2)
            of_s = (1 - (s / self.clamp).square()).unsqueeze(-1) * of_r
            jacobian = torch.diag_embed(s.exp()) + of_m + (y - m).unsqueeze(-1) * of_s
            rest = (score - of_s.sum(-2)).unsqueeze(-1)
            carried = torch.linalg.solve_triangular(jacobian.mT, rest, upper=not self.flip)
        return y, s.sum(-1), carried.squeeze(-1)

    @property
    def carries_score(self) -> bool:
        return self.dim <= MANY

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        place = torch.arange(self.dim, device=y.device)
        x = torch.zeros_like(y)
        for known in range(self.dim):
            m, s, _ = self._affine(x, context)
            sure = place >= self.dim - 1 - known if self.flip else place <= known
            x = torch.where(sure, (y - m) * torch.exp(-s), 0.0)
        return x, -s.sum(-1)

    def _affine(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """m, s, and the network's units."""
        theta, units = self.net.forward_and_units(x, context)
        m, r = theta.chunk(2, -1)
        return m, self.clamp * torch.tanh(r / self.clamp), units

    def extra_repr(self) -> str:
        return super().extra_repr() + (", flip=True" if self.flip else "")
