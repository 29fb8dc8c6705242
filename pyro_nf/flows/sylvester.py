"""Sylvester flows."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import elu, normalize

from pyro_nf.checks import whole
from pyro_nf.flows.flow import MANY, Flow
from pyro_nf.flows.formula import register
from pyro_nf.flows.inverses import root, solved, times
from pyro_nf.flows.nets import SMALL, Params

__all__ = ["Sylvester"]

MARGIN = 1e-3  # r_ii r~_ii stays above -1 + MARGIN, so that rounding cannot close the gap


@register("sylvester")
class Sylvester(Flow):
    r"""Sylvester flows: space is stretched across M soft planes at once, K times.

    .. math::
        y = x + Q R \tanh(v), \qquad v = \tilde R Q^\top x + b, \qquad
        \log \det = \sum_i \log(1 + r_{ii} \tilde r_{ii} (1 - \tanh^2 v_i))

    The M columns of Q are orthonormal, R and :math:`\tilde R` upper triangular. It is invertible
    for :math:`r_{ii} \tilde r_{ii} > -1`, which holds by
    :math:`\tilde r_{ii} = e^{t_i}, r_{ii} = m(a_i) e^{-t_i}`, with
    :math:`m(a) = \max(a, 0) + (1 - 10^{-3}) \min(e^a - 1, 0)`; :math:`R = 0` is the identity.

    Q is the first columns of a product of M Householder reflections along unit vectors, the
    columns of V, in closed form: with E the first columns of the identity,

    .. math::
        Q = E - V S^{-1} V^\top E, \qquad
        S = \tfrac12 I + \mathrm{the\ strictly\ upper\ triangle\ of\ } V^\top V

    References:
        Sylvester Normalizing Flows for Variational Inference
        (van den Berg, Hasenclever, Tomczak and Welling, 2018) https://arxiv.org/abs/1803.05649

        A Storage-Efficient WY Representation for Products of Householder Transformations
        (Schreiber and Van Loan, 1989)

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context on which Q, R, :math:`\tilde R` and b depend.
        rank: The number M of planes; D if that is smaller.
        layers: The number K of layers, in one module; ``"sylvester*4"`` makes one, too.

    Example:
        >>> flow = Sylvester(3, layers=4)
        >>> x = torch.randn(5, 3)
        >>> y, log_det = flow.forward_and_log_det(x)
        >>> torch.allclose(flow.inverse_and_log_det(y)[0], x, atol=1e-5)
        True
    """

    def __init__(self, dim: int, context_dim: int = 0, rank: int = 8, layers: int = 1) -> None:
        super().__init__(dim, context_dim)
        self.layers = whole("layers", layers)
        m = self.rank = min(whole("rank", rank), dim)
        # The reflections by which a QR decomposition arrives at a random Q.
        below = torch.geqrf(torch.randn(layers, dim, m))[0].tril(-1)
        self.params = Params(
            context_dim,
            axes=below + torch.eye(dim, m),
            # R above the diagonal, R~ below it, and a on it.
            both=SMALL * torch.randn(layers, m, m) / math.sqrt(m),
            steep=torch.zeros(layers, m),
            b=(layers, m),
        )

    @property
    def caveat(self) -> str:
        bent = self.layers * self.rank
        if self.dim < MANY or 4 * bent > self.dim:
            return ""
        return f"sylvester*{self.layers} bends {bent} directions of {self.dim}"

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        planes = self._planes(context)
        y, bends = bent(x, planes)
        return y, log_det(planes.slope, bends)

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""See :meth:`Flow.forward_and_score`; with :math:`J = I + A H B`, H diagonal.

        .. math::
            J^{-\top} (s - B^\top g) = s - B^\top (g + H w), \qquad
            (I + C^\top H) w = A^\top s - C^\top g

        .. math::
            A = Q R, \quad B = \tilde R Q^\top, \quad C = B A = \tilde R R, \quad
            H_{ii} = h' = 1 - \tanh^2 v_i, \quad g_i = \frac{h'' c_{ii}}{1 + h' c_{ii}}
        """
        planes = self._planes(context)
        y, bends = bent(x, planes)
        with torch.no_grad():
            first = 1 - bends * bends
            g = -2 * bends * first * planes.slope / (1 + first * planes.slope)
            corner = planes.corner.mT
            eye = torch.eye(self.rank, dtype=x.dtype, device=x.device)
            inner = eye + corner * first.unsqueeze(-2)
            for k in range(self.layers):
                along = times(planes.out[..., k, :, :].mT, score)
                rest = along - times(corner[..., k, :, :], g[..., k, :])
                w = solved(inner[..., k, :, :], rest)
                by = g[..., k, :] + first[..., k, :] * w
                score = score - times(planes.into[..., k, :, :].mT, by)
        return y, log_det(planes.slope, bends), score

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        # R~ Q' y + b = v + C tanh(v), of which the last row knows one v, the one above two.
        planes = self._planes(context)
        found = []
        for k in reversed(range(self.layers)):
            t = times(planes.into[..., k, :, :], y) + planes.b[..., k, :]
            bend = t[..., :0]
            for i in reversed(range(self.rank)):
                rest = (planes.corner[..., k, i, i + 1 :] * bend).sum(-1)
                v = root(t[..., i] - rest, planes.slope[..., k, i])
                bend = torch.cat([torch.tanh(v).unsqueeze(-1), bend], -1)
            y = y - times(planes.out[..., k, :, :], bend)
            found.append(bend)
        return y, -log_det(planes.slope, torch.stack(found[::-1], -2))

    def _planes(self, context: Tensor | None) -> "Planes":
        axes, both, steep, b = self.params(context)
        q = orthonormal(axes)
        slope = elu(both.diagonal(dim1=-2, dim2=-1), 1 - MARGIN)
        size = steep.exp()
        r = both.triu(1) + torch.diag_embed(slope / size)
        tilde = both.tril(-1).mT + torch.diag_embed(size)
        return Planes(tilde @ q.mT, b, q @ r, tilde @ r, slope)


class Planes(NamedTuple):
    r"""What the layers use: :math:`B = \tilde R Q^\top`, b, A = Q R, C = B A and its diagonal.

    Their shapes are ``(*, K, M, D)``, ``(*, K, M)``, ``(*, K, D, M)``, ``(*, K, M, M)`` and
    ``(*, K, M)``.
    """

    into: Tensor
    b: Tensor
    out: Tensor
    corner: Tensor
    slope: Tensor


def orthonormal(axes: Tensor) -> Tensor:
    """The first columns of the product of the reflections along the columns, ``(*, D, M)``."""
    v = normalize(axes, dim=-2)
    dim, m = v.shape[-2:]
    eye = torch.eye(dim, m, dtype=v.dtype, device=v.device)
    s = (v.mT @ v).triu(1) + eye[:m] / 2
    return eye - v @ torch.linalg.solve_triangular(s, v[..., :m, :].mT, upper=True)


def bent(x: Tensor, planes: Planes) -> tuple[Tensor, Tensor]:
    """The value of all layers at x, and their bends tanh(v), of shape ``(*, K, M)``."""
    bends = []
    for into, b, out in zip(
        planes.into.unbind(-3), planes.b.unbind(-2), planes.out.unbind(-3), strict=True
    ):
        bend = torch.tanh(times(into, x) + b)
        x = x + times(out, bend)
        bends.append(bend)
    return x, torch.stack(bends, -2)


def log_det(slope: Tensor, bend: Tensor) -> Tensor:
    """The log-determinants of all layers, summed; both arguments of shape ``(*, K, M)``."""
    return torch.log1p(slope * (1 - bend * bend)).sum((-2, -1))
