"""Bijections that torch lacks: to Cholesky factors, to positive definite matrices, to a circle.

Its own to the simplex ends in NaN far out.
"""

import math
from typing import Any

import torch
from pyro.distributions import Distribution, ImproperUniform
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, Transform, VonMises, biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import StickBreakingTransform
from torch.nn.functional import logsigmoid

__all__ = ["Bijected", "Factors", "Matrices", "Reached", "Sticks", "base_of", "support_of"]


class Factors(Transform):
    r"""From :math:`v \in R^{n(n+1)/2}` to lower triangular matrices of positive diagonal.

    .. math:: L_{ij} = v_{k(i,j)} \;\; (j < i), \qquad L_{ii} = e^{v_{k(i,i)}},

    with the numbers of a row side by side; the log-determinant is :math:`\sum_i \log L_{ii}`.
    Values are of shape ``(*, n, n)``.
    """

    bijective = True
    domain = constraints.real_vector
    codomain: Constraint = constraints.lower_cholesky

    def _call(self, x: Tensor) -> Tensor:
        n = _rows(x.shape[-1])
        i, j = torch.arange(n, device=x.device).unsqueeze(-1), torch.arange(n, device=x.device)
        square = x[..., i * (i + 1) // 2 + torch.minimum(i, j)]
        return torch.where(i > j, square, 0.0) + torch.where(i == j, square.exp(), 0.0)

    def _inverse(self, y: Tensor) -> Tensor:
        i, j = torch.tril_indices(*y.shape[-2:], device=y.device)
        entries = y[..., i, j]
        return torch.where(i == j, torch.where(i == j, entries, 1.0).log(), entries)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return y.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def forward_shape(self, shape: Any) -> torch.Size:
        n = _rows(shape[-1])
        return torch.Size((*shape[:-1], n, n))

    def inverse_shape(self, shape: Any) -> torch.Size:
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1) // 2))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)


class Matrices(Factors):
    r"""From :math:`v \in R^{n(n+1)/2}` to positive definite matrices, :math:`S = L L^\top`.

    The Jacobian is that of the lower triangle of S, by which densities of symmetric matrices are
    measured: L is :class:`Factors`' and its log-determinant is joined by that of L to S,

    .. math:: n \log 2 + \sum_{i=1}^n (n + 1 - i) \log L_{ii}.
    """

    codomain = constraints.positive_definite

    def _call(self, x: Tensor) -> Tensor:
        factor = super()._call(x)
        product = factor @ factor.mT
        return (product + product.mT) / 2

    def _inverse(self, y: Tensor) -> Tensor:
        return super()._inverse(torch.linalg.cholesky(y))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        n = y.shape[-1]
        i = torch.arange(1, n + 1, dtype=x.dtype, device=x.device)
        log_diagonal = x[..., (i * (i + 1) / 2).long() - 1]
        return n * math.log(2.0) + ((n + 2 - i) * log_diagonal).sum(-1)


def _rows(count: int) -> int:
    """The rows of a triangle of so many numbers."""
    return (math.isqrt(8 * count + 1) - 1) // 2


class Sticks(StickBreakingTransform):
    r"""The same as torch's, to the simplex, with numbers and gradients however far out x is.

    With :math:`t_k = x_k - \log(n - k)` for :math:`k = 0, \dots, n - 1` and s the sigmoid,

    .. math:: y_k = s(t_k) \prod_{j < k} s(-t_j), \qquad
        \log \det = \sum_k \Bigl[\log s(t_k) + \log s(-t_k) + \sum_{j < k} \log s(-t_j)\Bigr].

    A y that is no number any more is the smallest that is one, since priors take logarithms.
    """

    def _call(self, x: Tensor) -> Tensor:
        y: Tensor = super()._call(x)
        return y.clamp_min(torch.finfo(y.dtype).tiny)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        n = x.shape[-1]
        t = x - (n - torch.arange(n, dtype=x.dtype, device=x.device)).log()
        broken, left = logsigmoid(t), logsigmoid(-t)
        return (broken + left.cumsum(-1)).sum(-1)


class Reached(Constraint):
    """A support, with a bijection to it.

    Arguments:
        support: The support.
        transform: The bijection.
    """

    def __init__(self, support: Constraint, transform: Transform) -> None:
        self.support, self.transform = support, transform
        super().__init__()

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """The dimensions of one value."""
        return int(self.support.event_dim)

    def check(self, value: Tensor) -> Tensor:
        """Whether values are in the support."""
        inside: Tensor = self.support.check(value)
        return inside

    def __str__(self) -> str:
        return str(self.support)

    __repr__ = __str__


biject_to.register(Reached, lambda reached: reached.transform)

LACKING = (
    (constraints.simplex, Sticks),
    (constraints.lower_cholesky, Factors),
    (constraints.positive_definite, Matrices),
)


def base_of(fn: Any) -> Any:
    """A distribution without the masks and the event dimensions that were put around it."""
    while isinstance(fn, Independent | MaskedDistribution):
        fn = fn.base_dist
    return fn


def support_of(fn: Any) -> Constraint:
    r"""The support of a site's distribution, with a bijection to it where there is one.

    Torch knows none to matrices of n(n+1)/2 free numbers, and its own to the simplex has NaN for
    gradients far out. It gives the whole line for ``VonMises``,
    of which the density repeats itself, so that it could not be normalized: a draw of it lies in
    :math:`(-\pi, \pi)`.
    """
    found = _in_place_of(fn)
    support: Constraint = fn.support if found is None else found
    return support


def _in_place_of(fn: Any) -> Constraint | None:
    """What to say in place of a distribution's own support."""
    extra, inner = 0, fn.support
    while isinstance(inner, constraints.independent):
        extra, inner = extra + inner.reinterpreted_batch_ndims, inner.base_constraint
    if isinstance(base_of(fn), VonMises):
        found: Constraint = constraints.interval(-math.pi, math.pi)
    else:
        made = [make for known, make in LACKING if isinstance(inner, type(known))]
        if not made:
            return None
        found = Reached(inner, made[0]())
    return constraints.independent(found, extra) if extra else found


class Bijected(Messenger):
    """Leaves of the distribution of latent sites the shapes and :func:`support_of`.

    For a run by which a guide of Pyro's is set up, which asks torch for bijections.
    """

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or not isinstance(fn, Distribution) or not hasattr(fn, "support"):
            return
        support = _in_place_of(fn)
        if support is not None:
            msg["fn"] = ImproperUniform(support, fn.batch_shape, fn.event_shape)
