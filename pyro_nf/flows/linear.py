"""Linear flows: location and scale, triangular, permutation and Householder layers."""

import math
from typing import cast

import torch
from torch import Tensor
from torch.linalg import vector_norm

from pyro_nf.checks import whole
from pyro_nf.flows.flow import Flow
from pyro_nf.flows.formula import register
from pyro_nf.flows.inverses import solved, times
from pyro_nf.flows.nets import SMALL, Params

__all__ = ["Diag", "Householder", "Permute", "Tril"]

DEAR = 1_000_000  # numbers of a matrix from which it costs more than the rest of most guides


@register("diag")
class Diag(Flow):
    r"""A location and a scale for each coordinate.

    .. math:: y = \mu + e^s x, \qquad \log \det = \sum_i s_i

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context on which the location and the scale depend.

    Example:
        >>> Diag(3).forward_and_log_det(torch.zeros(5, 3))[1].shape
        torch.Size([5])
    """

    elementwise = True

    is_linear = True

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__(dim, context_dim)
        self.params = Params(context_dim, loc=torch.zeros(dim), log_scale=torch.zeros(dim))
        self.params.pace = 1.0  # where a posterior lies follows its features without delay

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.params(context)
        y = loc + log_scale.exp() * x
        return y, log_scale.sum(-1).expand(y.shape[:-1])

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.params(context)
        x = (y - loc) / log_scale.exp()
        return x, -log_scale.sum(-1).expand(x.shape[:-1])

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        loc, log_scale = self.params(context)
        scale = log_scale.exp()
        y = loc + scale * x
        return y, log_scale.sum(-1).expand(y.shape[:-1]), score / scale.detach()


@register("tril")
class Tril(Flow):
    r"""A location and a lower-triangular scale: every normal distribution from a standard one.

    .. math:: y = \mu + L x, \qquad \log \det = \sum_i s_i, \qquad L_{ii} = e^{s_i}

    Arguments:
        dim: The dimension :math:`D`; the layer has :math:`D (D + 3) / 2` parameters.
        context_dim: The size of a context on which the location and the scale depend.

    Example:
        >>> Tril(3).forward_and_log_det(torch.zeros(5, 3))[1].shape
        torch.Size([5])
    """

    is_linear = True

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__(dim, context_dim)
        rows, columns = torch.tril_indices(dim, dim, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        zeros, below = torch.zeros(dim), torch.zeros(len(rows))
        self.params = Params(context_dim, loc=zeros, log_scale=zeros, below=below)

    @property
    def caveat(self) -> str:
        count = len(self.rows)
        return "" if count < DEAR else f"tril trains {count:,} numbers in {self.dim} dimensions"

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        loc, log_scale, tril = self._affine(context)
        y = loc + times(tril, x)
        return y, log_scale.sum(-1).expand(y.shape[:-1])

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        loc, log_scale, tril = self._affine(context)
        x = solved(tril, y - loc)
        return x, -log_scale.sum(-1).expand(x.shape[:-1])

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        loc, log_scale, tril = self._affine(context)
        y = loc + times(tril, x)
        return (
            y,
            log_scale.sum(-1).expand(y.shape[:-1]),
            solved(tril.detach(), score, transposed=True),
        )

    def _affine(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        loc, log_scale, below = self.params(context)
        tril = torch.diag_embed(log_scale.exp())
        tril[..., self.rows, self.columns] = below
        return loc, log_scale, tril


@register("permute")
class Permute(Flow):
    r"""A fixed random permutation of the coordinates.

    .. math:: y_i = x_{\pi(i)}, \qquad \log \det = 0

    Not the identity, but it leaves a standard normal base as it is.

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: Unused: the permutation depends on nothing.

    Example:
        >>> sorted(Permute(3)(torch.tensor([0.0, 1.0, 2.0])).tolist())
        [0.0, 1.0, 2.0]
    """

    is_linear = True

    def __init__(self, dim: int, context_dim: int = 0) -> None:
        super().__init__(dim)
        self.register_buffer("order", torch.randperm(dim))

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return x.index_select(-1, cast(Tensor, self.order)), x.new_zeros(x.shape[:-1])

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return y.index_select(-1, cast(Tensor, self.order).argsort()), y.new_zeros(y.shape[:-1])

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        return *self.forward_and_log_det(x), score.index_select(-1, cast(Tensor, self.order))


@register("householder")
class Householder(Flow):
    r"""Rotations, each the product of two Householder reflections.

    .. math::
        y = H(v_1) H(v_2) \cdots H(v_{2k}) x, \qquad H(v) = I - 2 v v^\top / \|v\|^2,
        \qquad \log \det = 0

    The two vectors of a pair start close to each other, and so the layer near the identity.
    In one dimension it is the identity.

    References:
        Improving Variational Auto-Encoders using Householder Flow (Tomczak and Welling, 2016)
        https://arxiv.org/abs/1611.09630

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context on which the vectors depend.
        pairs: The number of pairs of reflections.

    Example:
        >>> x = torch.randn(5, 3)
        >>> torch.allclose(Householder(3)(x).norm(dim=-1), x.norm(dim=-1))
        True
    """

    is_linear = True

    def __init__(self, dim: int, context_dim: int = 0, pairs: int = 1) -> None:
        super().__init__(dim, context_dim)
        pairs = whole("pairs", pairs)
        first = torch.randn(pairs, 1, dim)
        both = torch.cat([first, first + SMALL * torch.randn(pairs, 1, dim)], 1)
        self.params = Params(context_dim, v=both.reshape(2 * pairs, dim))

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        (v,) = self.params(context)
        for axis in reversed(v.unbind(-2)):
            x = reflect(x, axis)
        return x, x.new_zeros(x.shape[:-1])

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        (v,) = self.params(context)
        for axis in v.unbind(-2):
            y = reflect(y, axis)
        return y, y.new_zeros(y.shape[:-1])

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():  # the inverse of the transpose of a rotation is itself
            score = self.forward_and_log_det(score, context)[0]
        return *self.forward_and_log_det(x, context), score


def reflect(x: Tensor, v: Tensor) -> Tensor:
    """H(v) x; the identity for v = 0."""
    norm = vector_norm(v, dim=-1, keepdim=True)
    unit = v / norm.clamp_min(math.sqrt(torch.finfo(v.dtype).tiny))  # where its square underflows
    return x - 2 * (x * unit).sum(-1, keepdim=True) * unit
