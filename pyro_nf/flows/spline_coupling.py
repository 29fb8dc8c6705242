"""Spline couplings."""

from collections.abc import Sequence
from numbers import Real
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import elu, hardtanh, pad, softshrink

from pyro_nf.checks import whole
from pyro_nf.flows.coupling import Coupling, Mix
from pyro_nf.flows.formula import register

__all__ = ["SplineCoupling"]

LEAST = 1e-3  # share of the interval that each bin has, and slope that each knot has, at least
MAX_BINS = 50
MILD = 0.25  # of the network's numbers: all knots of a spline move at each step of an optimizer


@register("spline_coupling")
class SplineCoupling(Coupling):
    r"""A spline coupling: one half goes through splines whose knots a network of the other gives.

    The spline g maps [-B, B] onto itself and is the identity outside. Between two of its knots
    :math:`(x_k, y_k)`, of slopes :math:`d_k > 0`, it is a monotone rational-quadratic function:

    .. math::
        g(x) = y_k + h \frac{s t^2 + d_k t (1 - t)}{r}, \qquad
        g'(x) = s^2 \frac{d_{k+1} t^2 + 2 s t (1 - t) + d_k (1 - t)^2}{r^2}

    .. math::
        t = \frac{x - x_k}{w}, \quad r = s + (d_k + d_{k+1} - 2 s) t (1 - t), \quad
        s = \frac{h}{w}, \quad w = x_{k+1} - x_k, \quad h = y_{k+1} - y_k

    Widths and heights are softmax shares of the interval, slopes are 1 + elu of a number and 1 at
    both ends: zeros from the network are the identity. See :class:`~pyro_nf.flows.Coupling`
    for the mixings.

    References:
        Neural Spline Flows (Durkan, Bekasov, Murray and Papamakarios, 2019)
        https://arxiv.org/abs/1906.04032

    Arguments:
        dim: The dimension :math:`D`.
        context_dim: The size of a context which the network sees too.
        hidden: The sizes of the network's hidden layers.
        bins: The number of bins.
        bound: The bound B.
        flip: Whether the first half moves, not the second.
        mix: The mixing, ``"riffle"``, ``"permutation"`` or ``"orthogonal"``; None for the plain
            halves.
        after: The coupling before this one in a stack, see :class:`~pyro_nf.flows.Coupling`.
        kinks: The spread of the network's first biases, see :class:`~pyro_nf.flows.MLP`.

    Example:
        >>> flow = SplineCoupling(4)
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
        bins: int = 8,
        bound: float = 4.0,
        flip: bool = False,
        mix: Mix | None = "riffle",
        after: Coupling | None = None,
        kinks: float = 0.0,
    ) -> None:
        bins = whole("bins", bins, least=2, most=MAX_BINS)
        if not (isinstance(bound, Real) and 0 < bound < float("inf")):
            raise ValueError(f"bound must be a positive number, got {bound!r}")
        super().__init__(dim, context_dim, 3 * bins - 1, hidden, flip, mix, after, kinks)
        self.bins: int = bins
        self.bound: float = float(bound)
        # As buffers, so that a traced step sees that pull begins with what move has computed.
        self.register_buffer("places", torch.arange(bins), persistent=False)
        self.register_buffer("before", torch.ones(bins, bins).triu(1), persistent=False)

    def move(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        inside = hardtanh(x, -self.bound, self.bound)
        x_k, y_k, w, h, left, right = self._bin(inside, theta, 0)
        t, s = (inside - x_k) / w, h / w
        arc, r, log_slope = slope(t, s, left, right)
        # At both ends the spline continues with a slope of one.
        outside = softshrink(x, self.bound)
        return y_k + h * (s * t * t + left * arc) / r + outside, log_slope

    def back(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        inside = hardtanh(y, -self.bound, self.bound)
        x_k, y_k, w, h, left, right = self._bin(inside, theta, 1)
        s, up = h / w, (inside - y_k) / h
        # The root t of (s - b) t^2 + b t - c = 0, in the form that does not cancel. Its
        # discriminant is positive but for rounding.
        c = s * up
        b = left - (left + right - 2 * s) * up
        root = torch.sqrt((b * b + 4 * (s - b) * c).clamp_min(torch.finfo(b.dtype).tiny))
        plus = b >= 0
        t = torch.where(plus, 2 * c, root - b) / torch.where(plus, b + root, 2 * (s - b))
        return x_k + w * t + softshrink(y, self.bound), -slope(t, s, left, right)[2]

    def pull(self, x: Tensor, theta: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        x, theta = x.detach().requires_grad_(), theta.detach().requires_grad_()
        with torch.enable_grad():
            y, log_slope = self.move(x, theta)
            assert log_slope is not None  # a spline has one
            (bend,) = torch.autograd.grad(log_slope.sum(), x, retain_graph=True)
            of_y = ((score - bend) / log_slope.exp()).detach()
            value = (log_slope + of_y * y).sum()
        return of_y, torch.autograd.grad(value, theta)[0]

    @property
    def carries_score(self) -> bool:
        """Not while TorchScript traces, as for JitTrace_ELBO: it follows no gradient inside."""
        return not torch.jit.is_tracing()  # type: ignore[attr-defined]  # it is public

    def _bin(self, at: Tensor, theta: Tensor, side: int) -> tuple[Tensor, ...]:
        r"""The bin where x (side 0) or y (side 1) lies: :math:`x_k, y_k, w, h, d_k, d_{k+1}`."""
        n, length = self.bins, 2 * self.bound
        numbers = (MILD * theta).unflatten(-1, (-1, 3 * n - 1))
        shares, bends = numbers.split([2 * n, n - 1], -1)
        sizes = shares.unflatten(-1, (2, n)).softmax(-1) * (length * (1 - n * LEAST))
        sizes = sizes + length * LEAST
        starts = sizes @ cast(Tensor, self.before) - self.bound
        knots = (1 + elu(bends, 1 - LEAST)).unsqueeze(-2)
        ends = pad(knots, (1, 0), value=1.0), pad(knots, (0, 1), value=1.0)
        table = torch.cat([starts, sizes, *ends], -2)
        # Indexing costs a scatter in the backward pass; a product with zeros and ones is quicker.
        passed = at.unsqueeze(-1) >= starts[..., side, 1:]
        here = passed.sum(-1, keepdim=True) == self.places
        return (table * here.unsqueeze(-2)).sum(-1).unbind(-1)


def slope(t: Tensor, s: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """t (1 - t), the denominator r, and the logarithm of the slope."""
    rest = 1 - t
    arc = t * rest
    r = s + (left + right - 2 * s) * arc
    top = right * t * t + 2 * s * arc + left * rest * rest
    return arc, r, torch.log(top) + 2 * torch.log(s / r)
