"""Planar flows."""

import math

import torch
from torch import Tensor
from torch.nn.functional import elu

from pyro_nf.flow import Flow
from pyro_nf.nets import SMALL, Params
from pyro_nf.registry import register

__all__ = ["Planar"]

MARGIN = 1e-3  # w . u_hat stays above -1 + MARGIN, so that rounding cannot close the gap
MAX_NEWTON = 100  # the iteration is monotone; ten suffice unless w . u_hat is extreme


@register("planar")
class Planar(Flow):
    r"""A planar flow: space is stretched along one direction, across one soft plane.

    .. math::
        y = x + \hat u \tanh(w \cdot x + b), \qquad
        \log \det = \log(1 + (w \cdot \hat u) (1 - \tanh^2(w \cdot x + b)))

    It is invertible if and only if :math:`w \cdot \hat u > -1`. The paper projects :math:`u`
    onto that half-space along :math:`w`; here with an ELU, which changes nothing where
    nothing needs to be changed, so that :math:`u = 0` is the identity and :math:`w = 0` is safe:

    .. math::
        \hat u = u + (m(w \cdot u) - w \cdot u) \frac{w}{\|w\|^2}, \qquad
        m(a) = \max(a, 0) + (1 - 10^{-3}) \min(e^a - 1, 0)

    References:
        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015)
        https://arxiv.org/abs/1505.05770

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context on which u, w and b depend.

    Example:
        >>> flow = Planar(3)
        >>> x = torch.randn(5, 3)
        >>> y, log_det = flow.forward_and_log_det(x)
        >>> torch.allclose(flow.inverse_and_log_det(y)[0], x, atol=1e-5)
        True
    """

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__(dim, context_dim)
        # Planes of unit steepness in all directions; u alone makes the start an identity.
        self.params = Params(
            context_dim,
            w=torch.randn(dim) / math.sqrt(dim),
            u=SMALL * torch.randn(dim) / math.sqrt(dim),
            b=(),
        )

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        w, b, u_hat, slope = self._plane(context)
        bend = torch.tanh((x * w).sum(-1) + b)
        return x + bend.unsqueeze(-1) * u_hat, torch.log1p(slope * (1 - bend * bend))

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        # With v = w . x + b, the projection of y onto w is v + slope tanh(v) = w . y + b.
        w, b, u_hat, slope = self._plane(context)
        bend = torch.tanh(solve((y * w).sum(-1) + b, slope))
        return y - bend.unsqueeze(-1) * u_hat, -torch.log1p(slope * (1 - bend * bend))

    def _plane(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""The parameters w, b, :math:`\hat u`, and :math:`w \cdot \hat u > -1`."""
        w, u, b = self.params(context)
        free = (w * u).sum(-1)
        slope = elu(free, 1 - MARGIN)
        norm = (w * w).sum(-1).clamp_min(torch.finfo(w.dtype).tiny)
        return w, b, u + ((slope - free) / norm).unsqueeze(-1) * w, slope


def solve(t: Tensor, c: Tensor) -> Tensor:
    """The root v of g(v) = v + c tanh(v) - t, for c > -1, differentiable in t and c.

    The map is odd, so take t >= 0. There g is concave for c > 0 and convex for c < 0, and
    between 0 <= tanh(v) <= min(v, 1) the root has a bound on the side from which Newton's
    iteration runs monotonically into it: no bracket and no damping is needed.
    """
    with torch.no_grad():
        size = t.abs()
        steep, shifted = size / (1 + c), size - c
        v = torch.where(c > 0, torch.maximum(steep, shifted), torch.minimum(steep, shifted))
        tolerance = 4 * torch.finfo(v.dtype).eps
        for _ in range(MAX_NEWTON):
            bend = torch.tanh(v)
            step = (v + c * bend - size) / (1 + c * (1 - bend * bend))
            v = v - step
            if bool((step.abs() <= tolerance * (1 + v)).all()):
                break
        v = torch.copysign(v, t)
        bend = torch.tanh(v)
        gradient = 1 + c * (1 - bend * bend)
    # One more step, now recorded: its derivatives are those of the implicit function theorem.
    return v - (v + c * bend - t) / gradient
