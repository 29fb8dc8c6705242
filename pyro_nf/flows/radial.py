"""Radial flows."""

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import elu, normalize, softplus

from pyro_nf.checks import whole
from pyro_nf.flows.flow import MANY, Flow
from pyro_nf.flows.formula import register
from pyro_nf.flows.nets import Params

__all__ = ["Radial"]

MARGIN = 1e-3  # beta / alpha stays above -1 + MARGIN, so that rounding cannot close the gap


@register("radial")
class Radial(Flow):
    r"""Radial flows: space is stretched around one centre, K times.

    .. math::
        y = x + \beta h\, (x - c), \qquad h = \frac{1}{\alpha + r}, \quad r = \|x - c\|

    .. math::
        \log \det = (D - 1) \log(1 + \beta h) + \log(1 + \alpha \beta h^2)

    It is invertible for :math:`\alpha > 0` and :math:`\beta > -\alpha`, which hold by
    :math:`\alpha = \mathrm{softplus}(a)` and :math:`\beta = \alpha\, m(b)`, with
    :math:`m(b) = \max(b, 0) + (1 - 10^{-3}) \min(e^b - 1, 0)`; :math:`b = 0` is the identity. The
    distance of y from the centre is :math:`s = r (1 + \beta / (\alpha + r))`, so r solves
    :math:`r^2 + (\alpha + \beta - s) r - \alpha s = 0`.

    References:
        Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015)
        https://arxiv.org/abs/1505.05770

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context on which the centre, a and b depend.
        layers: The number K of centres, in one module; ``"radial*8"`` makes one, too.

    Example:
        >>> flow = Radial(3, layers=4)
        >>> x = torch.randn(5, 3)
        >>> y, log_det = flow.forward_and_log_det(x)
        >>> torch.allclose(flow.inverse_and_log_det(y)[0], x, atol=1e-5)
        True
    """

    def __init__(self, dim: int, context_dim: int = 0, layers: int = 1) -> None:
        super().__init__(dim, context_dim)
        self.layers = whole("layers", layers)
        # Centres lie among the samples, whose norm is near sqrt(D), and so does the reach alpha.
        self.params = Params(
            context_dim,
            centre=torch.randn(layers, dim),
            a=torch.full((layers,), math.sqrt(dim)),
            b=(layers,),
        )

    @property
    def caveat(self) -> str:
        if self.dim < MANY:
            return ""
        return f"in {self.dim} dimensions all draws are nearly as far from a centre of radial"

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        balls = self._balls(context)
        y, h, _ = self._pulled(x, *balls)
        return y, self._log_det(balls[1], balls[2], h)

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""See :meth:`Flow.forward_and_score`; with :math:`J = a I + (e - a) n n^\top`.

        .. math::
            J^{-\top} (s - g n) = \frac{s}{a}
            + \Bigl(n \cdot s \Bigl(\frac{1}{e} - \frac{1}{a}\Bigr) - \frac{g}{e}\Bigr) n,
            \qquad n = \frac{x - c}{r}

        .. math::
            a = 1 + \beta h, \quad e = 1 + \alpha \beta h^2, \quad
            g = -\beta h^2 \Bigl(\frac{D - 1}{a} + \frac{2 \alpha h}{e}\Bigr)
        """
        _, alpha, beta = balls = self._balls(context)
        y, h, aways = self._pulled(x, *balls)
        with torch.no_grad():
            a, e = 1 + beta * h, 1 + alpha * beta * h * h
            g = -beta * h * h * ((self.dim - 1) / a + 2 * alpha * h / e)
            for k, away in enumerate(aways):
                n = normalize(away, dim=-1)
                along = (n * score).sum(-1) * (1 / e - 1 / a)[..., k] - (g / e)[..., k]
                score = score / a[..., k, None] + along.unsqueeze(-1) * n
        return y, self._log_det(alpha, beta, h), score

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        centre, alpha, beta = self._balls(context)
        reaches = []
        for k in reversed(range(self.layers)):
            away = y - centre[..., k, :]
            h = 1 / (alpha[..., k] + radius(vector_norm(away, dim=-1), alpha[..., k], beta[..., k]))
            y = centre[..., k, :] + away / (1 + beta[..., k] * h).unsqueeze(-1)
            reaches.append(h)
        return y, -self._log_det(alpha, beta, torch.stack(reaches[::-1], -1))

    def _pulled(
        self, x: Tensor, centre: Tensor, alpha: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The value, all h of shape ``(*, K)``, and the ways from the centres."""
        reaches, aways = [], []
        for k in range(self.layers):
            away = x - centre[..., k, :]
            h = 1 / (alpha[..., k] + vector_norm(away, dim=-1))
            x = x + (beta[..., k] * h).unsqueeze(-1) * away
            reaches.append(h)
            aways.append(away)
        return x, torch.stack(reaches, -1), aways

    def _balls(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        r"""The centres, :math:`\alpha > 0` and :math:`\beta > -\alpha`, the last two ``(*, K)``."""
        centre, a, b = self.params(context)
        # The centre is singular at alpha = 0, to which softplus underflows.
        alpha = softplus(a) + torch.finfo(a.dtype).eps
        return centre, alpha, alpha * elu(b, 1 - MARGIN)

    def _log_det(self, alpha: Tensor, beta: Tensor, h: Tensor) -> Tensor:
        """The log-determinants of all layers, summed; all arguments of shape ``(*, K)``."""
        pull = beta * h
        parts = (self.dim - 1) * torch.log1p(pull) + torch.log1p(pull * (alpha * h))
        return parts.sum(-1)


def radius(s: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The r >= 0 which the flow takes to the distance s from the centre."""
    half = (s - alpha - beta) / 2
    root = torch.sqrt(half * half + alpha * s)
    # The positive root half + root; where that cancels, as alpha s / (root - half).
    return torch.where(half > 0, half + root, alpha * s / (root + half.abs()))
