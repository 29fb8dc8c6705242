"""Planar flows."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import celu

from pyro_nf.checks import whole
from pyro_nf.flows.flow import MANY, Flow
from pyro_nf.flows.formula import register
from pyro_nf.flows.inverses import root
from pyro_nf.flows.nets import SMALL, Params

__all__ = ["Planar"]

MARGIN = 1e-3  # w . u_hat stays above -1 + MARGIN, so that rounding cannot close the gap


@register("planar")
class Planar(Flow):
    r"""Planar flows: space is stretched along one direction, across one soft plane, K times.

    .. math::
        y = x + \hat u \tanh(w \cdot x + b), \qquad
        \log \det = \log(1 + (w \cdot \hat u) (1 - \tanh^2(w \cdot x + b)))

    It is invertible if and only if :math:`w \cdot \hat u > -1`. The paper projects :math:`u`
    onto that half-space along :math:`w`; here with a CELU, which changes nothing where
    nothing needs to be changed, so that :math:`u = 0` is the identity and :math:`w = 0` is safe.
    The paper's softplus moves u even where the constraint holds, so that u = 0 is not the identity,
    and divides by the norm of w:

    .. math::
        \hat u = u + (m(w \cdot u) - w \cdot u) \frac{w}{\|w\|^2}, \qquad
        m(a) = \max(a, 0) + \kappa \min(e^{a / \kappa} - 1, 0), \quad \kappa = 1 - 10^{-3}

    References:
        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015)
        https://arxiv.org/abs/1505.05770

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context on which u, w and b depend.
        layers: The number K of planes. A stack in one module, which ``"planar*8"`` makes too, is
            cheaper than K modules: what depends on parameters alone is computed for all at once.

    Example:
        >>> flow = Planar(3, layers=4)
        >>> x = torch.randn(5, 3)
        >>> y, log_det = flow.forward_and_log_det(x)
        >>> torch.allclose(flow.inverse_and_log_det(y)[0], x, atol=1e-5)
        True
    """

    def __init__(self, dim: int, context_dim: int = 0, layers: int = 1) -> None:
        super().__init__(dim, context_dim)
        self.layers = whole("layers", layers)
        # Planes of unit steepness in all directions; u alone makes the start an identity.
        self.params = Params(
            context_dim,
            w=torch.randn(layers, dim) / math.sqrt(dim),
            u=SMALL * torch.randn(layers, dim) / math.sqrt(dim),
            b=(layers,),
        )

    @property
    def caveat(self) -> str:
        if self.dim < MANY or 4 * self.layers > self.dim:
            return ""
        return f"planar*{self.layers} bends {self.layers} directions of {self.dim}"

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        planes = self._planes(context)
        y, bends = bent(x, planes)
        return y, log_det(planes.slope, bends)

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""See :meth:`Flow.forward_and_score`; with :math:`J = I + h' \hat u w^\top`.

        .. math::
            J^{-\top} (s - g w) = s - \Bigl(g + h' \frac{\hat u \cdot s - g c}{1 + h' c}\Bigr) w,
            \qquad g = \frac{h'' c}{1 + h' c}, \quad c = w \cdot \hat u
        """
        planes = self._planes(context)
        y, bends = bent(x, planes)
        with torch.no_grad():
            first = 1 - bends * bends
            share = first / (1 + first * planes.slope)
            g = -2 * bends * share * planes.slope
            # 1 - c h' / (1 + c h') = 1 / (1 + c h') leaves g once.
            rest = g * (1 - share * planes.slope)
            for k in range(self.layers):
                along = (planes.u_hat[..., k, :] * score).sum(-1)
                by = rest[..., k] + share[..., k] * along
                score = score - by.unsqueeze(-1) * planes.w[..., k, :]
        return y, log_det(planes.slope, bends), score

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        # With v = w . x + b, the projection of y onto w is v + slope tanh(v) = w . y + b.
        w, b, u_hat, slope = self._planes(context)
        bends = []
        for k in reversed(range(self.layers)):
            t = (y * w[..., k, :]).sum(-1) + b[..., k]
            bend = torch.tanh(root(t, slope[..., k]))
            y = y - bend.unsqueeze(-1) * u_hat[..., k, :]
            bends.append(bend)
        return y, -log_det(slope, torch.stack(bends[::-1], -1))

    def _planes(self, context: Tensor | None) -> "Planes":
        w, u, b = self.params(context)
        free = (w * u).sum(-1)
        slope = celu(free, 1 - MARGIN)
        # The backward pass divides by the square of this, which must not underflow.
        norm = (w * w).sum(-1).clamp_min(math.sqrt(torch.finfo(w.dtype).tiny))
        return Planes(w, b, u + ((slope - free) / norm).unsqueeze(-1) * w, slope)


class Planes(NamedTuple):
    r"""The parameters w and b, :math:`\hat u`, and the slopes :math:`w \cdot \hat u > -1`.

    Their shapes are ``(*, K, D)``, ``(*, K)``, ``(*, K, D)`` and ``(*, K)``.
    """

    w: Tensor
    b: Tensor
    u_hat: Tensor
    slope: Tensor


def bent(x: Tensor, planes: Planes) -> tuple[Tensor, Tensor]:
    """The value of all layers at x, and their bends tanh(w . x + b), of shape ``(*, K)``."""
    bends = []
    for w, b, u_hat in zip(
        planes.w.unbind(-2), planes.b.unbind(-1), planes.u_hat.unbind(-2), strict=True
    ):
        bend = torch.tanh((x * w).sum(-1) + b)
        x = x + bend.unsqueeze(-1) * u_hat
        bends.append(bend)
    return x, torch.stack(bends, -1)


def log_det(slope: Tensor, bend: Tensor) -> Tensor:
    """The log-determinants of all layers, summed; both arguments of shape ``(*, K)``."""
    return torch.log1p(slope * (1 - bend * bend)).sum(-1)
